"""What the plugin stands on beyond ms-swift, and what to do where a package is missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Module by the name under which pip knows it; ms-swift brings none of these along.
PACKAGES = {
    "cachetools": "cachetools",
    "json-repair": "json_repair",
    "math-verify": "math_verify",
    "pydantic-settings": "pydantic_settings",
}


def require_packages(packages: Mapping[str, str] = PACKAGES) -> None:
    """Looks whether all packages are there.

    Args:
        packages: Module by the name under which pip knows it.

    Raises:
        ImportError: Some are not; it names them, and the command that installs them.
    """
    missing = [name for name, module in packages.items() if find_spec(module) is None]
    if missing:
        names = " ".join(missing)
        raise ImportError(
            f"DeepEyes needs {', '.join(missing)}, which this Python does not have; run: pip install {names}"
        )
