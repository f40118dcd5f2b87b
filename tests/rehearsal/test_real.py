"""The rehearsal for real, on a tiny model: with the trainer that plays, and with a rollout server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from servers import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def command(*words: str) -> list[str]:
    return ["bash", str(ROOT / "deepeyes.sh"), "rehearse", "--tiny", "--judge", "rule", *words]


def settings(folder: Path, **others: str) -> dict[str, str]:
    return environment(LAYOUT="cpu", TMPDIR=folder, OMP_NUM_THREADS="1", **others)


def of(folder: Path) -> list[str]:
    """Gives the processes that have to do with a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(folder) in words or (process.info["environ"] or {}).get("TMPDIR", "").startswith(str(folder)):
            found.append(words)
    return found


def rehearse(folder: Path, *words: str, **others: str) -> str:
    env = settings(folder, **others)
    done = subprocess.run(command(*words), cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert of(folder) == []
    assert list(folder.iterdir()) == []  # neither rows nor checkpoints, nor an output/
    sys.stdout.write(done.stdout)  # for `pytest -rP`
    return done.stdout


def figure(table: str, name: str) -> str:
    (found,) = re.findall(rf"│ {name} +│ (.*?) +│", table)
    return str(found)


class TestTrainer:
    def test_it_trains_saves_resumes_and_tells_what_it_took(self, tmp_path: Path) -> None:
        table = rehearse(tmp_path, "--steps", "1")
        assert float(figure(table, "rollout, seconds a step").split()[0]) > 0
        assert float(figure(table, "training, seconds a step").split()[0]) > 0
        assert figure(table, "resumed from it") == "yes"
        assert int(figure(table, "tokens of the longest trajectory").replace(",", "")) > 2 * 64
        assert figure(table, "weight sync").startswith("none")

    def test_ctrl_c_leaves_nothing(self, tmp_path: Path) -> None:
        log = (tmp_path.parent / f"{tmp_path.name}.log").open("w")
        with subprocess.Popen(
            command(), cwd=tmp_path, env=settings(tmp_path), stdout=log, stderr=log, start_new_session=True
        ) as process:
            while not list(tmp_path.glob("*/training.log")):
                assert process.poll() is None
                time.sleep(0.2)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
        assert of(tmp_path) == []
        assert list(tmp_path.iterdir()) == []

    def test_a_failure_ends_with_what_it_said(self, tmp_path: Path) -> None:
        words = [sys.executable, "-m", "deepeyes.rehearsal", "--tiny", "--steps", "1"]
        env = settings(tmp_path, MAX_TURNS="none", PYTHONPATH=str(ROOT))
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "MAX_TURNS=none must be a whole number above 0" in done.stderr


@pytest.mark.lengthy
class TestServer:
    def test_it_plays_behind_a_server_that_is_sent_no_weights(self) -> None:
        with tempfile.TemporaryDirectory() as folder:  # short enough for vLLM's sockets
            table = rehearse(Path(folder), "--steps", "1", USE_VLLM="true", ROLLOUT_WAIT="1500")
        assert figure(table, "weight sync") == "none: a CPU has no NCCL"
        assert float(figure(table, "rollout, peak GB of host memory")) > 0
        assert figure(table, "resumed from it") == "yes"
