"""Evaluation as a program: a run that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from eval_world import Script, Seen, evaluate, perfect, serving, write_vstar
from servers import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


class TestInterrupted:
    """Ctrl-C in the middle of a run."""

    def test_what_was_finished_is_kept_and_the_rest_is_asked_later(self, tmp_path: Path) -> None:
        bench = write_vstar(tmp_path / "vstar")

        def slow(seen: Seen) -> str:
            time.sleep(0.2 if len(script.seen) < 6 else 3)
            return perfect(seen)

        out, log = tmp_path / "run", tmp_path / "log"
        with serving(Script(slow)) as script:
            words = ["--bench", bench, "--url", script.url, "--out", out, "--concurrency", "1", "--judge", "rule"]
            command = ["bash", ROOT / "deepeyes.sh", "eval", *words]
            with log.open("wb") as file:
                evaluation = subprocess.Popen(
                    command, env=environment(), stdout=file, stderr=file, start_new_session=True, cwd=ROOT
                )
            answers = out / "answers.jsonl"
            deadline = time.monotonic() + 300
            while not (answers.is_file() and answers.read_bytes().count(b"\n") >= 2):
                assert evaluation.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            os.killpg(evaluation.pid, signal.SIGINT)
            assert evaluation.wait(60) == 130, log.read_text()
            assert "the same command goes on from there" in log.read_text()
            finished = {json.loads(line)["id"] for line in answers.read_text().splitlines()}
            assert 2 <= len(finished) < 6
            script.policy, script.seen = perfect, []
            status, report = evaluate(out, script, "--bench", bench)
        assert (status, report["all"]["answers"], len(script.seen)) == (0, 6, 2 * (6 - len(finished)))
