"""The commands that the scripts would run are read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepeyes.settings import Settings


from doctor_world import only

from deepeyes.doctor.cli import examine
from deepeyes.doctor.findings import Level
from deepeyes.doctor.plan import make_plan, parse_command


class TestCommand:
    def test_a_dry_run_is_read_back(self) -> None:
        words = "env CUDA_VISIBLE_DEVICES=0,2 MAX_PIXELS=7 /a/swift rlhf --model m --x 1 2 --flag --beta -0.5 --y=z"
        command = parse_command([*words.split(), "--model", "n"])
        assert command.gpus == (0, 2)
        assert command.environment["MAX_PIXELS"] == "7"
        assert command.options == {"model": ("n",), "x": ("1", "2"), "flag": (), "beta": ("-0.5",), "y": ("z",)}

    def test_the_scripts_say_what_they_would_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_TURNS", "7")
        plan = make_plan("train", ["--learning_rate", "3e-6"])
        assert (plan.train.get("max_turns"), plan.rollout.get("max_turns")) == ("7", "7")
        assert (plan.train.get("learning_rate"), plan.train.get("loss_scale")) == ("3e-6", "default")
        assert len(plan.train.options["reward_funcs"]) >= 4
        (judge,) = make_plan("judge", []).judges
        assert judge.get("port") == "18901"

    def test_a_refused_setting_is_told_in_the_words_of_the_script(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_TURNS", "none")
        finding = examine("train", [], quick=True)[-1]
        assert finding == ("settings", Level.ERROR, "MAX_TURNS=none must be a whole number above 0", "")

    def test_a_refused_setting_of_the_plugin_is_told(self, load_core: Callable[..., Settings]) -> None:
        with pytest.raises(ValueError, match="DEEPEYES_RULES"):
            load_core(DEEPEYES_RULES="strict")
        finding = only(examine("demo", [], quick=True))
        assert finding.level is Level.ERROR
        assert "DEEPEYES_RULES='strict'" in finding.found
