"""The plugin without swift: the same rules, none of the weight, and swift itself left alone."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import plugin_core
import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROBE = """
import sys
import plugin_core
core = plugin_core.load()
print(core.SETTINGS.rules.value, "swift" in sys.modules, "torch" in sys.modules, plugin_core.load() is core)
"""


class TestLoad:
    def test_it_brings_the_rules_and_neither_swift_nor_torch(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PROBE}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["corrected", "False", "False", "True"]
        assert done.stderr == ""

    def test_swift_that_is_there_already_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        swift, orm = ModuleType("swift"), ModuleType("swift.rewards.orm")
        monkeypatch.setitem(sys.modules, "swift", swift)
        monkeypatch.setitem(sys.modules, "swift.rewards.orm", orm)
        monkeypatch.delitem(sys.modules, plugin_core.NAME, raising=False)
        plugin_core.load()
        assert (sys.modules["swift"], sys.modules["swift.rewards.orm"]) == (swift, orm)

    def test_wrong_setting_is_refused_and_can_be_mended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, plugin_core.NAME, raising=False)
        monkeypatch.setenv("DEEPEYES_RULES", "loose")
        with pytest.raises(ValueError, match="DEEPEYES_RULES='loose': expected 'corrected' or 'official'"):
            plugin_core.load()
        monkeypatch.setenv("DEEPEYES_RULES", "official")
        assert plugin_core.load().SETTINGS.rules.value == "official"
        monkeypatch.delitem(sys.modules, plugin_core.NAME)

    def test_missing_plugin_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(plugin_core, "PLUGIN", tmp_path / "deepeyes_plugin.py")
        monkeypatch.delitem(sys.modules, plugin_core.NAME, raising=False)
        with pytest.raises(FileNotFoundError):
            plugin_core.load()
