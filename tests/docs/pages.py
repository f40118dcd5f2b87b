"""Reads the pages that a user reads, README and docs/, by their parts."""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"([A-Z_]+)=")
COMMENT = re.compile(r"(?:^|(?<=\s))#\s.*$", re.MULTILINE)
LABEL = re.compile(r'"[^"\n]*"')
OPERATORS = {"|", "||", "&&", ";", "&"}


class Command(NamedTuple):
    """A command as a page shows it.

    Attributes:
        line: As it stands there, on one line.
        variables: Those set before it.
        words: The program and its arguments.
    """

    line: str
    variables: dict[str, str]
    words: list[str]


@dataclass(frozen=True)
class Page:
    """A Markdown file, by its parts."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(PROJECT))

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
    def commands(self) -> list[Command]:
        """Every command: those of shell blocks, and the calls of a script within sentences."""
        blocks = [block for language, block in self.blocks if language == "bash"]
        lines = [line for block in blocks for line in logical_lines(block)]
        lines += [code for code in inline_code(self.prose) if code.startswith("bash ")]
        return [command for line in lines for command in split_commands(line)]


def inline_code(text: str) -> list[str]:
    """Give the code within sentences."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def without_comments(block: str) -> str:
    """Drop the comments of a code block, which are translated."""
    return "\n".join(line.rstrip() for line in COMMENT.sub("", block).splitlines())


def comments(block: str) -> list[str]:
    """Give the comments of a code block."""
    return COMMENT.findall(block)


def without_labels(block: str) -> str:
    """Drop what a diagram says, and keep what it draws."""
    return LABEL.sub('""', block)


def logical_lines(block: str) -> list[str]:
    """Give the lines of a shell block that do something, continued ones joined."""
    joined = re.sub(r"\\\n\s*", " ", without_comments(block))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def split_commands(line: str) -> list[Command]:
    """Split a line at its pipes and other operators, and each part into variables and words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word in OPERATORS:
            parts.append([])
        else:
            parts[-1].append(word)
    found = []
    for words in filter(None, parts):
        start = next((at for at, word in enumerate(words) if not ASSIGNMENT.match(word)), len(words))
        found.append(Command(line, dict(word.split("=", 1) for word in words[:start]), words[start:]))
    return found


def twin_of(page: Path) -> Path:
    """Give the other language of a page."""
    stem = page.stem.removesuffix("_zh")
    return page.with_name(f"{stem}.md" if page.stem.endswith("_zh") else f"{stem}_zh.md")


PATHS = sorted([*PROJECT.glob("README*.md"), *(PROJECT / "docs").glob("*.md")])
"""Every page of either language."""
PAIRS = [(Page(path), Page(twin_of(path))) for path in PATHS if not path.stem.endswith("_zh")]
"""English and Chinese."""
ENGLISH = [english for english, _ in PAIRS]
EVERY = [Page(path) for path in PATHS]
