"""Reading an answer by rule: yes or no, a box, and what a reply without `<answer>` says (pure).

A rule says nothing where there is doubt: the judge is asked then.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deepeyes.answers import outside_think

if TYPE_CHECKING:
    from deepeyes.evaluation.bench.items import Box

RIGHT_IOU = 0.5  # from which a box is right
_SENTENCE = re.compile(r"[.!?;\n。！？；]+")  # noqa: RUF001 - as models write them
_YES_NO = re.compile(r"\b(?:yes|no)\b|^(?:是|有|否|没有|不)", re.IGNORECASE)
_SAID = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:(?:the |my )?(?:(?:correct|final) )?answer(?: is)?[: ]*)?(yes|no)\b"
    r"|(?:所以|因此|答案是)?(是|有|否|没有|不)",
    re.IGNORECASE,
)
_FOUR = re.compile(r"[\s,]+".join([r"(-?\d+(?:\.\d+)?)"] * 4))


def read_yes_no(answer: str) -> bool | None:
    """Returns what an answer says, yes or no; None where there is doubt.

    One sentence says what the only one of the two words in it is, as in VLMEvalKit. A longer answer says what its first
    or its last sentence begins with; two that differ say nothing.

    Source: `YOrN_Extraction` of vlmeval/dataset/utils/yorn.py in github.com/open-compass/VLMEvalKit.
    """
    sentences = [found for part in _SENTENCE.split(answer) if (found := part.strip(" \t*_`\"'()"))]
    if len(sentences) == 1:
        said = {_is_yes(word) for word in _YES_NO.findall(sentences[0])}
    else:
        ends = (_SAID.match(sentence) for sentence in (*sentences[:1], *sentences[-1:]))
        said = {_is_yes(match[1] or match[2]) for match in ends if match}
    return said.pop() if len(said) == 1 else None


def _is_yes(word: str) -> bool:
    return word.casefold() in ("yes", "是", "有")


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
