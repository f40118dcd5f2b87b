"""Stages run as programs, forked from one process."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from deepeyes.demo import stages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAGE = """
import json, os, sys
print("printed")
with open(sys.argv[-1] + "/logging.jsonl", "a") as file:
    file.write(json.dumps({"words": sys.argv[1:], "number": os.environ["NUMBER"]}) + "\\n")
"""


class TestWorker:
    """Stages run as programs, forked from one process."""

    @pytest.fixture
    def worker(self, tmp_path: Path) -> Iterator[stages.Worker]:
        """Give a worker that has imported next to nothing and finds the stage below."""
        (tmp_path / "probe_stage.py").write_text(STAGE, encoding="utf-8")
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        with contextlib.closing(stages.Worker(env, tmp_path / "worker.log", ["json"])) as worker:
            yield worker

    def test_stages_have_their_words_and_settings_and_their_lines_are_read(
        self, worker: stages.Worker, tmp_path: Path
    ) -> None:
        lines: list[dict[str, Any]] = []
        for number in ("1", "2"):
            worker.run("probe_stage", ["--word", number], tmp_path, lines.append, NUMBER=number)
        assert [(line["words"][:2], line["number"]) for line in lines] == [
            (["--word", "1"], "1"),
            (["--word", "1"], "1"),  # the second stage is told from the start of the file
            (["--word", "2"], "2"),
        ]
        assert "printed" in (tmp_path / "stage.log").read_text()

    def test_failing_stage_ends_in_one_error_that_names_the_log(
        self, worker: stages.Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(stages.DemoError, match=r"`no_such_stage` ended with status 1; .*stage\.log"):
            worker.run("no_such_stage", [], tmp_path, print)
        assert "No module named" in capsys.readouterr().err

    def test_worker_that_ended_is_named_with_its_log(self, tmp_path: Path) -> None:
        log = tmp_path / "worker.log"
        with (
            contextlib.closing(stages.Worker(dict(os.environ), log, ["no_such_module"])) as worker,
            pytest.raises(stages.DemoError, match=r"ended; its output is in .*worker\.log"),
        ):
            worker.run("json", [], tmp_path, print)
        assert "no_such_module" in log.read_text()
