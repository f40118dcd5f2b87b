"""Stages run in processes forked from this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from deepeyes.demo import progress, stages

if TYPE_CHECKING:
    from pathlib import Path

RLHF = """
import json, os, sys
print("printed")
folder = sys.argv[sys.argv.index("--output_dir") + 1]
with open(folder + "/logging.jsonl", "a") as file:
    file.write(json.dumps({"words": sys.argv[1:], "number": os.environ["NUMBER"]}) + "\\n")
"""


class TestRun:
    """A stage in a process of its own."""

    def test_its_lines_are_read_as_they_appear(self, tmp_path: Path) -> None:
        lines: list[dict[str, Any]] = []

        def act() -> None:
            writer = progress.Writer(tmp_path)
            writer.step(1, 2, "first")
            writer.step(2, 2, "second")
            sys.stdout.write("printed\n")
            sys.stderr.write("warned\n")

        stages.run("probe", act, tmp_path, lines.append)
        assert [(line["step"], line["steps"], line["text"]) for line in lines] == [(1, 2, "first"), (2, 2, "second")]
        assert (tmp_path / "stage.log").read_text().split() == ["printed", "warned"]

    def test_failure_is_one_error_that_names_the_log(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def act() -> None:
            raise ValueError("no such luck")

        with pytest.raises(stages.DemoError, match=r"`probe` ended with status 1; .*stage\.log"):
            stages.run("probe", act, tmp_path)
        assert "no such luck" in capsys.readouterr().err

    def test_what_is_killed_has_failed(self, tmp_path: Path) -> None:
        with pytest.raises(stages.DemoError, match=f"ended with status -{signal.SIGKILL.value}"):
            stages.run("probe", lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path)

    def test_what_ends_this_process_ends_the_other(self, tmp_path: Path) -> None:
        (done := tmp_path / "done").touch()

        def act() -> None:
            progress.Writer(tmp_path).step(1, 1, "", pid=os.getpid())
            time.sleep(30)
            done.unlink()

        def stop(line: dict[str, Any]) -> None:
            seen.append(line["pid"])
            raise KeyboardInterrupt

        seen: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            stages.run("probe", act, tmp_path, stop)
        with pytest.raises(ProcessLookupError):
            os.kill(seen[0], 0)
        assert done.exists()

    def test_what_is_too_young_to_have_a_group_is_ended_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stages.os, "setsid", lambda: None)
        monkeypatch.setattr(stages.os, "killpg", mock.Mock(side_effect=ProcessLookupError))
        monkeypatch.setattr(stages, "KILL_AFTER_SECONDS", 0.1)

        def act() -> None:
            progress.Writer(tmp_path).step(1, 1, "", pid=os.getpid())
            time.sleep(30)

        def note(_: dict[str, Any]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stages.run("probe", act, tmp_path, note)
        deadline = time.monotonic() + 10
        while multiprocessing.active_children():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_something_else_goes_on_meanwhile(self, tmp_path: Path) -> None:
        done: list[int] = []
        stages.run("probe", lambda: time.sleep(0.2), tmp_path, meanwhile=lambda: done.append(os.getpid()))
        assert done == [os.getpid()]


class TestSwiftRlhf:
    """The command as a stage, with a stand-in for swift's file."""

    def test_it_has_its_words_and_settings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("swift", "swift/cli"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").touch()
        (tmp_path / "swift/cli/rlhf.py").write_text(RLHF, encoding="utf-8")
        for name in [name for name in sys.modules if name == "swift" or name.startswith("swift.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(stages, "PRELOADED", ("json",))
        lines: list[dict[str, Any]] = []
        stages.swift_rlhf(["--word", "1"], tmp_path, lines.append, NUMBER="3")
        assert lines == [{"words": ["--word", "1", "--output_dir", str(tmp_path)], "number": "3"}]
        assert "NUMBER" not in os.environ
        assert '"rlhf"' in (tmp_path / "command.json").read_text()
