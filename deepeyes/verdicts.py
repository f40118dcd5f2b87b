"""Verdicts: what is asked, and how a judge's reply is read (pure)."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple

from deepeyes.markers import MARKERS, PLAIN

if TYPE_CHECKING:
    from deepeyes.settings import Scoring


MAX_ANSWER_CHARS = 1000  # an answer of this length or more is wrong: the authors' guard against flooding the judge


class Question(NamedTuple):
    """What a verdict is a property of."""

    scoring: Scoring
    question: str
    reference: str
    answer: str


class Verdict(NamedTuple):
    """Whether an answer is right, and who said so.

    Attributes:
        correct: The verdict.
        source: `judge`, `rule`, `math` or `equal`; where nobody was asked `no_answer`, `too_long` or
            `forged`; and `unparseable` where the judge was asked in vain.
    """

    correct: bool
    source: str


UNPARSEABLE = Verdict(correct=False, source="unparseable")


def fill_prompt(template: str, question: Question) -> str:
    """Fills a judge prompt in one pass, with the answer on one line, bounded, and unable to forge a marker."""
    answer = "".join(char if char.isprintable() else " " for char in question.answer.translate(PLAIN))
    answer = MARKERS.sub("…", " ".join(answer.split()))[:MAX_ANSWER_CHARS]
    values = {"question": question.question.strip(), "reference": question.reference.strip(), "answer": answer}
    pieces = _split_prompt(template)
    return "".join(values[piece] if place % 2 else piece for place, piece in enumerate(pieces))


@functools.cache
def _split_prompt(template: str) -> list[str]:
    """Splits a judge prompt: text and names of fields by turns."""
    return re.split(r"\{(question|reference|answer)\}", template)


_TRUE = ("1", "true")
_BARE = re.compile(r"^(1|0|true|false)[.!]?$", re.IGNORECASE | re.MULTILINE)
_LABELLED = re.compile(
    r"jud(?:ge?)?e?ment(?: is)? ?[:=]? ?"
    r"((?:1|0|true|false)(?=$| ?(?:[.,;:!]+|-+)(?: |$)).*|\n(?:1|0|true|false)[.!]?$)",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"(?<![\w.,/-])(?:[01]|true|false)(?![\w/%-]|[.,]\d)", re.IGNORECASE)


def parse_verdict(reply: str) -> bool | None:
    """Reads the verdict from what a judge wrote.

    Taken are `Judgement: 1` in its usual spellings, alone or followed by a reason, a judgement heading with TRUE
    or FALSE below it, and a reply that is nothing but the verdict. Markdown, quotes and brackets around a verdict
    are set aside, and so is what stands before `</think>`. A reply that says both has none.

    Returns:
        The verdict, or None.
    """
    text = reply.rpartition("</think>")[2].translate(PLAIN)
    if "<think>" in text:  # cut off before the verdict
        return None
    text = re.sub(r"[\[\](){}]", "\n", re.sub(r"[*_`#\"']", " ", text))
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    if only := _BARE.fullmatch(text):
        return only[1].lower() in _TRUE
    words = [word for part in _LABELLED.findall(text) for word in _WORD.findall(part)]
    said = {word.lower() in _TRUE for word in (*words, *_BARE.findall(text))}
    return said.pop() if words and len(said) == 1 else None
