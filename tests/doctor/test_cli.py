"""The program as it is started before training."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from doctor_world import free_port, judge_rightly
from judge_server import JudgeServer
from row_maker import ROOT, make_row, save


class TestProgram:
    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        swift = Path(sys.executable).with_name("swift")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DEEPEYES_")}
        return subprocess.run(  # our own script
            ["bash", str(ROOT / "deepeyes.sh"), "doctor", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            env={**clean, "SWIFT": str(swift), **environment},
            timeout=120,
            check=False,
        )

    def test_ready_machine_ends_with_status_0_and_without_torch(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.parquet", [make_row(n) for n in range(20)])
        with JudgeServer(script=judge_rightly, models=("j-72B",)) as judge:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = self.run(
                "--quick",
                LAYOUT="cpu",
                DEEPSPEED="none",
                MODEL=str(tmp_path),
                DATASET=str(path),
                OUTPUT_DIR=str(tmp_path),
                DEEPEYES_JUDGE_URLS=judge.url,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert all(re.match(r"(ok|warning) ", line) for line in done.stdout.splitlines()), done.stdout
        assert after.ru_utime - before.ru_utime < 8  # seconds; torch and swift alone take more than twice that

    def test_errors_end_with_status_1_and_what_mends_them(self, tmp_path: Path) -> None:
        done = self.run(
            "--quick",
            "--json",
            LAYOUT="cpu",
            TUNER="lora",
            DATA_DIR=str(tmp_path),
            DEEPEYES_JUDGE_URLS=f"http://127.0.0.1:{free_port()}",
        )
        assert done.returncode == 1
        errors = {entry["check"]: entry for entry in json.loads(done.stdout) if entry["level"] == "error"}
        assert set(errors) == {"judge", "data"}
        assert errors["judge"]["mend"] == "bash deploy_judge.sh"
        assert errors["data"]["mend"].startswith(f"bash deepeyes.sh data {tmp_path}")

    def test_arguments_for_swift_are_checked_with_it(self) -> None:
        done = self.run("--quick", "--json", "--", "--loss_scale", "last_round", LAYOUT="cpu", DEEPEYES_JUDGE="rule")
        entries = {entry["check"]: entry for entry in json.loads(done.stdout)}
        assert entries["loss scale"]["level"] == "error"

    @pytest.mark.parametrize(("part", "server", "data"), [("before", 0, 1), ("after", 1, 0), ("all", 1, 1)])
    def test_what_needs_the_rollout_server_is_looked_at_apart(self, part: str, server: int, data: int) -> None:
        settings = {"DEEPEYES_JUDGE": "rule", "ROLLOUT_PORT": str(free_port())}
        done = self.run("--quick", "--json", "--part", part, **settings)
        names = {entry["check"] for entry in json.loads(done.stdout)}
        assert ("rollout server" in names, "data" in names) == (server, data)

    @pytest.mark.parametrize("purpose", ["rollout", "judge", "demo"])
    def test_each_purpose_has_a_report(self, purpose: str) -> None:
        port = str(free_port())
        done = self.run(
            "--for", purpose, LAYOUT="cpu", JUDGE_GPUS="none", JUDGE_PORT=port, ROLLOUT_PORT=port, JUDGE_MODEL="o/a-72B"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("\n") >= 4

    def test_unknown_purpose_is_refused(self) -> None:
        assert self.run("--for", "fun").returncode == 2

    @pytest.mark.parametrize("layout", ["colocate8", "npu8"])
    def test_every_layout_has_a_report(self, layout: str) -> None:
        done = self.run("--quick", "--json", LAYOUT=layout, DEEPEYES_JUDGE="rule", MODEL="o/Qwen2.5-VL-7B")
        names = {entry["check"] for entry in json.loads(done.stdout)}
        assert "settings" not in names
        assert ("npus" in names) is (layout == "npu8")
        assert ("rollout server" in names) is (layout == "npu8")

    def test_what_swift_dies_of_is_an_error(self) -> None:
        done = self.run("--quick", "--json", "--", "--loss_type", "fipo", LAYOUT="cpu", DEEPEYES_JUDGE="rule")
        (entry,) = [entry for entry in json.loads(done.stdout) if entry["check"] == "settings"]
        assert entry["level"] == "error"
        assert entry["found"].startswith("--loss_type fipo can't run")
