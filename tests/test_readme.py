"""README: what it tells the reader to type exists, and its Chinese version says the same."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepeyes import environment

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = Path(__file__).parents[1]
TOOLS = ("data", "doctor", "eval", "report", "demo")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"([A-Z_]+)=")


@dataclass(frozen=True)
class Document:
    """A Markdown file, by its parts."""

    path: Path

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def prose(self) -> str:
        """The text without its code blocks."""
        return FENCED.sub("", self.text)

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and content of every code block."""
        return FENCED.findall(self.text)

    @property
    def headings(self) -> list[tuple[int, str]]:
        return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", self.prose, re.MULTILINE)]

    @property
    def anchors(self) -> set[str]:
        """The names that GitHub gives to headings."""
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in self.headings}

    @property
    def sections(self) -> list[str]:
        return re.split(r"^#+ .+$", self.prose, flags=re.MULTILINE)

    @property
    def tables(self) -> list[list[list[str]]]:
        """The cells of every table, by row; the rule below the head is left out."""
        tables = re.findall(r"(?:^\|.*\|\n)+", self.prose, re.MULTILINE)
        return [
            [[cell.strip() for cell in row[1:-1].split("|")] for row in table.splitlines() if set(row) - set("|-: ")]
            for table in tables
        ]

    @property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)]+)\)", self.prose)

    @property
    def commands(self) -> list[str]:
        """Every call of a script: the lines of shell blocks, and those within sentences."""
        lines = [line for language, block in self.blocks if language == "bash" for line in block.splitlines()]
        return lines + [code for code in inline_code(self.prose) if code.startswith("bash ")]


def inline_code(text: str) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def read_command(line: str) -> tuple[dict[str, str], str, list[str]]:
    """Split `A=1 bash x.sh ...  # comment` into its variables, the script and the arguments."""
    words = shlex.split(line, comments=True)
    start = next(i for i, word in enumerate(words) if not ASSIGNMENT.match(word))
    assert words[start] == "bash", line
    return dict(word.split("=", 1) for word in words[:start]), words[start + 1], words[start + 2 :]


@functools.cache
def script_commands() -> set[str]:
    """Ask deepeyes.sh for its commands."""
    text = subprocess.run(
        ["/bin/bash", PROJECT / "deepeyes.sh", "help"], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"^  ([a-z]+) ", text.partition("layouts")[0], re.MULTILINE))


@functools.cache
def tool_options(name: str) -> set[str]:
    """Ask a tool for its options; those that its description mentions don't count."""
    module = "evaluation" if name == "eval" else name
    text = subprocess.run(
        [sys.executable, "-m", f"deepeyes.{module}", "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE))


@pytest.fixture
def known_settings(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The variables that the plugin names when it meets one that it does not know."""
    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr(environment.logger, "warning", lambda *words: said.append(words))
    environment.read_settings({"DEEPEYES_NO_SUCH": "1"})
    ((_, unknown, _, known),) = said
    assert unknown == "DEEPEYES_NO_SUCH"
    return set(known.split(", "))


ENGLISH = Document(PROJECT / "README.md")
CHINESE = Document(PROJECT / "README_zh.md")
DRY_RUNS = [line for line in ENGLISH.commands if "--dry-run" in line]


def settings_table() -> Mapping[str, str]:
    """Default of every variable in the table of settings, as it is written there."""
    (table,) = (table for table in ENGLISH.tables if table[0] == ["variable", "default", "meaning"])
    return {name: default for names, default, _ in table[1:] for name in inline_code(names)}


class TestTranslation:
    """README_zh.md has the parts of README.md, in the same order."""

    def test_headings_have_the_same_levels(self) -> None:
        assert len(ENGLISH.headings) > 10
        assert [level for level, _ in CHINESE.headings] == [level for level, _ in ENGLISH.headings]

    def test_code_blocks_are_the_same(self) -> None:
        assert len(ENGLISH.blocks) > 10
        assert CHINESE.blocks == ENGLISH.blocks

    def test_tables_have_the_same_rows_and_columns(self) -> None:
        assert len(ENGLISH.tables) > 5
        shapes = [[[len(row) for row in table] for table in document.tables] for document in (ENGLISH, CHINESE)]
        assert shapes[1] == shapes[0]

    def test_each_section_names_the_same_code(self) -> None:
        for english, chinese in zip(ENGLISH.sections, CHINESE.sections, strict=True):
            assert set(inline_code(chinese)) == set(inline_code(english))

    def test_settings_are_the_same(self) -> None:
        names = [set(re.findall(r"DEEPEYES_\w+", document.text)) for document in (ENGLISH, CHINESE)]
        assert names[1] == names[0]

    def test_each_links_to_the_other(self) -> None:
        assert "README_zh.md" in ENGLISH.links
        assert "README.md" in CHINESE.links


class TestSettings:
    """The table of settings, against the plugin that reads them."""

    def test_the_table_holds_what_the_plugin_knows(self, known_settings: set[str]) -> None:
        assert set(settings_table()) == known_settings - {"DEEPEYES_CACHE"}  # of the demo, not for users

    def test_defaults_are_those_of_the_plugin(self) -> None:
        literal = {name: value[1:-1] for name, value in settings_table().items() if re.fullmatch(r"`[^`]+`", value)}
        described = {f"DEEPEYES_{name}" for name in ("SOURCES", "TRACE_DIR", "JUDGE_MODEL")}
        described |= {"DEEPEYES_JUDGE_PROMPT_VISUAL", "DEEPEYES_JUDGE_PROMPT_MATH"}
        assert set(settings_table()) - set(literal) == described
        for name, value in literal.items():
            assert environment.read_settings({name: value}) == environment.read_settings({}), name


class TestLayouts:
    """Their table."""

    def test_the_table_holds_those_of_the_script(self) -> None:
        known = {file.stem for file in (PROJECT / "layouts").glob("*.sh")}
        table = ENGLISH.text.partition("| `LAYOUT` |")[2].partition("\n\n")[0]
        listed = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
        assert len(listed) == len(set(listed)) > 5
        assert set(listed) <= known


class TestCommands:
    """What README tells the reader to type."""

    @pytest.mark.parametrize("line", ENGLISH.commands)
    def test_script_command_and_options_exist(self, line: str) -> None:
        _, script, arguments = read_command(line)
        if script == "deploy_judge.sh":
            assert arguments in ([], ["--dry-run"])
            return
        assert script == "deepeyes.sh"
        command = arguments[0]
        assert command in script_commands()
        options = {word for word in arguments if word.startswith("--")}
        if command in TOOLS and options:
            assert options <= tool_options(command)

    @pytest.mark.parametrize("line", [line for line in ENGLISH.commands if ASSIGNMENT.match(line)])
    def test_its_variables_are_read(self, line: str, known_settings: set[str]) -> None:
        scripts = "".join(
            file.read_text() for folder in (".", "scripts", "layouts") for file in (PROJECT / folder).glob("*.sh")
        )
        swift = Path(importlib.util.find_spec("swift").origin).with_name("cli") / "main.py"
        for name in read_command(line)[0]:
            assert name in known_settings or f"${{{name}:-" in scripts or f"'{name}'" in swift.read_text()

    def test_there_are_dry_runs(self) -> None:
        assert {read_command(line)[1] for line in DRY_RUNS} == {"deepeyes.sh", "deploy_judge.sh"}

    @pytest.mark.parametrize("line", DRY_RUNS)
    def test_a_dry_run_prints_the_command_and_does_not_run_it(self, line: str, tmp_path: Path) -> None:
        stub, ran = tmp_path / "swift", tmp_path / "ran"
        stub.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(ran))}\n")
        stub.chmod(0o755)
        env = {"PATH": os.defpath, "HOME": str(tmp_path), "SWIFT": str(stub)}
        done = subprocess.run(
            ["/bin/bash", "-c", line], cwd=PROJECT, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert all(str(stub) in shlex.split(command) for command in done.stdout.splitlines())
        assert done.stdout
        assert not ran.exists()


class TestLinks:
    @pytest.mark.parametrize("document", [ENGLISH, CHINESE], ids=lambda document: document.path.name)
    def test_relative_links_lead_somewhere(self, document: Document) -> None:
        relative = [link for link in document.links if not re.match(r"https?://", link)]
        assert relative
        for link in relative:
            name, _, anchor = link.partition("#")
            target = Document(PROJECT / name) if name else document
            assert target.path.is_file(), link
            assert not anchor or anchor in target.anchors, link
