"""GPUs that are missing, full or wanted twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from doctor_world import levels, only, use_gpus

from deepeyes.doctor.findings import Level
from deepeyes.doctor.gpus import billions, check_server_gpus, check_train_gpus
from deepeyes.doctor.plan import Command, Plan

if TYPE_CHECKING:
    from pathlib import Path


class TestModelSize:
    @pytest.mark.parametrize(
        ("model", "size"),
        [
            ("Qwen/Qwen2.5-VL-72B-Instruct", 72),
            ("Qwen2.5-VL-72B-Instruct-AWQ", 72),
            ("qwen2.5-vl-7b", 7),
            ("Qwen3-VL-30B-A3B-Instruct", 30),
            ("OpenGVLab/InternVL3_5-241B-A28B", 241),
            ("Qwen2.5-0.5B", 0.5),
            ("gpt-4o", None),
            ("judge", None),
            ("/nowhere/checkpoint-120", None),
        ],
    )
    def test_name_tells(self, model: str, size: float | None) -> None:
        assert billions(model) == size

    def test_weights_on_disk_tell(self, tmp_path: Path) -> None:
        for number in range(2):
            with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
                file.truncate(3 * 10**9)  # sparse
        assert billions(str(tmp_path)) == 3


class TestGpus:
    def plan(self, gpus: str, rollout: str = "3", tuner: str = "full") -> Plan:
        options = {"model": ("Qwen2.5-VL-7B",), "tuner_type": (tuner,), "deepspeed": ("zero3",), "use_vllm": ("true",)}
        return Plan(
            "train", Command({"CUDA_VISIBLE_DEVICES": gpus}, options), Command({"CUDA_VISIBLE_DEVICES": rollout})
        )

    def test_none_at_all(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use_gpus(monkeypatch, tmp_path)
        finding = only(check_train_gpus(self.plan("0,1")))
        assert (finding.level, finding.found) == (Level.ERROR, "GPU 0, 1 is wanted, but nvidia-smi lists none")

    def test_one_too_few(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use_gpus(monkeypatch, tmp_path, "0, H100, 81559, 4", "1, H100, 81559, 4")
        assert only(check_train_gpus(self.plan("0,1"))).found.startswith("2 x H100, 80 of 80 GB free")
        assert only(check_train_gpus(self.plan("0,1,2"))).found == "GPU 2 is wanted, but this machine has 2"

    @pytest.mark.parametrize(
        ("gpus", "tuner", "level"),
        [
            ("0,1,2", "full", Level.OK),
            ("0", "full", Level.WARNING),
            ("0", "lora", Level.OK),
            ("1,3", "lora", Level.WARNING),
        ],
    )
    def test_room_on_the_fullest_counts(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: str, tuner: str, level: Level
    ) -> None:
        use_gpus(monkeypatch, tmp_path, *(f"{n}, A100, 81920, {60000 if n == 3 else 10}" for n in range(4)))
        assert only(check_train_gpus(self.plan(gpus, rollout="7", tuner=tuner))).level is level

    def test_gpu_of_two_masters_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use_gpus(monkeypatch, tmp_path, *(f"{n}, A100, 81920, 10" for n in range(4)))
        assert levels(check_train_gpus(self.plan("0,1,3")))["gpus"] is Level.ERROR

    @pytest.mark.parametrize(
        ("model", "level"),
        [("Qwen2.5-VL-72B-Instruct", Level.WARNING), ("Qwen2.5-VL-72B-Instruct-AWQ", Level.OK), ("m", Level.OK)],
    )
    def test_quantised_judge_needs_less(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, level: Level
    ) -> None:
        use_gpus(monkeypatch, tmp_path, "0, A100, 81920, 10")
        command = Command({"CUDA_VISIBLE_DEVICES": "0"}, {"model": (model,)})
        assert only(check_server_gpus("the judge", "JUDGE_GPUS", command)).level is level

    def test_the_judge_is_told_of_its_own_variables(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use_gpus(monkeypatch, tmp_path)
        command = Command({"CUDA_VISIBLE_DEVICES": "0"}, {"model": ("m",)})
        mend = only(check_server_gpus("the judge", "JUDGE_GPUS", command)).mend
        assert "LAYOUT" not in mend
        assert mend.startswith("JUDGE_GPUS=")
        assert "LAYOUT" in only(check_server_gpus("the rollout server", "ROLLOUT_GPUS", command)).mend

    def test_npus_are_not_taken_for_the_cpu(self) -> None:
        command = Command({"ASCEND_RT_VISIBLE_DEVICES": "0"}, {"model": ("m",)})
        assert only(check_train_gpus(Plan("train", command))).level is Level.WARNING

    def test_cpu_wants_none(self) -> None:
        assert only(check_train_gpus(self.plan("", rollout=""))).level is Level.OK
