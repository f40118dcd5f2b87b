"""`deepeyes.sh`: its commands, and that nothing starts by mistake."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from sandbox import LAYOUTS, PROJECT, assert_refused

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox import Sandbox


MIRRORS = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE"}
"""Of the user, read by `setup`."""


def settings_in(code: str) -> set[str]:
    """Find the variables that a script reads with a default."""
    return set(re.findall(r"\$\{([A-Z][A-Z_]+):-", code)) - {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}


class TestOtherCommands:
    """The rest of `deepeyes.sh`."""

    def test_an_unknown_command_shows_the_known_ones(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "trian")
        assert result.returncode == 2
        assert "unknown command 'trian'; did you mean train? The commands are: train rollout " in result.stderr

    @pytest.mark.parametrize("word", ["help", "--help", "-h"])
    def test_help_names_every_command_and_layout(self, sandbox: Sandbox, word: str) -> None:
        result = sandbox.run("deepeyes.sh", word)
        assert result.returncode == 0
        for name in ("train", "rollout", "doctor", "setup", "test", "lock", *LAYOUTS):
            assert re.search(rf"^ *{name} ", result.stdout, re.MULTILINE), name

    @pytest.mark.parametrize("name", ["data", "doctor", "report", "eval", "demo"])
    def test_every_tool_of_the_help_is_there(self, name: str) -> None:
        command = ["bash", str(PROJECT / "deepeyes.sh"), "help"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert re.search(rf"^  {name} ", out, re.MULTILINE)

    def test_a_tool_runs_with_the_python_beside_swift(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "doctor", "--for", "a b", "--dry-run", SWIFT="swift")
        assert result.returncode == 0, result.stderr
        assert sandbox.programs == [["--for", "a b", "--dry-run"]]

    def test_every_setting_that_is_read_is_in_a_head(self) -> None:
        documented, read = set(), set()
        for name in ("deepeyes.sh", "deploy_judge.sh"):
            head, code = (PROJECT / name).read_text().split("set -euo pipefail", 1)
            documented |= set(re.findall(r"\b[A-Z][A-Z_]+\b", head))
            read |= settings_in(code)
        for folder in ("scripts", "layouts"):
            for file in (PROJECT / folder).glob("*.sh"):
                read |= settings_in(file.read_text())
        read -= MIRRORS
        assert "ROLLOUT_GPUS" in read
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


class TestNothingStartsByMistake:
    """What is mistyped ends with the nearest right word, status 2, and no swift."""

    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            (["Doctor"], "doctor"),
            (["eval_report"], "eval"),
            (["trian"], "train"),
            (["rolout"], "rollout"),
            (["tests"], "test"),
            (["--doctor"], "did you mean doctor"),
            (["--dryrun"], "--dry-run"),
            (["train", "--dryrun"], "--dry-run"),
            (["train", "--seed", "3", "--dry_run"], "--dry-run"),
            (["train", "--Dry-Run"], "--dry-run"),
            (["train", "--dry-rn"], "--dry-run"),
            (["train", "--dry-run=true"], "--dry-run"),
            (["train", "--dry"], "--dry-run"),
            (["train", "dry-run"], "--dry-run"),
            (["train", "-n"], "--dry-run|--help"),
            (["rollout", "--hlep"], "--help"),
            (["rollout", "-help"], "--help"),
            (["train", "LAYOUT=cpu"], "LAYOUT=cpu bash deepeyes.sh train"),
            (["LAYOUT=cpu"], "LAYOUT=cpu bash deepeyes.sh"),
        ],
    )
    def test_a_slip_names_what_was_meant(self, sandbox: Sandbox, words: list[str], meant: str) -> None:
        result = sandbox.run("deepeyes.sh", *words, LAYOUT="cpu")
        assert (result.returncode, result.stdout) == (2, "")
        assert re.search(meant, result.stderr), result.stderr
        assert sandbox.calls == []

    @pytest.mark.parametrize("words", [["--dryrun"], ["--hepl"], ["help"], ["rollout"], ["-x"]])
    def test_nor_does_a_judge(self, sandbox: Sandbox, words: list[str]) -> None:
        result = sandbox.run("deploy_judge.sh", *words)
        assert (result.returncode, result.stdout) == (2, "")
        assert "did you mean" in result.stderr
        assert sandbox.calls == []

    @pytest.mark.parametrize("flag", ["--help", "-h"])
    @pytest.mark.parametrize("command", ["train", "rollout", "doctor", "setup", "test", "lock", "help"])
    def test_every_command_explains_itself(self, sandbox: Sandbox, command: str, flag: str) -> None:
        result = sandbox.run("deepeyes.sh", command, flag, PATH="/usr/bin:/bin")  # not even swift is there
        assert result.returncode == 0, result.stderr
        assert command in result.stdout
        assert not (sandbox.folder / ".venv").exists()

    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_the_judge_explains_itself(self, sandbox: Sandbox, flag: str) -> None:
        result = sandbox.run("deploy_judge.sh", "--seed", "1", flag)
        assert result.returncode == 0
        assert "JUDGE_REPLICAS" in result.stdout
        assert sandbox.calls == []

    def test_help_of_a_command_is_its_help(self, sandbox: Sandbox) -> None:
        assert "PROMPTS_PER_STEP" in sandbox.run("deepeyes.sh", "help", "train").stdout


class TestPrograms:
    """`python -m deepeyes.NAME`."""

    def test_relative_paths_stay_the_users(self, sandbox: Sandbox) -> None:
        (sandbox.folder / "deepeyes" / "doctor" / "__main__.py").write_text("import os; print(os.getcwd())")
        assert sandbox.run("deepeyes.sh", "doctor", SWIFT="swift").stdout == "/\n"

    def test_bytecode_is_kept_apart_where_python_may_write_none(self, sandbox: Sandbox) -> None:
        (sandbox.folder / "deepeyes" / "doctor" / "__main__.py").write_text("import deepeyes.errors")
        sandbox.run("deepeyes.sh", "doctor", SWIFT="swift", PYTHONDONTWRITEBYTECODE="1")
        assert list((sandbox.folder / ".cache" / "bytecode").rglob("errors.*.pyc"))
        assert not list((sandbox.folder / "deepeyes").rglob("*.pyc"))

    def test_another_checkout_in_the_working_directory_is_not_the_one_that_runs(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        other = tmp_path / "other" / "deepeyes"
        other.mkdir(parents=True)
        (other / "__init__.py").write_text("raise SystemExit('the other checkout')")
        sandbox.run("deepeyes.sh", "doctor", "--for", "demo", cwd=other.parent, SWIFT="swift")
        assert sandbox.programs == [["--for", "demo"]]

    def test_a_command_whose_module_is_missing_is_not_offered(self, sandbox: Sandbox) -> None:
        assert "\n  demo " in sandbox.run("deepeyes.sh", "help").stdout
        shutil.rmtree(sandbox.folder / "deepeyes" / "demo")
        assert "\n  demo " not in sandbox.run("deepeyes.sh", "help").stdout
        assert sandbox.run("deepeyes.sh", "demo").returncode == 2
