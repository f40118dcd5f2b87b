"""Reading an answer by rule: an option, yes or no, a box, and what a reply without `<answer>` says (pure).

A rule says nothing where there is doubt: the judge is asked then.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deepeyes.answers import outside_think
from deepeyes.evaluation.bench.items import LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.evaluation.bench.items import Box

RIGHT_IOU = 0.5  # from which a box is right
_OPEN = r"[\s*_`\"'“‘«([{（【$]*"  # noqa: RUF001 - as models write them
_CLOSE = r"[\s*_`\"'”’»)\]}）】$]*"  # noqa: RUF001
_STOP = r"[.,:;!。，：；！]"  # noqa: RUF001
_COLON = r"[:\uff1a]"  # the second is the one that stands in Chinese
_LEAD = re.compile(
    r"^(?:(?:so|thus|therefore|hence),? )?(?:the |my )?(?:(?:correct|right|final|best) )?(?:answer|option|choice)\b"
    r"(?: is)?[\s:]*"
    rf"|^(?:所以|因此|故)?(?:正确|最终)?(?:答案|选项)(?:应该|应)?(?:是|为)?(?:\s|{_COLON})*"
    rf"|^(?:我|应该?|故)?选择?(?:\s|{_COLON})*"
    r"|^I(?:'d| would|'ll| will)? (?:choose|pick|select|go with|go for)(?: option| answer)? ",
    re.IGNORECASE,
)
_END = rf"(?={_CLOSE}(?:$|{_STOP}|[?？]|\n|因为|because\b|since\b))"  # noqa: RUF001
_SAID = tuple(
    re.compile(rf"{lead}\s*{_OPEN}(?-i:([A-Z])){_END}", re.IGNORECASE | re.MULTILINE)
    for lead in (
        r"\b(?:answer|option|choice)(?:\s+(?:is|would be|should be|must be))?\s*[*_`]*:?(?:\s*option)?",
        r"\bI(?:'d| would|'ll| will)?\s+(?:choose|pick|select|go with|go for)(?:\s+(?:option|answer))?",
        rf"(?:答案|选项)(?:应该|应|就)?(?:是|为|选)?\s*{_COLON}?",
        rf"选(?:择|项)?\s*(?:选项)?\s*{_COLON}?",
    )
)
_LONE = re.compile(rf"^{_OPEN}([A-Z]){_CLOSE}{_STOP}*{_CLOSE}$", re.MULTILINE)
_FOUR = re.compile(r"[\s,]+".join([r"(-?\d+(?:\.\d+)?)"] * 4))


def read_choice(answer: str, options: Sequence[str]) -> int | None:
    """Returns the place of the option that an answer names beyond doubt, else None.

    Named is an option by its letter alone, by its text alone, by its letter with any text in which no other option's
    letter stands as a word and no other option's text stands, by a sentence that says which it is ("The answer is B",
    "I choose B", "答案是B"), or by a letter on a line of its own. Two that differ name none.
    """
    found = _read_whole(answer, options)
    if found is None:
        said = {match[1] for pattern in _SAID for match in pattern.finditer(answer)}
        said |= {match[1] for match in _LONE.finditer(answer)} if "\n" in answer.strip() else set()
        places = {LETTERS.index(letter) for letter in said}
        found = places.pop() if len(places) == 1 else None
    return found if found is not None and found < len(options) else None


def _read_whole(answer: str, options: Sequence[str]) -> int | None:
    """Reads an answer that is nothing but the choice, with or without its text."""
    if boxed := re.search(r"\\boxed{([^{}]*)}", answer):
        answer = boxed[1]
    answer = " ".join(answer.split()).strip("*_`\"' ")
    texts = [_plain(option) for option in options]
    if _plain(answer) in texts and len(_plain(answer)) > 1:
        return texts.index(_plain(answer))
    answer = _LEAD.sub("", answer).strip("*_`\"' ")
    if alone := re.fullmatch(rf"{_OPEN}([A-Za-z]){_CLOSE}{_STOP}*{_CLOSE}", answer):
        return LETTERS.find(alone[1].upper())
    if _plain(answer) in texts:
        return texts.index(_plain(answer))
    led = re.match(rf"{_OPEN}([A-Z]){_CLOSE}[).:,）。：，]\W*(.+)", answer)  # noqa: RUF001
    place = LETTERS.find(led[1]) if led else len(options)
    if led is None or place >= len(options):
        return None
    said, own = _plain(led[2]), texts[place]
    if said == own:
        return place
    doubts = any(
        re.search(rf"(?<![A-Za-z]){LETTERS[other]}(?![A-Za-z])", led[2])
        or _holds(said.replace(own, " ") if text in own else said, text)
        for other, text in enumerate(texts)
        if other != place
    )
    return None if doubts else place


def _plain(text: str) -> str:
    return " ".join(text.split()).strip("*_`\"' ").rstrip(".!,;: ").casefold()


def _holds(said: str, text: str) -> bool:
    """Tells whether a text stands in what was said; within a longer word it does not."""
    return re.search(rf"(?<![a-z0-9]){re.escape(text)}(?![a-z0-9])", said) is not None


def read_yes_no(answer: str) -> bool | None:
    """Returns what an answer says, yes or no; None where it says neither, or both."""
    said = {
        word.casefold() in ("yes", "是", "有")
        for word in re.findall(r"(?i)\b(?:yes|no)\b|^(?:是|有|否|没有|不)", answer)
    }
    return said.pop() if len(said) == 1 else None


def read_box(answer: str) -> Box | None:
    """Returns the last four numbers that stand together in an answer, as the model wrote them."""
    found = _FOUR.findall(answer)
    x1, y1, x2, y2 = map(float, found[-1]) if found else (0.0,) * 4
    return (x1, y1, x2, y2) if found else None


def iou(one: Box, other: Box) -> float:
    """Returns the intersection over union of two boxes, from 0 to 1."""
    width, height = (min(one[at + 2], other[at + 2]) - max(one[at], other[at]) for at in (0, 1))
    shared = max(0.0, width) * max(0.0, height)
    union = sum(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (one, other)) - shared
    return shared / union if union > 0 else 0.0


def untagged(turn: str) -> str:
    """Returns what a last turn without a complete `<answer>` says: its text outside thoughts and tool calls."""
    text = outside_think(turn)
    if "<think>" in text:  # it never came to an end
        return ""
    text = re.sub(r"<tool_call>.*?(?:</tool_call>|\Z)", " ", text, flags=re.DOTALL)
    return re.sub(r"</?answer>", " ", text).strip()


def unclosed(turn: str) -> str | None:
    """Returns the tag that a turn opens last and never closes, or None."""
    tags = ("think", "answer", "tool_call")
    return next((tag for tag in tags if turn.rfind(f"<{tag}>") > turn.rfind(f"</{tag}>")), None)
