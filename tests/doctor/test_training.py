"""Numbers and options with which training can't learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from doctor_world import only

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import Command, Plan
from deepeyes.doctor.room import check_checkpoints
from deepeyes.doctor.training import check_training

if TYPE_CHECKING:
    from pathlib import Path


class TestTraining:
    def check(self, processes: str = "3", **options: str) -> dict[str, Finding]:
        words = {
            "per_device_train_batch_size": "1",
            "gradient_accumulation_steps": "128",
            "num_generations": "16",
            "loss_scale": "default",
            "multi_turn_scheduler": "deepeyes_scheduler",
            "use_vllm": "true",
            "vllm_mode": "server",
            "vllm_server_pass_dataset": "true",
            **options,
        }
        train = Command({"NPROC_PER_NODE": processes}, {name: (value,) for name, value in words.items()})
        return {finding.check: finding for finding in check_training(Plan("train", train))}

    def test_official_numbers_are_fine(self) -> None:
        findings = self.check()
        assert {finding.level for finding in findings.values()} == {Level.OK}
        assert findings["prompts a step"].found == "24 = 384 trajectories / 16 generations"

    def test_batch_of_megatron_is_taken_as_it_is_told(self) -> None:
        found = self.check(global_batch_size="160")["prompts a step"]
        assert (found.level, found.found[:4]) == (Level.WARNING, "10 =")

    @pytest.mark.parametrize(("steps", "level"), [("85", Level.WARNING), ("86", Level.OK)])
    def test_few_prompts_are_a_warning(self, steps: str, level: Level) -> None:
        assert self.check(gradient_accumulation_steps=steps)["prompts a step"].level is level

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("loss_scale", "last_round"),
            ("multi_turn_scheduler", "math_tip_trick"),
            ("vllm_server_pass_dataset", "false"),
        ],
    )
    def test_options_that_break_the_loop_are_errors(self, option: str, value: str) -> None:
        finding = self.check(**{option: value})[option.replace("_", " ")]
        assert finding.level is Level.ERROR
        assert finding.mend.startswith(f"--{option} ")

    def test_gdpo_on_a_single_weight_is_a_warning(self) -> None:
        options = {"scale_rewards": ("gdpo",), "reward_weights": ("1", "0", "0", "0")}
        for changes, told in (({}, True), ({"reward_weights": ("0", "0.8", "0.2", "1.2")}, False)):
            findings = check_training(Plan("train", Command({}, {**options, **changes})))
            assert ("scale rewards" in {finding.check for finding in findings}) is told

    def test_disk_that_is_full_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"model": ("a-7B",), "tuner_type": ("full",), "output_dir": (str(tmp_path / "runs"),)}
        for free, level in ((1e12, Level.OK), (2e11, Level.WARNING), (5e10, Level.ERROR)):
            monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
            assert only(check_checkpoints(Plan("train", Command({}, options)))).level is level
