"""The demo's command line: what it refuses, and whatever ends it ends what it started."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepeyes.dataset.official import SCHEMA
from deepeyes.demo import cli

ROOT = Path(__file__).resolve().parents[2]


class TestStop:
    """Whatever ends the demo ends what it started."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_ends_the_whole_process_group(self, tmp_path: Path, number: signal.Signals) -> None:
        """The real program, with a first stage that starts a child and never ends."""
        child = tmp_path / "child"
        script = tmp_path / "stop.py"
        script.write_text(
            f"import subprocess, sys; sys.path[:0] = [{str(ROOT)!r}]\n"
            "from deepeyes import tiny_model\n"
            "from deepeyes.demo import cli\n"
            f"tiny_model.build = lambda *_, **__: subprocess.run('echo $$ > {child}; sleep 300', shell=True)\n"
            "cli.stages.PRELOADED = ('json',)\n"
            "sys.exit(cli.main([]))\n"
        )
        env = os.environ | {"DEEPEYES_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen([sys.executable, script], env=env, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not child.is_file() or not child.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        assert "stopped" in process.communicate(timeout=60)[1]
        assert process.returncode == 130
        state = Path(f"/proc/{child.read_text().strip()}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"

    def test_stop_is_told_though_swift_is_being_imported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def stop(_: object) -> None:
            monkeypatch.setattr(sys, "stderr", io.StringIO())  # as the import does for its time
            raise KeyboardInterrupt

        monkeypatch.setenv("DEEPEYES_CACHE", str(tmp_path))
        monkeypatch.setattr(cli.Demo, "run", stop)
        assert cli.main([]) == 130
        monkeypatch.undo()
        assert "stopped" in capsys.readouterr().err


class TestDataset:
    """What can't be trained on is refused in one line."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no file"),
            (b"no parquet", "is no whole parquet file"),
            (pa.table({"data_source": ["vstar"], "prompt": ["x"]}), "lacks the columns images, reward_model"),
            (SCHEMA.empty_table(), "holds no rows"),
        ],
    )
    def test_bad_file_ends_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
    ) -> None:
        path = tmp_path / "rows.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            pq.write_table(content, path)
        assert cli.main(["--dataset", str(path)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_unknown_option_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            cli.main(["--no-such-option"])
        assert stop.value.code == 2
        assert "--no-such-option" in capsys.readouterr().err

    def test_learning_takes_no_dataset(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["--quick", "--dataset", "rows.parquet"])
        assert "makes its own pictures" in capsys.readouterr().err
