"""Options of a question: "(A) red (B) blue" in its many forms, and which of them an answer names (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deepeyes.judging.words import simplify

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARK = re.compile(r"(?:\(|(?<![^\W_]))([A-H])(?:\)[.:]?|[.:、])\s*|(?<![^\W_])\(([a-h])\)\s*")
_ANNOUNCED = re.compile(
    r"(?:(?:so|thus|therefore|hence|i think|i believe)[, ]+)?"
    r"(?:(?:the |my |our )?(?:(?:correct|right|best|final) )?(?:answer|option|choice)(?: is| would be| should be)?"
    r"|it is|it's|it says|i (?:can )?see|(?:因此|所以)?(?:正确)?(?:答案|选项)(?:是|为|应为)?|应?选择?)\s?:?\s*",
    re.IGNORECASE,
)


def options_of(text: str) -> dict[str, str]:
    """Returns the options that a text lists, by letter; empty unless they run A, B, ... in order."""
    text = simplify(text, exact_case=True)
    marks, expected = [], "A"
    for mark in _MARK.finditer(text):
        if (mark[1] or mark[2]).upper() == expected:
            marks.append(mark)
            expected = chr(ord(expected) + 1)
    if len(marks) < 2:  # noqa: PLR2004 - one option is no choice
        return {}
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return {(mark[1] or mark[2]).upper(): _bare(text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)}


def without_options(question: str) -> str:
    """Returns a question up to its first option."""
    text = simplify(question, exact_case=True)
    return text[: next((mark.start() for mark in _MARK.finditer(text)), len(text))] if options_of(question) else text


def option_of(text: str, options: Mapping[str, str]) -> str | None:
    """Returns the letter of the option that a text is: its letter, its text, or both where they agree."""
    text = simplify(text, exact_case=True).strip(" .:,;!")
    text = _ANNOUNCED.sub("", text, count=1).strip(" .:,;!") if _ANNOUNCED.match(text) else text
    if letter := re.fullmatch(r"\(?([A-Ha-h])\)?", text):
        return letter[1].upper()
    if marked := re.fullmatch(r"\(?([A-Ha-h])(?:\)[.:]?|[.:、,]| -)\s*(.+)", text, re.DOTALL):
        named = str(marked[1]).upper()
        return named if options.get(named, _bare(marked[2])) == _bare(marked[2]) else None
    letters = [letter for letter, option in options.items() if option == _bare(text)]
    return letters[0] if len(letters) == 1 else None


def announced(answer: str) -> str:
    """Returns an answer without the words that announce it: "The answer is 5" is "5"."""
    text = simplify(answer, exact_case=True)
    rest = _ANNOUNCED.sub("", text, count=1) if _ANNOUNCED.match(text) else text
    return rest if rest.strip(" .:") else text


def _bare(text: str) -> str:
    return re.sub(r"\A(?:a|an|the) ", "", text.strip(" .,;:!?").casefold())
