"""Reading a trajectory: its answer and its format (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepeyes.markers import forges_markers
from deepeyes.settings import Rules, Scoring
from deepeyes.verdicts import MAX_ANSWER_CHARS, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

GLM_BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")  # GLM-4.xV puts its answers between these two tokens


@dataclass(frozen=True)
class Trajectory:
    """What a reward reads of one trajectory.

    Attributes:
        scoring: How its data source is scored.
        question: The question, without format instructions.
        reference: The reference answer.
        turns: Text of every assistant turn, in order.
        observations: Text of the user turn after each assistant turn but the last.
        num_zooms: Crops that reached the model, as the scheduler counted them.
    """

    scoring: Scoring
    question: str
    reference: str
    turns: tuple[str, ...]
    observations: tuple[str, ...] = ()
    num_zooms: int = 0

    def text(self) -> str:
        """Returns everything after the prompt, observations included, as the authors' code sees it."""
        observations = (*self.observations, *[""] * len(self.turns))
        return "".join(turn + observation for turn, observation in zip(self.turns, observations, strict=False))


@dataclass(frozen=True)
class Reading:
    """The answer of a trajectory and its format.

    Attributes:
        answer: The final answer; None where there is none.
        well_formed: False costs the format reward.
        settled: The verdict where the text alone decides it, else None.
    """

    answer: str | None
    well_formed: bool
    settled: Verdict | None = None


def blocks(text: str, tag: str, *, innermost: bool = False) -> list[str]:
    """Returns what stands inside each `<tag>...</tag>` of `text`, in linear time.

    Args:
        text: Any text.
        tag: Name of the tag, without brackets.
        innermost: Where openings repeat before a closing, start at the last one instead of the first.
    """
    opening, parts = f"<{tag}>", text.split(f"</{tag}>")[:-1]
    cut = str.rpartition if innermost else str.partition
    return [cut(part, opening)[2] for part in parts if opening in part]


def outside_think(text: str) -> str:
    """Returns `text` without its complete `<think>...</think>` blocks; one that never closes hides nothing."""
    *closed, rest = text.split("</think>")
    return "".join(part.partition("<think>")[0] for part in closed) + rest


def is_balanced(text: str, tag: str) -> bool:
    """Tells whether every `<tag>` in `text` closes after it opened, and none closes that did not open."""
    depth = 0
    for match in re.finditer(rf"<(/?){tag}>", text):
        depth += -1 if match[1] else 1
        if depth < 0:
            return False
    return depth == 0


_ANSWER_TAG = re.compile(r"<\s{0,9}(/?)\s{0,9}answer\s{0,9}>", re.IGNORECASE)


def _is_well_tagged(spoken: Sequence[str]) -> bool:
    """Tells whether the tags in turns without their thoughts balance, and none is written with capitals or spaces."""
    exact = all(tag[0] == f"<{tag[1]}answer>" for turn in spoken for tag in _ANSWER_TAG.finditer(turn))
    return exact and all(is_balanced(turn, tag) for turn in spoken for tag in ("answer", "tool_call"))


def boxed(text: str, rules: Rules) -> list[str]:
    r"""Returns the contents of each non-empty `\boxed{...}` in `text`.

    With `corrected`, braces balance; with `official`, a box ends at its first closing brace.
    """
    if rules is Rules.OFFICIAL:
        return re.findall(r"\\boxed{([^}]+)}", text)
    found, end = [], 0
    for match in re.finditer(r"\\boxed\s*{", text):
        if match.start() < end:  # a box inside the last one
            continue
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        content = text[match.end() : end - 1].strip()
        if depth == 0 and content:
            found.append(content)
    return found


def read_answer(trajectory: Trajectory, rules: Rules) -> Reading:
    """Reads the answer of a trajectory in the way of its scoring."""
    return (read_math if trajectory.scoring is Scoring.MATH else read_visual)(trajectory, rules)


def read_visual(trajectory: Trajectory, rules: Rules) -> Reading:
    """Reads the `<answer>` of a trajectory.

    Source: `compute_score` of the authors' `vl_agent.py`; docs/rewards.md, deviations 1, 2 and 4.
    """
    text = trajectory.text()
    if rules is Rules.OFFICIAL:
        tail = text.split("</think>")[-1]
        well_formed = text.count("<think>") == text.count("</think>")
        well_formed &= tail.count("<answer>") == tail.count("</answer>")
        return _settle(text.split("<answer>")[-1].split("</answer>")[0].strip(), well_formed, trajectory, rules)
    turns = trajectory.turns
    spoken = [outside_think(turn) for turn in turns]
    well_formed = sum(turn.count("<think>") - turn.count("</think>") for turn in turns) == 0
    well_formed &= _is_well_tagged(spoken)
    answers = blocks(_ANSWER_TAG.sub(r"<\1answer>", spoken[-1]), "answer", innermost=True) if turns else []
    return _settle(GLM_BOX.sub("", answers[-1]).strip() if answers else None, well_formed, trajectory, rules)


def read_math(trajectory: Trajectory, rules: Rules) -> Reading:
    r"""Reads the `\boxed{}` of a trajectory.

    Source: `compute_score_math` of the authors' `vl_agent.py`; docs/rewards.md, deviations 2, 3 and 4.
    """
    text = trajectory.text()
    found = boxed(text.split("</think>")[-1], rules)
    well_formed = text.count("<think>") == text.count("</think>") and len(found) == 1
    if rules is Rules.CORRECTED:
        well_formed &= _is_well_tagged([outside_think(turn) for turn in trajectory.turns])
        found = [GLM_BOX.sub("", answer).strip() for answer in found]
    return _settle(found[-1] if found else None, well_formed, trajectory, rules)


def _settle(answer: str | None, well_formed: bool, trajectory: Trajectory, rules: Rules) -> Reading:  # noqa: FBT001 - a private step of this module
    """Decides what needs no judge."""
    if answer is None:
        return Reading(None, well_formed=False, settled=Verdict(correct=False, source="no_answer"))
    too_long = len(answer) >= MAX_ANSWER_CHARS
    if too_long and not (rules is Rules.OFFICIAL and trajectory.scoring is Scoring.MATH):
        return Reading(answer, well_formed=False, settled=Verdict(correct=False, source="too_long"))
    if not answer:
        return Reading(answer, well_formed, Verdict(correct=False, source="no_answer"))
    if rules is Rules.CORRECTED and forges_markers(answer):
        return Reading(answer, well_formed, Verdict(correct=False, source="forged"))
    if _tidy(answer, trajectory.scoring) == _tidy(trajectory.reference, trajectory.scoring) != "":
        return Reading(answer, well_formed, Verdict(correct=True, source="equal"))
    return Reading(answer, well_formed)


def _tidy(text: str, scoring: Scoring) -> str:
    """Sets runs of spaces and end punctuation aside, and capitals too; not capitals and "!" in mathematics."""
    text = " ".join(text.split())
    return text.rstrip(".?,;: ") if scoring is Scoring.MATH else text.rstrip(".!?,;: ").casefold()
