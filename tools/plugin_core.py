"""The plugin without ms-swift: its settings, its judge client and its rules, in a third of a second.

`import deepeyes_plugin` brings in all of ms-swift, PyTorch and transformers, which takes ten seconds or more. The data
check and the preflight need nothing of these: here the module is loaded with stand-ins for what it takes from swift.
What registers with swift registers with a stand-in, so this copy can't train.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PLUGIN = Path(__file__).resolve().parent.parent / "deepeyes_plugin.py"
NAME = "deepeyes_plugin_core"


def load() -> ModuleType:
    """Returns the plugin's module under a name of its own; a second call returns the same module.

    Raises:
        deepeyes_plugin.SettingsError: A `DEEPEYES_*` variable has a value that is not allowed. It is a `ValueError`.
    """
    if NAME in sys.modules:
        return sys.modules[NAME]
    spec = importlib.util.spec_from_file_location(NAME, PLUGIN)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{PLUGIN} is missing; is this a whole checkout?")
    module = importlib.util.module_from_spec(spec)
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_swift(name)}
    finder = _StandIns()
    sys.meta_path.insert(0, finder)
    sys.modules[NAME] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[NAME]
        raise
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _is_swift(name)]:
            del sys.modules[name]
        sys.modules.update(real)
    return module


def _is_swift(name: str) -> bool:
    return name.partition(".")[0] == "swift"


class _StandIns:
    """Finds every module of swift, with the classes and registries that are asked for."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if _is_swift(name) else None  # type: ignore[arg-type]  # a loader

    def create_module(self, _spec: ModuleSpec) -> None:
        """Leaves it to Python."""

    def exec_module(self, module: ModuleType) -> None:
        def stand_in(name: str) -> Any:
            if name == "get_logger":
                return _quiet_logger
            if name in ("orms", "multi_turns"):  # the registries
                return {}
            if name[0].isupper():
                return type(name, (), {})
            raise AttributeError(name)  # Python then looks for a module of that name

        vars(module)["__getattr__"] = stand_in


def _quiet_logger() -> logging.Logger:
    """Returns a logger for what only training is to hear, such as what this version of swift can't do."""
    logger = logging.getLogger(NAME)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
