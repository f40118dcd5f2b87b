"""The scripts: what they hand to swift, what they refuse, and that swift's own parsers accept all of it.

A stub named `swift` stands in for the real one and records its arguments; the real argument classes then read them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import swift.arguments.sft_args
import swift.rlhf_trainers
import torch
import transformers.training_args
from accelerate import PartialState
from PIL import Image
from swift import get_processor, get_template
from swift.arguments import DeployArguments, RLHFArguments, RolloutArguments
from swift.dataset import DATASET_MAPPING
from swift.utils import parse_args
from swift_env import WITH_GPUS, run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parents[1]
LAYOUTS = {  # processes that train, as NPROC_PER_NODE; None: no torchrun
    "node8": "3",
    "train8": "6",
    "lora4": "3",
    "nodes": "8",
    "mega8": "4",
    "cpu": None,
}
OFFICIAL_FILES = [
    "data_0.1.2_visual_toolbox_v2.parquet",
    "data_v0.8_visual_toolbox_v2.parquet",
    "data_thinklite_reasoning_acc.parquet",
]

# Records each call as a line of JSON, then does what swift would: serve /v1/models at --port, or end.
STUB = f"""#!{sys.executable}
import http.server, json, os, sys

argv = sys.argv[1:]
names = ("CUDA_VISIBLE_DEVICES", "MAX_PIXELS", "NPROC_PER_NODE")
call = {{"argv": argv, "env": {{name: os.environ[name] for name in names if name in os.environ}}}}
with open(os.environ["STUB_CALLS"], "a") as file:
    file.write(json.dumps(call) + "\\n")
if "--die" in argv and argv[argv.index("--die") + 1] == argv[argv.index("--port") + 1]:
    sys.exit("the stub has no memory left")
if argv[0] == "deploy":
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Authorization"] == "Bearer " + argv[argv.index("--api_key") + 1]
            self.send_response(200 if known and self.path == "/v1/models" and "--mute" not in argv else 401)
            self.end_headers()
    port = int(argv[argv.index("--port") + 1])
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

# Stands for the preflight: records its arguments, and finds an error where it is told to.
STUB_DOCTOR = """
import json, os, pathlib, sys
with pathlib.Path(os.environ["STUB_CALLS"]).with_name("doctor.jsonl").open("a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
sys.exit(os.environ.get("BAD") in sys.argv)
"""

# Stands for swift rollout on a CPU: the stub swift again, which is beside the Python that runs this.
STUB_ROLLOUT = """
import os, sys
swift = os.path.join(os.path.dirname(sys.executable), "swift")
os.execv(swift, [swift, *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Sandbox:
    """A checkout without .venv, under a path with a space, where the only swift is the stub."""

    folder: Path
    calls_file: Path
    env: dict[str, str]

    def command(self, script: str, *arguments: str) -> list[str]:
        return ["bash", str(self.folder / script), *arguments]

    def run(self, script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments),
            env=self.env | settings,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @property
    def preflights(self) -> list[list[str]]:
        return [json.loads(line) for line in self.calls_file.with_name("doctor.jsonl").read_text().splitlines()]

    @property
    def calls(self) -> list[dict[str, Any]]:
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    folder = tmp_path / "a checkout"
    (folder / "data").mkdir(parents=True)
    for name in ("deepeyes.sh", "deploy_judge.sh", "deepeyes_plugin.py", "dataset_info.json"):
        shutil.copy(PROJECT / name, folder)
    for name in OFFICIAL_FILES:
        (folder / "data" / name).touch()
    doctor = folder / "tools" / "doctor.py"
    doctor.parent.mkdir()
    doctor.write_text(STUB_DOCTOR)
    doctor.with_name("rollout_cpu.py").write_text(STUB_ROLLOUT)
    stub = tmp_path / "bin" / "swift"
    stub.parent.mkdir()
    (stub.parent / "python").symlink_to(sys.executable)
    stub.write_text(STUB)
    stub.chmod(0o755)
    shutil.copy(stub, stub.with_name("megatron"))
    calls = tmp_path / "calls.jsonl"
    env = {"PATH": f"{stub.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "STUB_CALLS": str(calls)}
    return Sandbox(folder, calls, env)


@pytest.fixture
def rollout_port() -> Iterator[str]:
    """Give a port at which something listens, as the rollout server would."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield str(server.getsockname()[1])


def option(argv: list[str], name: str) -> list[str]:
    """Give the values of the last `--name` in a command line."""
    start = len(argv) - argv[::-1].index(f"--{name}")
    end = next((i for i in range(start, len(argv)) if argv[i].startswith("--")), len(argv))
    return argv[start:end]


def read_command(line: str) -> tuple[dict[str, str], list[str]]:
    """Split a printed command, `env A=1 B=2 swift sub ...`, into its variables and swift's arguments."""
    words = shlex.split(line)
    assert words[0] == "env"
    start = next(i for i, word in enumerate(words) if Path(word).name in {"swift", "megatron", "rollout_cpu.py"})
    return dict(word.split("=", 1) for word in words[1:start] if "=" in word), words[start + 1 :]


def free_port() -> int:
    """Find a port of which the next one is free too."""
    while True:
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def assert_refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """Check that a run ended with one line on standard error, and no swift."""
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr), result.stderr


class TestTrain:
    """`deepeyes.sh train`."""

    def test_no_command_at_all_trains(self, sandbox: Sandbox, rollout_port: str) -> None:
        assert sandbox.run("deepeyes.sh", ROLLOUT_PORT=rollout_port).returncode == 0
        (call,) = sandbox.calls
        assert call["argv"][:3] == ["rlhf", "--rlhf_type", "grpo"]

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_dry_run_prints_exactly_what_a_run_calls(self, sandbox: Sandbox, rollout_port: str, layout: str) -> None:
        settings = {"LAYOUT": layout, "ROLLOUT_PORT": rollout_port}
        dry = sandbox.run("deepeyes.sh", "train", "--dry-run", "--seed", "a 'b'", **settings)
        assert sandbox.calls == []
        assert dry.stdout.count("\n") == 1
        assert sandbox.run("deepeyes.sh", "train", "--seed", "a 'b'", **settings).returncode == 0
        env, argv = read_command(dry.stdout)
        assert sandbox.calls == [{"argv": argv, "env": env}]
        assert env.get("NPROC_PER_NODE") == LAYOUTS[layout]
        assert argv[-2:] == ["--seed", "a 'b'"]

    def test_preflight_sees_the_arguments_and_stops_the_run_on_an_error(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "train", "--seed", "3", LAYOUT="cpu", BAD="train")
        assert result.returncode == 1
        assert "DOCTOR=false" in result.stderr
        assert sandbox.calls == []
        assert sandbox.preflights == [["--for", "train", "--", "--seed", "3"]]
        assert sandbox.run("deepeyes.sh", LAYOUT="cpu", BAD="train", DOCTOR="false").returncode == 0
        assert len(sandbox.calls) == len(sandbox.preflights) == 1

    @pytest.mark.parametrize("bad", ["", "before", "after"])
    def test_preflight_has_a_part_before_the_wait_and_one_after_it(
        self, sandbox: Sandbox, rollout_port: str, bad: str
    ) -> None:
        result = sandbox.run("deepeyes.sh", ROLLOUT_PORT=rollout_port, BAD=bad)
        assert (result.returncode, len(sandbox.calls)) == ((1, 0) if bad else (0, 1))
        assert [words[3] for words in sandbox.preflights] == (["before"] if bad == "before" else ["before", "after"])

    def test_it_waits_for_the_rollout_server_and_says_how_to_start_it(self, sandbox: Sandbox) -> None:
        port = str(free_port())
        result = sandbox.run("deepeyes.sh", ROLLOUT_PORT=port, ROLLOUT_WAIT="1")
        assert result.returncode == 1
        assert f"waiting for the rollout server at 127.0.0.1:{port}" in result.stderr
        assert result.stderr.endswith("within 1 seconds; start it with: bash deepeyes.sh rollout\n")
        assert sandbox.calls == []

    def test_the_facts_that_training_depends_on_are_passed(self, sandbox: Sandbox) -> None:
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run").stdout)
        assert option(argv, "multi_turn_scheduler") == ["deepeyes_scheduler"]
        assert option(argv, "loss_scale") == ["default"]
        assert option(argv, "vllm_server_pass_dataset") == ["true"]
        assert option(argv, "vllm_server_port") == ["8001"]
        assert option(argv, "reward_funcs") == [
            *("deepeyes_reward", "deepeyes_accuracy", "deepeyes_format", "deepeyes_tool")
        ]
        assert option(argv, "reward_weights") == ["1", "0", "0", "0"]
        assert option(argv, "dataset") == [str(sandbox.folder / "data" / name) for name in OFFICIAL_FILES]

    @pytest.mark.parametrize(
        ("settings", "accumulation"),
        [
            ({}, 24 * 16 // 3),
            ({"LAYOUT": "train8"}, 24 * 16 // 6),
            ({"LAYOUT": "train8", "PROMPTS_PER_STEP": "255"}, 255 * 16 // 6),
            ({"LAYOUT": "nodes", "NNODES": "4", "PROMPTS_PER_STEP": "256"}, 256 * 16 // 32),
            ({"LAYOUT": "lora4", "PER_DEVICE_BATCH": "4"}, 24 * 16 // 12),
            ({"LAYOUT": "cpu", "PROMPTS_PER_STEP": "2", "NUM_GENERATIONS": "4"}, 8),
            ({"TRAIN_GPUS": "0,1", "NUM_GENERATIONS": "8"}, 96),
            ({"TRAIN_GPUS": "7"}, 24 * 16),
        ],
    )
    def test_prompts_a_step_become_accumulation(
        self, sandbox: Sandbox, settings: dict[str, str], accumulation: int
    ) -> None:
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", **settings).stdout)
        assert option(argv, "gradient_accumulation_steps") == [str(accumulation)]

    @pytest.mark.parametrize(
        ("settings", "size"), [({}, 24 * 16), ({"PROMPTS_PER_STEP": "64", "TENSOR_PARALLEL": "2"}, 64 * 16)]
    )
    def test_megatron_is_told_the_trajectories_of_an_update(
        self, sandbox: Sandbox, settings: dict[str, str], size: int
    ) -> None:
        dry = sandbox.run("deepeyes.sh", "train", "--dry-run", LAYOUT="mega8", **settings)
        _, argv = read_command(dry.stdout)
        assert option(argv, "global_batch_size") == [str(size)]
        assert "/megatron rlhf " in dry.stdout
        assert "--deepspeed" not in argv

    def test_megatron_of_an_older_swift_is_named(self, sandbox: Sandbox) -> None:
        (sandbox.folder.parent / "bin" / "megatron").unlink()
        assert_refused(
            sandbox.run("deepeyes.sh", "--dry-run", LAYOUT="mega8"), r"/megatron is missing; .* ms-swift 4.6"
        )

    def test_few_prompts_a_step_are_warned_of(self, sandbox: Sandbox) -> None:
        assert "warning" in sandbox.run("deepeyes.sh", "--dry-run", PROMPTS_PER_STEP="15").stderr
        assert "warning" not in sandbox.run("deepeyes.sh", "--dry-run", PROMPTS_PER_STEP="18").stderr

    def test_data_dir_and_row_counts_reach_the_files(self, sandbox: Sandbox) -> None:
        settings = {"DATA_DIR": "/d", "DATASET": "deepeyes_chart#8 /own/file.parquet#5 org/hub-set"}
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", **settings).stdout)
        assert option(argv, "dataset") == [f"/d/{OFFICIAL_FILES[1]}#8", "/own/file.parquet#5", "org/hub-set"]

    def test_longest_trajectory_fits_the_rollout_server(self, sandbox: Sandbox) -> None:
        settings = {"MAX_TURNS": "7", "MAX_PIXELS": str(784 * 1000), "MAX_COMPLETION_LENGTH": "1000"}
        _, argv = read_command(sandbox.run("deepeyes.sh", "rollout", "--dry-run", **settings).stdout)
        (length,) = option(argv, "vllm_max_model_len")
        assert int(length) >= 7 * (1000 + 1000) + 1536
        assert int(length) % 1024 == 0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"LAYOUT": "node9"}, r"LAYOUT=node9 .* node8 train8 lora4 nodes mega8 cpu"),
            ({"TRAINER": "fsdp"}, r"TRAINER=fsdp must be one of: deepspeed megatron"),
            ({"TRAINER": "megatron", "LAYOUT": "cpu"}, r"TRAINER=megatron needs GPUs"),
            ({"LAYOUT": "mega8", "TENSOR_PARALLEL": "3"}, r"TENSOR_PARALLEL=3 does not divide the 4 GPUs"),
            (
                {"LAYOUT": "mega8", "TENSOR_PARALLEL": "1", "PROMPTS_PER_STEP": "18"},
                r"4 copies .* do not share evenly; the next that fits is PROMPTS_PER_STEP=20",
            ),
            ({"PROMPTS_PER_STEP": "0"}, r"PROMPTS_PER_STEP=0 must be a whole number above 0"),
            ({"PROMPTS_PER_STEP": "25"}, r"400 trajectories, which 3 processes .* fits is PROMPTS_PER_STEP=27"),
            ({"NUM_GENERATIONS": "1"}, r"NUM_GENERATIONS=1 has no group"),
            ({"PER_DEVICE_BATCH": "two"}, r"PER_DEVICE_BATCH=two"),
            ({"TRAIN_GPUS": "0 1"}, r"TRAIN_GPUS=0 1 must list GPUs as 0,1,2"),
            ({"TUNER": "qlora"}, r"TUNER=qlora must be one of: full lora"),
            ({"USE_VLLM": "yes"}, r"USE_VLLM=yes must be one of: true false"),
            ({"DOCTOR": "0"}, r"DOCTOR=0 must be one of: true false"),
            ({"TRAIN_VISION": "no"}, r"TRAIN_VISION=no must be one of: true false"),
            ({"MAX_PIXELS": "1e6"}, r"MAX_PIXELS=1e6"),
            ({"MODEL": "/no/such/folder"}, r"MODEL=/no/such/folder is no folder"),
            ({"SWIFT": "no-such-swift"}, r"SWIFT=no-such-swift is no command"),
            ({"DATA_DIR": "/no"}, r"/no/data_0.1.2_visual_toolbox_v2.parquet is missing; DATA_DIR"),
            ({"DATASET": "deepeyes_chart ./gone.parquet#9"}, r"\./gone\.parquet is missing"),
        ],
    )
    def test_a_wrong_setting_or_missing_file_ends_with_one_line(
        self, sandbox: Sandbox, settings: dict[str, str], message: str
    ) -> None:
        assert_refused(sandbox.run("deepeyes.sh", "train", **settings), message)
        assert sandbox.calls == []

    def test_without_swift_it_says_how_to_get_it(self, sandbox: Sandbox) -> None:
        assert_refused(sandbox.run("deepeyes.sh", PATH="/usr/bin:/bin"), r"run: bash deepeyes.sh setup")

    def test_own_dataset_as_an_argument_needs_no_official_files(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "train", "--dataset", "org/set", DATA_DIR="/no", LAYOUT="cpu")
        assert result.returncode == 0
        assert option(sandbox.calls[0]["argv"], "dataset") == ["org/set"]


class TestRollout:
    """`deepeyes.sh rollout`."""

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_both_sides_agree(self, sandbox: Sandbox, layout: str) -> None:
        assert (
            sandbox.run("deepeyes.sh", "rollout", "--x", "1", LAYOUT=layout, ROLLOUT_PORT=str(free_port())).returncode
            == 0
        )
        (call,) = sandbox.calls
        train_env, train = read_command(sandbox.run("deepeyes.sh", "--dry-run", LAYOUT=layout).stdout)
        assert call["argv"][0] == "rollout"
        assert call["argv"][-2:] == ["--x", "1"]
        assert call["env"]["MAX_PIXELS"] == train_env["MAX_PIXELS"]
        for name in ("model", "external_plugins", "multi_turn_scheduler", "max_turns"):
            assert option(call["argv"], name) == option(train, name)
        busy = set(call["env"]["CUDA_VISIBLE_DEVICES"].split(",")) & set(train_env["CUDA_VISIBLE_DEVICES"].split(","))
        assert layout in {"nodes", "cpu"} or not busy

    def test_a_taken_port_is_refused_before_swift_moves_to_another(self, sandbox: Sandbox) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = str(server.getsockname()[1])
            assert_refused(sandbox.run("deepeyes.sh", "rollout", ROLLOUT_PORT=port), rf"ROLLOUT_PORT={port} is taken")
        assert sandbox.calls == []

    def test_a_port_that_closed_connections_hold_is_waited_for(self, sandbox: Sandbox) -> None:
        with closing(socket.socket()) as holder:
            holder.bind(("127.0.0.1", 0))  # nothing listens, yet swift could not bind it
            port = str(holder.getsockname()[1])
            released = threading.Timer(2, holder.close)
            released.start()
            result = sandbox.run("deepeyes.sh", "rollout", ROLLOUT_PORT=port)
            released.join()
        assert (result.returncode, len(sandbox.calls)) == (0, 1)
        assert f"port {port} is not free yet" in result.stderr


class TestOtherCommands:
    """The rest of `deepeyes.sh`."""

    def test_an_unknown_command_shows_the_known_ones(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "trian")
        assert result.returncode == 1
        assert "rollout" in result.stderr
        assert result.stderr.endswith("unknown command 'trian'\n")

    @pytest.mark.parametrize("word", ["help", "--help", "-h"])
    def test_help_names_every_command_and_layout(self, sandbox: Sandbox, word: str) -> None:
        result = sandbox.run("deepeyes.sh", word)
        assert result.returncode == 0
        tools = ("data", "doctor", "report", "eval", "demo")
        for name in ("train", "rollout", *tools, "setup", "test", "lock", *LAYOUTS):
            assert re.search(rf"^ *{name} ", result.stdout, re.MULTILINE), name

    @pytest.mark.parametrize("name", ["data", "doctor", "report", "eval", "demo"])
    def test_every_tool_of_the_help_is_there(self, name: str) -> None:
        assert (PROJECT / "tools" / f"{name}.py").is_file()

    def test_a_tool_runs_with_the_python_beside_swift(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "doctor", "--for", "a b", "--dry-run", SWIFT="swift")
        assert result.returncode == 0, result.stderr
        assert sandbox.preflights == [["--for", "a b", "--dry-run"]]

    def test_every_setting_that_is_read_is_in_the_head(self) -> None:
        for script in ("deepeyes.sh", "deploy_judge.sh"):
            text = (PROJECT / script).read_text()
            head, code = text.split("set -euo pipefail", 1)
            read = set(re.findall(r"\$\{([A-Z][A-Z_]+):-", code)) - {"UV_DEFAULT_INDEX", "UV_INDEX_URL"}
            read -= {"PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE"}  # the user's mirrors, in `setup`
            documented = set(re.findall(r"\b[A-Z][A-Z_]+\b", head))
            assert read <= documented, read - documented

    def test_setup_with_an_unknown_environment_names_the_known_ones(self, sandbox: Sandbox) -> None:
        assert_refused(sandbox.run("deepeyes.sh", "setup", "tpu"), r"'tpu'; choose gpu or cpu")

    def test_setup_is_a_no_op_while_the_lock_is_the_installed_one(self, sandbox: Sandbox) -> None:
        for path in (sandbox.folder / "requirements" / "cpu.txt", sandbox.folder / ".venv" / "deepeyes.lock"):
            path.parent.mkdir()
            path.write_text("nothing==1\n")
        result = sandbox.run("deepeyes.sh", "setup", "cpu")
        assert result.returncode == 0
        assert "up to date" in result.stderr


class TestLocks:
    """requirements/*.txt."""

    @pytest.mark.parametrize("extra", ["gpu", "cpu"])
    def test_every_pin_has_a_hash_and_nothing_has_an_address(self, extra: str) -> None:
        text = (PROJECT / "requirements" / f"{extra}.txt").read_text()
        pins = re.split(r"\n(?=[a-z0-9])", text)[1:]
        assert len(pins) > 200
        assert all(" --hash=sha256:" in pin and "==" in pin.split()[0] for pin in pins)
        assert "://" not in text
        assert "--find-links" not in text
        assert "index" not in {line.split()[0].strip("-") for line in text.splitlines() if line.startswith("-")}


class TestJudge:
    """`deploy_judge.sh`."""

    def test_dry_run_prints_one_line_a_replica_and_no_key(self, sandbox: Sandbox) -> None:
        settings = {"JUDGE_REPLICAS": "2", "DEEPEYES_JUDGE_API_KEY": "s3cret key", "JUDGE_PORT": "20001"}
        result = sandbox.run("deploy_judge.sh", "--dry-run", "--seed", "1", **settings)
        commands = [read_command(line) for line in result.stdout.splitlines()]
        assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in commands] == ["4,5", "6,7"]
        assert [option(argv, "port") for _, argv in commands] == [["20001"], ["20002"]]
        assert [option(argv, "vllm_tensor_parallel_size") for _, argv in commands] == [["2"], ["2"]]
        assert all(argv[-2:] == ["--seed", "1"] for _, argv in commands)
        assert result.stdout.count('--api_key "$DEEPEYES_JUDGE_API_KEY" ') == 2
        assert "s3cret" not in result.stdout + result.stderr

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"JUDGE_HOST": "192.0.2.7"}, r"JUDGE_HOST=192.0.2.7 lets other machines in; set DEEPEYES_JUDGE_API_KEY"),
            ({"JUDGE_REPLICAS": "3"}, r"JUDGE_REPLICAS=3 do not share the 4 GPUs"),
            ({"JUDGE_GPUS": "all"}, r"JUDGE_GPUS=all must list GPUs"),
            ({"JUDGE_PORT": "99999"}, r"JUDGE_PORT=99999 must be below 65536"),
            ({"JUDGE_MODEL": "./gone"}, r"JUDGE_MODEL=./gone is no folder"),
        ],
    )
    def test_a_wrong_setting_ends_with_one_line(self, sandbox: Sandbox, settings: dict[str, str], message: str) -> None:
        assert_refused(sandbox.run("deploy_judge.sh", **settings), message)
        assert sandbox.calls == []

    def test_it_waits_for_every_replica_prints_the_urls_and_stops_them_all(self, sandbox: Sandbox) -> None:
        port = free_port()
        settings = {"JUDGE_REPLICAS": "2", "JUDGE_PORT": str(port), "DEEPEYES_JUDGE_API_KEY": "k"}
        with subprocess.Popen(
            sandbox.command("deploy_judge.sh"), env=sandbox.env | settings, stdout=subprocess.PIPE, text=True
        ) as judge:
            assert judge.stdout is not None
            line = judge.stdout.readline()
            judge.send_signal(signal.SIGINT)
            assert judge.wait(timeout=120) == 130
        assert line == f"export DEEPEYES_JUDGE_URLS=http://127.0.0.1:{port}/v1,http://127.0.0.1:{port + 1}/v1\n"
        assert {call["env"]["CUDA_VISIBLE_DEVICES"] for call in sandbox.calls} == {"4,5", "6,7"}
        for replica in (port, port + 1):
            with pytest.raises(ConnectionRefusedError), closing(socket.create_connection(("127.0.0.1", replica))):
                pass

    def test_a_replica_that_dies_ends_it_with_the_end_of_its_log_while_others_load(self, sandbox: Sandbox) -> None:
        port = free_port()
        settings = {"JUDGE_PORT": str(port), "JUDGE_REPLICAS": "2"}
        result = sandbox.run("deploy_judge.sh", "--mute", "--die", str(port + 1), **settings)
        assert result.returncode == 1
        assert result.stdout == ""
        assert "the stub has no memory left" in result.stderr
        assert f"the judge on port {port + 1} ended before it answered" in result.stderr

    @pytest.mark.parametrize("argument", ["--host", "--port=80", "--api_key"])
    def test_what_decides_who_gets_in_is_no_argument(self, sandbox: Sandbox, argument: str) -> None:
        assert_refused(sandbox.run("deploy_judge.sh", argument, "0.0.0.0"), rf"{argument} is set by JUDGE_HOST")  # noqa: S104
        assert sandbox.calls == []

    def test_a_replica_that_never_answers_is_given_up(self, sandbox: Sandbox) -> None:
        settings = {"JUDGE_PORT": str(free_port()), "JUDGE_START_TIMEOUT": "1"}
        result = sandbox.run("deploy_judge.sh", "--mute", **settings)
        assert result.returncode == 1
        assert "did not answer in JUDGE_START_TIMEOUT=1 seconds" in result.stderr


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

    @pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "mega8"])
    def test_train(self, sandbox: Sandbox, tiny_model: Path, layout: str) -> None:
        settings = {"LAYOUT": layout, "DEEPSPEED": "none", "REPORT_TO": "tensorboard wandb"}
        (args,) = self.parse(RLHFArguments, sandbox, "deepeyes.sh", "train", model=tiny_model, **settings)
        assert args.loss_scale == "default"
        assert args.multi_turn_scheduler == "deepeyes_scheduler"
        assert args.reward_weights == [1, 0, 0, 0]
        assert args.columns == {"prompt": "messages"}
        assert args.beta == 0
        assert args.report_to == ["tensorboard", "wandb"]
        assert args.vllm_server_pass_dataset is (layout != "cpu")
        assert args.freeze_vit is (layout == "lora4")
        if layout != "cpu":
            assert args.vllm_client.address["server_ports"] == [8001]

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
    def test_train_with_megatron(self, sandbox: Sandbox, tiny_model: Path) -> None:
        resume = ("--mcore_model", str(tiny_model), "--finetune", "false")
        args = self.parse_with_gpus(sandbox, tiny_model, *resume, LAYOUT="mega8")
        assert (args["global_batch_size"], args["generation_batch_size"]) == (24 * 16, 24 * 16)
        assert (args["lr"], args["lr_decay_style"], args["beta"]) == (1e-6, "constant", 0)
        assert (args["tensor_model_parallel_size"], args["sequence_parallel"]) == (4, True)
        assert (args["mcore_model"], args["finetune"]) == (str(tiny_model), False)
        assert args["freeze_vit"] is False

    @pytest.mark.slow
    @pytest.mark.parametrize(("layout", "stage"), [("node8", 3), ("lora4", 2)])
    def test_train_with_deepspeed(self, sandbox: Sandbox, tiny_model: Path, layout: str, stage: int) -> None:
        args = self.parse_with_gpus(sandbox, tiny_model, LAYOUT=layout)
        assert args["deepspeed"]["zero_optimization"]["stage"] == stage

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_rollout(self, sandbox: Sandbox, tiny_model: Path, layout: str) -> None:
        port = free_port()
        settings = {"LAYOUT": layout, "ROLLOUT_PORT": str(port)}
        (args,) = self.parse(RolloutArguments, sandbox, "deepeyes.sh", "rollout", model=tiny_model, **settings)
        assert (args.host, args.port) == ("127.0.0.1", port)
        assert args.vllm_use_async_engine is True
        assert args.vllm_data_parallel_size == {"train8": 2, "nodes": 2, "mega8": 4}.get(layout, 1)

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


ZOOM = '<think>{}</think><tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {}}}}}</tool_call>'
TURNS = [
    ZOOM.format("Small.", [0, 0, 56, 56]),
    ZOOM.format("Left.", [9, 9, 70, 70]),
    "<think>Seen.</think><answer>red</answer>",
]


@pytest.fixture(scope="module")
def trained_text(tiny_model: Path) -> Callable[[str], list[str]]:
    """Give a function from a loss scale to the stretches of a trajectory of three turns that carry loss."""
    processor = get_processor(str(tiny_model), model_type="qwen2_5_vl", model_kwargs={"torch_dtype": "float32"})
    messages = [{"role": "system", "content": "You zoom."}, {"role": "user", "content": "<image>What colour?"}]
    for turn in TURNS[:-1]:
        messages += [{"role": "assistant", "content": turn}, {"role": "user", "content": "<image>Here."}]
    messages.append({"role": "assistant", "content": TURNS[-1]})
    images = [Image.new("RGB", size) for size in ((112, 84), (56, 56), (84, 84))]

    def encode(loss_scale: str) -> list[str]:
        template = get_template(processor, template_type="qwen2_5_vl", loss_scale=loss_scale)
        template.set_mode("train")
        labels = template.encode({"messages": messages, "images": images})["labels"]
        stretches = [list(group) for trained, group in groupby(labels, lambda label: label != -100) if trained]
        return [template.tokenizer.decode(stretch) for stretch in stretches]

    return encode


class TestLoss:
    """Which tokens of a trajectory train, as swift's template for Qwen2.5-VL marks them."""

    def test_every_assistant_turn_and_nothing_else_trains(
        self, sandbox: Sandbox, trained_text: Callable[[str], list[str]]
    ) -> None:
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run").stdout)
        (loss_scale,) = option(argv, "loss_scale")
        assert [text.removesuffix("\n").removesuffix("<|im_end|>") for text in trained_text(loss_scale)] == TURNS

    def test_swifts_default_would_have_trained_the_last_turn_alone(
        self, trained_text: Callable[[str], list[str]]
    ) -> None:
        (text,) = trained_text("last_round")
        assert text.startswith(TURNS[-1])
