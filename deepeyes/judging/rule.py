"""The rule judge: words of an answer against words of the reference (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deepeyes.answers import normalise
from deepeyes.markers import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STOP_WORDS = {"a", "an", "the", "is", "are", "was", "were", "be", "it", "its", "of", "on", "to", "and", "side"}
_NEGATIONS = {"no", "not", "never", "none", "neither", "nor", "nothing", "without"}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_OPTION = r"\(?\b([A-H])(?:[):]\s*|\.\s+)(.+?)"


def rule_verdict(question: str, reference: str, answer: str) -> bool:
    """Decides by words whether an answer says what the reference says; what it is unsure of is wrong.

    An option counts by its letter or its text. Any other answer must be words of the reference in their order,
    with all of its negations and all that it adds to the question. Where it adds nothing, the answer must choose
    the same side of "or", or hold all words of the reference. A bare yes or no agrees with a reference that
    starts with it.
    """
    if normalise(answer) == normalise(reference):
        return True
    options = {
        letter: normalise(option)
        for text in (question, reference)
        for letter, option in re.findall(_OPTION + r"(?=[\s,;]*\(?\b[A-H](?:[):]|\.\s)|$)", text, re.DOTALL)
    }
    if option := _option_of(reference, options):
        return _option_of(answer, options) == option
    said, meant, asked = _words(answer), _words(reference), _words(question)
    rest = iter(meant)
    if not said or not all(word in rest for word in said):
        return False
    if said == meant[:1] and re.match(r"\s*(?:yes|no)\s*(?:[.,;:!]|$)", reference, re.IGNORECASE):
        return True
    if [word for word in said if word in _NEGATIONS] != [word for word in meant if word in _NEGATIONS]:
        return False
    needed = set(meant) - set(asked) or _chosen(asked, meant) or set(meant)
    return needed <= set(said)


def _words(text: str) -> list[str]:
    """Returns the words, numbers and signs of a text that carry its meaning."""
    text = re.sub(r"\bcannot\b|\bcan't\b|n't\b", " not ", text.translate(PLAIN).casefold())
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    words = re.findall(r"(?<!\w)-?\d+(?:[.,]\d+)*|[^\W\d_]+|\d+|[^\s\w.,;:!?'\"()-]", text)
    words = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words]
    return [word for word in words if word not in _STOP_WORDS]


def _option_of(text: str, options: Mapping[str, str]) -> str | None:
    """Returns the letter of the option that `text` is: its letter, its text, or both where they agree."""
    text = text.strip()
    if letter := re.fullmatch(r"\(?([A-Ha-h])\)?[.:]?", text):
        return letter[1].upper()
    if both := re.fullmatch(_OPTION, text, re.DOTALL):
        return both[1] if options.get(both[1]) == normalise(both[2]) else None
    letters = [letter for letter, option in options.items() if option == normalise(text)]
    return letters[0] if len(letters) == 1 else None


def _chosen(asked: Sequence[str], meant: Sequence[str]) -> set[str]:
    """Returns the word by which a reference chooses between the two sides of the "or" in a question, if any."""
    if "or" not in asked:
        return set()
    at = asked.index("or")
    after = asked[at + 1 : at + 3]
    before = [word for word in asked[max(0, at - 2) : at] if word not in after]
    chosen = {*before[-1:], *after[:1]} & set(meant)
    return chosen if len(chosen) == 1 else set()
