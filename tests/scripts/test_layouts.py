"""layouts/: files that need nothing else to be a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sandbox import LAYOUTS, PROJECT, WITH_A_SERVER, assert_refused, layout_facts, option, read_command

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox import Sandbox

OF_ALWAYS = {  # GPUs that play, GPUs that train, tuner, program
    "node8": ("3", "0,1,2", "full", "swift"),
    "train8": ("6,7", "0,1,2,3,4,5", "full", "swift"),
    "lora4": ("3", "0,1,2", "lora", "swift"),
    "nodes": ("0,1", "0,1,2,3,4,5,6,7", "full", "swift"),
    "mega8": ("4,5,6,7", "0,1,2,3", "full", "megatron"),
    "cpu": ("", "", "full", "swift"),
}


def own_layout(folder: Path) -> Path:
    file = folder / "mine.sh"
    text = (PROJECT / "layouts" / "node8.sh").read_text()
    file.write_text(text.replace(":-3}", ":-7}").replace("--freeze_vit false\n", "--freeze_vit false --seed 5\n"))
    return file


class TestLayouts:
    @pytest.mark.parametrize(("name", "facts"), OF_ALWAYS.items())
    def test_those_that_people_use_stay(self, name: str, facts: tuple[str, ...]) -> None:
        found = layout_facts(PROJECT / "layouts" / f"{name}.sh")
        tuner = option(found["train"], "tuner_type")[0]
        assert (",".join(found["rollout_gpus"]), ",".join(found["train_gpus"]), tuner, found["train"][0]) == facts

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_each_begins_with_what_it_is_for_and_how_it_is_run(self, name: str) -> None:
        head = (PROJECT / "layouts" / f"{name}.sh").read_text().partition("\n\n")[0].splitlines()
        assert all(line.startswith("#") for line in head)
        assert head[0].endswith(".")
        assert any(f"LAYOUT={name} " in line and "bash deepeyes.sh" in line for line in head) or name == "nodes"

    def test_a_file_in_the_folder_is_a_layout(self, sandbox: Sandbox) -> None:
        own_layout(sandbox.folder / "layouts")
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", LAYOUT="mine").stdout)
        assert option(argv, "seed") == ["5"]
        assert "\n  mine " in sandbox.run("deepeyes.sh", "help").stdout

    def test_a_file_anywhere_is_a_layout(self, sandbox: Sandbox, tmp_path: Path) -> None:
        file = own_layout(tmp_path)
        env, argv = read_command(sandbox.run("deepeyes.sh", "rollout", "--dry-run", LAYOUT=str(file)).stdout)
        assert env["CUDA_VISIBLE_DEVICES"] == "7"
        assert option(argv, "vllm_data_parallel_size") == ["1"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("TRAIN_GPUS=0\n", r"needs train_command=\(swift rlhf \.\.\.\)"),
            ("train_command=(swift rlhf --tuner_type full)\n", "needs TRAIN_GPUS"),
        ],
    )
    def test_a_file_that_lacks_something_is_refused(
        self, sandbox: Sandbox, tmp_path: Path, text: str, message: str
    ) -> None:
        file = tmp_path / "mine.sh"
        file.write_text(text)
        assert_refused(sandbox.run("deepeyes.sh", LAYOUT=str(file)), message)
        assert_refused(sandbox.run("deepeyes.sh", LAYOUT=str(tmp_path / "gone.sh")), r"gone\.sh is no file")

    @pytest.mark.parametrize("think", ["true", "false"])
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_thinking_is_told_to_both_sides(self, sandbox: Sandbox, name: str, think: str) -> None:
        commands = ["train", "rollout"] if name in WITH_A_SERVER else ["train"]
        for command in commands:
            dry = sandbox.run("deepeyes.sh", command, "--dry-run", LAYOUT=name, THINK=think)
            assert ("--enable_thinking true" in dry.stdout) is (think == "true"), dry.stderr


class TestSettingsWin:
    """A setting changes what a layout says."""

    @pytest.mark.parametrize(
        ("settings", "there", "gone"),
        [
            (
                {"TUNER": "lora"},
                {"tuner_type": "lora", "lora_rank": "64", "deepspeed": "zero2", "learning_rate": "1e-5"},
                {"freeze_vit", "freeze_aligner"},
            ),
            (
                {"TUNER": "full", "LAYOUT": "lora4"},
                {"tuner_type": "full", "freeze_vit": "false", "deepspeed": "zero3", "learning_rate": "1e-6"},
                {"lora_rank", "lora_alpha"},
            ),
            ({"DEEPSPEED": "none"}, {}, {"deepspeed"}),
            ({"DEEPSPEED": "zero1"}, {"deepspeed": "zero1"}, set()),
            ({"TRAIN_VISION": "false"}, {}, {"freeze_vit", "freeze_aligner"}),
            ({"TRAIN_VISION": "true", "LAYOUT": "lora4"}, {"freeze_vit": "false"}, set()),
            ({"USE_VLLM": "false"}, {"use_vllm": "false"}, {"vllm_mode", "vllm_server_host"}),
            ({"USE_VLLM": "true", "LAYOUT": "cpu"}, {"use_vllm": "true", "vllm_mode": "server"}, set()),
            ({"TRAINER": "megatron"}, {"lr": "1e-6", "recompute_method": "uniform"}, {"deepspeed", "learning_rate"}),
            ({"TRAINER": "deepspeed", "LAYOUT": "mega8"}, {"deepspeed": "zero3"}, {"recompute_method", "lr"}),
            (
                {"USE_VLLM": "false", "LAYOUT": "colocate8"},
                {"use_vllm": "false"},
                {"vllm_mode", "sleep_level", "offload_model", "vllm_gpu_memory_utilization"},
            ),
            ({"TUNER": "full", "LAYOUT": "one"}, {"deepspeed": "zero3"}, {"vllm_enable_lora", "lora_rank"}),
            ({"TUNER": "lora", "LAYOUT": "colocate8"}, {"vllm_enable_lora": "true", "lora_rank": "64"}, set()),
            ({"TRAIN_GPUS": "none"}, {"torch_dtype": "float32"}, {"deepspeed"}),
            ({"TRAIN_GPUS": "0", "LAYOUT": "cpu"}, {"torch_dtype": "bfloat16"}, set()),
        ],
    )
    def test_it_replaces_the_flags(
        self, sandbox: Sandbox, settings: dict[str, str], there: dict[str, str], gone: set[str]
    ) -> None:
        dry = sandbox.run("deepeyes.sh", "train", "--dry-run", **settings)
        _, argv = read_command(dry.stdout)
        assert {name: option(argv, name) for name in there} == {name: [value] for name, value in there.items()}
        assert not {f"--{name}" for name in gone} & set(argv)
        flags = [word for word in argv if word.startswith("--")]
        assert len(flags) == len(set(flags))
