"""What the pages tell the reader to type exists: commands, their options, their variables and their settings."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pages import ENGLISH, PROJECT, Command, Page, inline_code

from deepeyes import environment

if TYPE_CHECKING:
    from collections.abc import Mapping

SCRIPTS = ("deepeyes.sh", "deploy_judge.sh")
OURS = {"--dry-run", "--help"}
"""Options of train, rollout and the judge that do not go to swift."""
OTHER_PROGRAMS = ("cd", "cp", "curl", "export", "git", "tensorboard")
"""Named by pages, and not ours to test."""
COMMANDS = [(page, command) for page in ENGLISH for command in page.commands]
OF_SCRIPTS = [command for _, command in COMMANDS if command.words[:1] == ["bash"]]
TO_SWIFT = ("train", "rollout", "--dry-run")
"""What stands behind deepeyes.sh where swift is what it starts; `eval --dry-run` asks a server."""
DRY_RUNS = sorted(
    {
        command.line
        for command in OF_SCRIPTS
        if "--dry-run" in command.words and ("deploy_judge.sh" in command.words or command.words[2] in TO_SWIFT)
    }
)
COPIES = [command.words for _, command in COMMANDS if command.words[:1] == ["cp"]]
WITH_VARIABLES = [command for _, command in COMMANDS if command.variables or command.words[:1] == ["export"]]


def line_of(value: object) -> str:
    return value.line if isinstance(value, Command) else ""


@functools.cache
def known_commands() -> dict[str, str]:
    """Ask deepeyes.sh for its commands, and read from it what runs each."""
    done = subprocess.run(["/bin/bash", PROJECT / "deepeyes.sh", "help"], capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  ([a-z]+) ", done.stdout.partition("layouts")[0], re.MULTILINE))
    table = (PROJECT / "deepeyes.sh").read_text(encoding="utf-8").partition("COMMANDS='")[2].partition("'")[0]
    return {
        line.split()[0]: line.split()[1] for line in table.split("\n") if line.split()[:1] and line.split()[0] in listed
    }


@functools.cache
def options_of(module: str, *words: str) -> frozenset[str]:
    """Ask a program for its options, or one of its commands; those that its description mentions don't count."""
    command = [sys.executable, "-m", module, *words, "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=not words)
    return frozenset(re.findall(r"^  (?:-\w(?: \w+)?, )?(--[\w-]+)", done.stdout, re.MULTILINE))


@functools.cache
def flags_of_swift() -> str:
    """Give the source of all argument classes that `swift rlhf`, `swift rollout` and `swift deploy` are made of."""
    folders = [Path(importlib.util.find_spec(name).origin).parent for name in ("swift", "trl", "transformers")]
    files = [*folders[0].rglob("*arg*.py"), *folders[0].rglob("*/arguments/*.py")]
    files += [*folders[1].rglob("*_config.py"), folders[2] / "training_args.py"]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@pytest.fixture
def known_settings(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The variables that the plugin names when it meets one that it does not know."""
    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr(environment.logger, "warning", lambda *words: said.append(words))
    environment.read_settings({"DEEPEYES_NO_SUCH": "1"})
    ((_, unknown, _, known),) = said
    assert unknown == "DEEPEYES_NO_SUCH"
    return set(known.split(", "))


class TestCommands:
    """Each is one of ours, with options that it has."""

    @pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: line_of(value) or None)
    def test_program_is_known(self, page: Page, command: Command) -> None:
        if not command.words:
            return
        program, *words = command.words
        if program == "bash":
            assert words[0] in SCRIPTS
        elif program == "python":
            assert (PROJECT / words[0]).is_file(), f"{page.name}: {command.line}"
        else:
            assert program in OTHER_PROGRAMS, f"{page.name}: {command.line}"

    @pytest.mark.parametrize("command", OF_SCRIPTS, ids=line_of)
    def test_command_and_options_exist(self, command: Command) -> None:
        script, *words = command.words[1:]
        name = "judge"
        if script == "deepeyes.sh":
            name, words = (words[0], words[1:]) if words and not words[0].startswith("-") else ("train", words)
            assert name in known_commands()
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        module = known_commands().get(name, "")
        if module.startswith("deepeyes."):
            sub = [word for word in words[:1] if re.fullmatch(r"[a-z-]+", word)]
            known = options_of(module) | (options_of(module, *sub) if sub and options else frozenset())
            assert options <= known
        else:
            for option in options - OURS:
                assert re.search(rf"^    {option[2:]}\s*:", flags_of_swift(), re.MULTILINE), option

    @pytest.mark.parametrize("command", WITH_VARIABLES, ids=line_of)
    def test_its_variables_are_read(self, command: Command, known_settings: set[str]) -> None:
        scripts = "".join(
            file.read_text() for folder in (".", "scripts", "layouts") for file in (PROJECT / folder).glob("*.sh")
        )
        swift = Path(importlib.util.find_spec("swift").origin).parent
        sources = (swift / "cli" / "main.py").read_text() + (swift / "template" / "vision_utils.py").read_text()
        exported = [word.partition("=")[0] for word in command.words[1:]] if command.words[:1] == ["export"] else []
        for name in [*command.variables, *exported]:
            read = f"${{{name}:-" in scripts or f"'{name}'" in sources
            assert name in known_settings or read or name == "ROOT_IMAGE_DIR", name

    def test_there_are_dry_runs_of_both_scripts(self) -> None:
        assert {script for script in SCRIPTS if any(script in line for line in DRY_RUNS)} == set(SCRIPTS)

    @pytest.mark.parametrize("line", DRY_RUNS)
    def test_a_dry_run_prints_the_command_and_does_not_run_it(self, line: str, tmp_path: Path) -> None:
        stub, ran = tmp_path / "swift", tmp_path / "ran"
        stub.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(ran))}\n")
        stub.chmod(0o755)
        env = {"PATH": os.defpath, "HOME": str(tmp_path), "SWIFT": str(stub)}
        checkout = tmp_path / "checkout"
        checkout.mkdir()
        for name in (*SCRIPTS, "scripts", "layouts", "deepeyes", "deepeyes_plugin.py", "dataset_info.json"):
            (checkout / name).symlink_to(PROJECT / name)
        for copy in COPIES:  # what the reader was told to copy before
            subprocess.run(copy, cwd=checkout, check=True)
        done = subprocess.run(
            ["/bin/bash", "-c", line], cwd=checkout, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert all(str(stub) in shlex.split(command) for command in done.stdout.splitlines())
        assert done.stdout
        assert not ran.exists()


def settings_table() -> Mapping[str, str]:
    """Default of every variable in the tables of docs/settings.md that list settings of the plugin."""
    page = Page(PROJECT / "docs" / "settings.md")
    rows = [row for table in page.tables if table[0] == ["variable", "default", "meaning"] for row in table[1:]]
    return {name: row[1] for row in rows for name in inline_code(row[0]) if name.startswith("DEEPEYES_")}


class TestSettings:
    """Their tables, against what reads them."""

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_the_page_holds_what_the_head_of_a_script_lists(self, script: str) -> None:
        head = (PROJECT / script).read_text(encoding="utf-8").partition("set -euo")[0]
        listed = set(re.findall(r"^#   ([A-Z][A-Z_]+) {2,}", head, re.MULTILINE))
        tables = Page(PROJECT / "docs" / "settings.md").tables
        assert len(listed) > 8
        assert listed <= {name for table in tables for row in table for name in inline_code(row[0])}

    def test_the_table_holds_what_the_plugin_knows(self, known_settings: set[str]) -> None:
        assert set(settings_table()) == known_settings - {"DEEPEYES_CACHE"}  # of the demo, not for users

    def test_defaults_are_those_of_the_plugin(self) -> None:
        literal = {name: value[1:-1] for name, value in settings_table().items() if re.fullmatch(r"`[^`]+`", value)}
        described = {f"DEEPEYES_{name}" for name in ("SOURCES", "TRACE_DIR", "JUDGE_MODEL")}
        described |= {"DEEPEYES_JUDGE_PROMPT_VISUAL", "DEEPEYES_JUDGE_PROMPT_MATH", "DEEPEYES_SERVE_API_KEY"}
        assert set(settings_table()) - set(literal) == described
        for name, value in literal.items():
            assert environment.read_settings({name: value}) == environment.read_settings({}), name


class TestLayouts:
    """Their table."""

    def test_the_table_holds_those_of_the_script(self) -> None:
        known = {file.stem for file in (PROJECT / "layouts").glob("*.sh")}
        table = Page(PROJECT / "docs" / "layouts.md").text.partition("| `LAYOUT` |")[2].partition("\n\n")[0]
        listed = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
        assert len(listed) == len(set(listed))
        assert set(listed) <= known  # `bash deepeyes.sh help` lists them all
