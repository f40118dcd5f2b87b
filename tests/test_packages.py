"""A Python that lacks what the plugin stands on is told so, with the command that mends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepeyes.packages import PACKAGES, require_packages

ROOT = Path(__file__).resolve().parent.parent


class TestRequirePackages:
    def test_all_there_says_nothing(self) -> None:
        require_packages()

    def test_missing_ones_are_named_with_the_command(self) -> None:
        with pytest.raises(ImportError, match=r"needs a-package, b-package.*pip install a-package b-package"):
            require_packages({"a-package": "no_such_a", **PACKAGES, "b-package": "no_such_b"})

    def test_package_is_asked_before_anything_else_fails(self) -> None:
        program = (
            "import sys; from importlib.machinery import PathFinder; real = PathFinder.find_spec\n"
            "PathFinder.find_spec = lambda name, *rest: None if name == 'json_repair' else real(name, *rest)\n"
            "import deepeyes.calls"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "ImportError: DeepEyes needs json-repair" in done.stderr
        assert "pip install json-repair" in done.stderr
