"""A copy of the scripts with a stub for swift, and what reads the commands that they print."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
LAYOUTS = sorted(file.stem for file in (PROJECT / "layouts").glob("*.sh"))
WITH_A_SERVER = [name for name in LAYOUTS if "rollout_command=" in (PROJECT / "layouts" / f"{name}.sh").read_text()]
OFFICIAL_FILES = [
    "data_0.1.2_visual_toolbox_v2.parquet",
    "data_v0.8_visual_toolbox_v2.parquet",
    "data_thinklite_reasoning_acc.parquet",
]

# Records each call as a line of JSON, then does what swift would: serve /v1/models at --port, or end.
STUB = f"""#!{sys.executable}
import http.server, json, os, sys

argv = sys.argv[1:]
names = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "MAX_PIXELS", "NPROC_PER_NODE")
names += ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
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

# Stands for a program: records its arguments, and ends with an error where it is told to.
STUB_PROGRAM = """
import json, os, pathlib, sys
with pathlib.Path(os.environ["STUB_CALLS"]).with_name("programs.jsonl").open("a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
sys.exit(os.environ.get("BAD") in sys.argv)
"""

# Stands for swift rollout on a CPU: the stub swift again, which is on PATH.
STUB_ROLLOUT = """
import os, shutil, sys
swift = shutil.which("swift")
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

    def run(
        self, script: str, *arguments: str, cwd: Path | str = "/", **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments),
            env=self.env | settings,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @property
    def programs(self) -> list[list[str]]:
        return [json.loads(line) for line in self.calls_file.with_name("programs.jsonl").read_text().splitlines()]

    @property
    def calls(self) -> list[dict[str, Any]]:
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]


def make_sandbox(tmp_path: Path) -> Sandbox:
    """Builds it in an empty folder."""
    folder = tmp_path / "a checkout"
    (folder / "data").mkdir(parents=True)
    for name in ("deepeyes.sh", "deploy_judge.sh", "deepeyes_plugin.py", "dataset_info.json"):
        shutil.copy(PROJECT / name, folder)
    for name in ("scripts", "layouts", "deepeyes"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in OFFICIAL_FILES:
        (folder / "data" / name).touch()
    doctor = folder / "deepeyes" / "doctor" / "__main__.py"
    doctor.write_text(STUB_PROGRAM)
    (folder / "scripts" / "rollout_cpu.py").write_text(STUB_ROLLOUT)
    stub = tmp_path / "bin" / "swift"
    stub.parent.mkdir()
    python = stub.with_name("python")
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')  # a link would not find its packages
    python.chmod(0o755)
    stub.write_text(STUB)
    stub.chmod(0o755)
    shutil.copy(stub, stub.with_name("megatron"))
    calls = tmp_path / "calls.jsonl"
    env = {"PATH": f"{stub.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "STUB_CALLS": str(calls)}
    return Sandbox(folder, calls, env)


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


def devices(env: dict[str, str]) -> list[str]:
    """Give the GPUs or NPUs that a command sees."""
    (seen,) = (value for name, value in env.items() if name.endswith("_VISIBLE_DEVICES"))
    return [device for device in seen.split(",") if device]


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


def assert_refused(result: subprocess.CompletedProcess[str], message: str, *, lines: int = 1) -> None:
    """Check that a run ended with one line on standard error, or as many as told, and no swift."""
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == lines
    assert re.search(message, result.stderr), result.stderr


def layout_facts(file: Path) -> dict[str, list[str]]:
    """Ask bash for the GPUs and the commands of a layout."""
    script = """
        source "$1"
        for name in TRAIN_GPUS ROLLOUT_GPUS train_command rollout_command; do
          declare -n of="$name"
          printf "%s\\n" "${of[*]:-}"
        done
    """
    out = subprocess.run(["bash", "-c", script, "-", file], capture_output=True, text=True, check=True).stdout  # noqa: S607
    values = [shlex.split(line) for line in out.splitlines()]
    names = ("train_gpus", "rollout_gpus", "train", "rollout")
    facts = dict(zip(names, values, strict=True))
    for name in names[:2]:
        facts[name] = [gpu for part in facts[name] for gpu in part.split(",") if gpu != "none"]
    return facts
