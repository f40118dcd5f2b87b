"""Cases that lie beside a checkout, in shared/; not every checkout has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDERS = [folder / "shared" for folder in Path(__file__).resolve().parents[1:4]]


def handed(name: str) -> list[Any]:
    """Gives the lines of a file of shared/ as parameters of a test; one that is skipped where there is no such file."""
    path = next((folder / name for folder in FOLDERS if (folder / name).exists()), None)
    if path is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"shared/{name} is not beside this checkout"))]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [pytest.param(json.loads(line), id=str(number)) for number, line in enumerate(lines, 1)]
