"""A model that is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from doctor_world import only

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.model import check_model
from deepeyes.doctor.plan import Command

if TYPE_CHECKING:
    from pathlib import Path


def check(name: object) -> Finding:
    return only(check_model(Command({}, {"model": (str(name),)}), "MODEL"))


class TestModel:
    @pytest.mark.parametrize(
        ("files", "level", "text"),
        [
            ((), Level.ERROR, "has no config.json"),
            (("config.json",), Level.ERROR, "holds no weights"),
            (("adapter_config.json", "adapter_model.safetensors"), Level.ERROR, "is an adapter"),
            (("config.json", "model-00001-of-00002.safetensors"), Level.OK, ""),
        ],
    )
    def test_a_folder_must_hold_one(self, tmp_path: Path, files: tuple[str, ...], level: Level, text: str) -> None:
        for name in files:
            (tmp_path / name).touch()
        found = check(tmp_path)
        assert found.level is level
        assert text in found.found

    @pytest.mark.parametrize("name", ["Qwen2.5-VL-7B", "a/b/c", "/nowhere/model"])
    def test_a_name_that_is_neither_folder_nor_hub_id_is_an_error(self, name: str) -> None:
        assert check(name).level is Level.ERROR
        assert "OWNER/NAME" in check(name).found

    def test_one_in_the_cache_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("USE_HF", "1")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert check("o/m").level is Level.WARNING
        (tmp_path / "models--o--m").mkdir()
        assert check("o/m").level is Level.OK
