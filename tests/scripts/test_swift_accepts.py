"""Swift's own argument classes read what the scripts print."""

from __future__ import annotations

import os
import subprocess
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import swift.rlhf_trainers
import torch
import transformers.training_args
from accelerate import PartialState
from sandbox import LAYOUTS, PROJECT, WITH_A_SERVER, free_port, layout_facts, read_command
from swift.arguments import DeployArguments, RLHFArguments, RolloutArguments
from swift.dataset import DATASET_MAPPING
from swift.utils import parse_args
from swift_env import WITH_GPUS, run_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox import Sandbox

FACTS = {name: layout_facts(PROJECT / "layouts" / f"{name}.sh") for name in LAYOUTS}
ON_SWIFT = [name for name in LAYOUTS if FACTS[name]["train"][0] == "swift"]
ON_MEGATRON = [name for name in LAYOUTS if FACTS[name]["train"][0] == "megatron"]


def values(layout: str, flag: str) -> list[str]:
    """Give what a layout says of a flag of the trainer."""
    words = FACTS[layout]["train"]
    return [words[index + 1] for index, word in enumerate(words) if word == f"--{flag}"]


class ServerThatAnswers:
    """Stands for the rollout server, which the parser of `swift rlhf` connects to."""

    def __init__(self, **address: Any) -> None:
        self.address = address

    def close_communicator(self) -> None: ...

    def init_communicator(self, **_: Any) -> None: ...


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let swift's arguments be checked as on a GPU node: what this machine lacks is said to be there."""
    monkeypatch.setattr("swift.arguments.deploy_args.get_device_count", lambda: 8)
    monkeypatch.setattr(swift.rlhf_trainers, "VLLMClient", ServerThatAnswers)
    monkeypatch.setattr(transformers.training_args, "is_torch_bf16_gpu_available", lambda: True)
    for name in ("deepeyes_vstar", "deepeyes_chart", "deepeyes_thinklite"):
        monkeypatch.delitem(DATASET_MAPPING, name, raising=False)
    # The trainer's arguments open a process group: on a port that no other run has, and not for the tests that follow.
    before = dict(os.environ)
    os.environ["MASTER_PORT"] = str(free_port())
    yield
    os.environ.clear()
    os.environ.update(before)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    PartialState._reset_state()  # noqa: SLF001 - accelerate has no other way


@pytest.mark.usefixtures("eight_gpus")
class TestSwiftAccepts:
    """Swift's own argument classes take every option, check it and understand it."""

    @staticmethod
    def parse(
        kind: type[Any], sandbox: Sandbox, script: str, *arguments: str, model: Path, **settings: str
    ) -> list[Any]:
        """Read each command that a dry run prints; nothing may be left over."""
        settings |= {"MODEL": str(model), "JUDGE_MODEL": str(model), "OUTPUT_DIR": str(sandbox.folder / "output")}
        dry = sandbox.run(script, *arguments, "--dry-run", **settings)
        parsed = []
        for line in dry.stdout.splitlines():
            _, argv = read_command(line)
            args, rest = parse_args(kind, [*argv[1:], "--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl"])
            assert rest == []
            parsed.append(args)
        assert parsed, dry.stderr
        return parsed

    @pytest.mark.parametrize("layout", ON_SWIFT)
    def test_train(self, sandbox: Sandbox, tiny_model: Path, layout: str) -> None:
        settings = {"LAYOUT": layout, "DEEPSPEED": "none", "REPORT_TO": "tensorboard wandb"}
        (args,) = self.parse(RLHFArguments, sandbox, "deepeyes.sh", "train", model=tiny_model, **settings)
        assert args.loss_scale == "default"
        assert args.multi_turn_scheduler == "deepeyes_scheduler"
        assert args.reward_weights == [1, 0, 0, 0]
        assert args.columns == {"prompt": "messages"}
        assert args.beta == 0
        assert args.report_to == ["tensorboard", "wandb"]
        served = values(layout, "vllm_mode") == ["server"]
        assert args.vllm_server_pass_dataset is served
        assert args.freeze_vit is (values(layout, "tuner_type") == ["lora"])
        if served:
            assert args.vllm_client.address["server_ports"] == [8001]
        else:
            assert args.vllm_client is None
        assert args.vllm_enable_lora is (values(layout, "vllm_enable_lora") == ["true"])

    def test_train_with_several_rollout_servers_and_held_out_rows(self, sandbox: Sandbox, tiny_model: Path) -> None:
        settings = {"ROLLOUT_HOST": "10.0.0.8,10.0.0.9", "DEEPSPEED": "none", "THINK": "true"}
        words = ("train", "--val_dataset", "held_out.parquet")
        (args,) = self.parse(RLHFArguments, sandbox, "deepeyes.sh", *words, model=tiny_model, **settings)
        address = args.vllm_client.address
        assert (address["hosts"], address["server_ports"]) == (["10.0.0.8", "10.0.0.9"], [8001, 8001])
        assert (args.num_generations_eval, args.enable_thinking) == (1, True)

    @staticmethod
    def parse_with_gpus(sandbox: Sandbox, model: Path, *arguments: str, **settings: str) -> dict[str, Any]:
        """By swift's classes in an environment of its own, with Megatron and DeepSpeed."""
        settings |= {"MODEL": str(model), "OUTPUT_DIR": str(sandbox.folder / "output")}
        line = sandbox.run("deepeyes.sh", "train", "--dry-run", *arguments, **settings).stdout
        program = "megatron" if "/megatron rlhf " in line else "swift"
        words = [*read_command(line)[1][1:], "--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl"]
        args: dict[str, Any] = run_in(WITH_GPUS, PROJECT / "tests" / "gpu_script.py", program, *words)
        assert args["rest"] == []
        assert (args["loss_scale"], args["multi_turn_scheduler"]) == ("default", "deepeyes_scheduler")
        assert args["vllm_server_pass_dataset"] is True
        return args

    @pytest.mark.slow
    @pytest.mark.parametrize("layout", ON_MEGATRON)
    def test_train_with_megatron(self, sandbox: Sandbox, tiny_model: Path, layout: str) -> None:
        more = ("--mcore_model", str(tiny_model), "--finetune", "false", "--val_dataset", "held_out.parquet")
        args = self.parse_with_gpus(sandbox, tiny_model, *more, LAYOUT=layout)
        assert (args["global_batch_size"], args["generation_batch_size"]) == (24 * 16, 24 * 16)
        assert (args["lr"], args["lr_decay_style"], args["beta"]) == (1e-6, "constant", 0)
        assert (args["tensor_model_parallel_size"], args["sequence_parallel"]) == (
            len(FACTS[layout]["train_gpus"]),
            True,
        )
        assert (args["mcore_model"], args["finetune"]) == (str(tiny_model), False)
        assert args["freeze_vit"] is False

    @pytest.mark.slow
    @pytest.mark.parametrize(("layout", "stage"), [("node8", 3), ("lora4", 2)])
    def test_train_with_deepspeed(self, sandbox: Sandbox, tiny_model: Path, layout: str, stage: int) -> None:
        args = self.parse_with_gpus(sandbox, tiny_model, LAYOUT=layout)
        assert args["deepspeed"]["zero_optimization"]["stage"] == stage

    @pytest.mark.parametrize("layout", WITH_A_SERVER)
    def test_rollout(self, sandbox: Sandbox, tiny_model: Path, layout: str) -> None:
        port = free_port()
        settings = {"LAYOUT": layout, "ROLLOUT_PORT": str(port)}
        (args,) = self.parse(RolloutArguments, sandbox, "deepeyes.sh", "rollout", model=tiny_model, **settings)
        assert (args.host, args.port) == ("127.0.0.1", port)
        assert args.vllm_use_async_engine is True
        assert args.vllm_data_parallel_size == (len(FACTS[layout]["rollout_gpus"]) or 1)
        trained = values(layout, "lora_rank") and 64
        assert (args.vllm_enable_lora, args.vllm_max_lora_rank) == ((True, trained) if trained else (False, 16))

    def test_rollout_of_a_large_policy(self, sandbox: Sandbox, tiny_model: Path) -> None:
        settings = {"LAYOUT": "train8", "ROLLOUT_TENSOR_PARALLEL": "2", "THINK": "true"}
        (args,) = self.parse(RolloutArguments, sandbox, "deepeyes.sh", "rollout", model=tiny_model, **settings)
        assert (args.vllm_tensor_parallel_size, args.vllm_data_parallel_size, args.enable_thinking) == (2, 1, True)

    @pytest.mark.parametrize("settings", [{}, {"JUDGE_REPLICAS": "2"}, {"JUDGE_GPUS": "none"}])
    def test_judge(self, sandbox: Sandbox, tiny_model: Path, settings: dict[str, str]) -> None:
        port = free_port()
        replicas = self.parse(
            DeployArguments, sandbox, "deploy_judge.sh", model=tiny_model, JUDGE_PORT=str(port), **settings
        )
        assert [args.port for args in replicas] == [port, port + 1][: len(replicas)]
        for args in replicas:
            assert args.host == "127.0.0.1"
            assert args.api_key == "EMPTY"
            assert args.vllm_limit_mm_per_prompt == {"image": 0, "video": 0}


def test_no_flag_of_swift_is_taken_for_a_slip_of_ours() -> None:
    names = {field.name for kind in (RLHFArguments, RolloutArguments, DeployArguments) for field in fields(kind)}
    assert "max_completion_length" in names
    check = """
        HERE="$1"; shift
        source "$HERE/scripts/messages.sh"; source "$HERE/scripts/commands.sh"
        for word in "$@"; do slip_of "--$word"; done
    """
    command = ["bash", "-c", check, "-", str(PROJECT), *sorted(names)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
