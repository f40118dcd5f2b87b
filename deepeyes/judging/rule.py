"""The rule judge: words of an answer against words of the reference (pure).

It serves the demo and machines without an LLM, so what it pays must be right; what it is unsure of is wrong.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from deepeyes.judging.options import announced, option_of, options_of, without_options
from deepeyes.judging.words import (
    ARTICLES,
    BINDING,
    NEGATIONS,
    NO,
    OR,
    STOP_WORDS,
    YES,
    quantity,
    simplify,
    words,
    words_of,
)
from deepeyes.verdicts import MAX_ANSWER_CHARS

if TYPE_CHECKING:
    from collections.abc import Sequence

_ASKING = words(  # words of a question that no answer needs to repeat
    "what which who whom whose where when why how many much do does did has have had color colour kind type number "
    "material say says said shown show shows read reads written welche welcher welches was wie wo wer viele hat "
    "qué cuál cuántos cuántas dónde hay quel quelle quels quelles que a-t combien couleur de "
    "什 么 多 少 几 哪 谁 何 怎 样 颜 色 材 质 种 类 数 量 内 容 写 说"
)
_RELATIONS = words(
    "of on in at to by with near under over behind beside between above below from for that who which 上 下 里 中 旁 边"
)
_WHICH = (["which"], ["who"], ["what"], ["welche"], ["welcher"], ["welches"], ["哪"])
_TURNS = NEGATIONS | OR | YES | NO | words("but however actually maybe perhaps aber pero mais 但")
_SEPARATE = r"\s*(?:[.,;:!]|\Z)"


def rule_verdict(question: str, reference: str, answer: str, *, exact_case: bool = False) -> bool:
    """Decides by words whether an answer says what the reference says.

    An option counts by its letter or its text. A quantity counts by its value and unit. Any other answer must be words
    of the reference in their order, with all of its negations and all that it adds to the question; around a bare
    reference ("3", "white") it may repeat what was asked. A bare yes or no agrees with a reference that starts with it.

    Args:
        question: What was asked, with its options if it has some.
        reference: The right answer.
        answer: The answer to be judged.
        exact_case: Whether "AB" and "ab" are two answers, as they are in mathematics.
    """
    clean = [simplify(text, exact_case=exact_case).strip(" .!?,;:。") for text in (reference, answer)]
    if clean[0] == clean[1] and reference.strip() and answer.strip():
        return True
    if len(answer) >= MAX_ANSWER_CHARS:  # wrong whoever is asked
        return False
    options = options_of(question) or options_of(reference)
    given = option_of(reference, options or _own_option(reference))
    if given and (options or re.match(r"\(?[A-H][).:、]", simplify(reference, exact_case=True))):
        chosen = option_of(answer, options or _own_option(reference))
        if chosen or given not in options or re.match(r"\(?[A-H][).:、]", simplify(announced(answer), exact_case=True)):
            return chosen == given
        others = [words_of(text) for letter, text in options.items() if letter != given]
        said = words_of(announced(answer))
        if any(other and _holds(said, other) for other in others if not _holds(words_of(options[given]), other)):
            return False
        question, reference = without_options(question), options[given]
    if given and not options and option_of(answer, {}) not in (None, given):
        return False
    return _agrees(question, reference, announced(answer), exact_case=exact_case)


def _own_option(reference: str) -> dict[str, str]:
    """Returns the option that a reference like "A. rubber" is."""
    own = re.fullmatch(r"\(?([A-H])[).:、]+\s*(.+)", simplify(reference, exact_case=True))
    return {own[1]: re.sub(r"\A(?:a|an|the) ", "", own[2].strip(" .,;:!?").casefold())} if own else {}


def _agrees(question: str, reference: str, answer: str, *, exact_case: bool) -> bool:
    asked = words_of(question)
    sides = _sides(question, asked)
    polarity, meant = _polarity(reference, question)
    claimed, said = _polarity(answer, question)
    meant_words = _carry(words_of(meant, question, exact_case=exact_case), sides)
    said_words = _carry(words_of(said, question, exact_case=exact_case), sides)
    if polarity is not None:
        return _agrees_on_polarity(polarity, meant_words, claimed, said_words, asked)
    meant_words, said_words = meant_words or words_of(meant, question), said_words or words_of(said, question)
    chosen = [{side for side in sides if side in carried} for carried in (meant_words, said_words)]
    bound = [_bound(words_of(text, question), meant_words, asked) for text in (meant, said)]
    if claimed is not None or not meant_words or len(chosen[1]) > len(chosen[0]) or bound[0] != bound[1]:
        return False
    if said_words == meant_words or _equal_quantities(meant_words, said_words):
        return True
    needed = [word for word in meant_words if word not in asked] or list(chosen[0]) or meant_words
    if not set(needed) <= set(said_words) or _negations(said_words) != _negations(meant_words):
        return False
    turned = len(needed) == 1 and sorted(said_words) == sorted([*needed, meant_words[0]])  # "green umbrella"
    return (
        turned
        or _is_subsequence(said_words, meant_words)
        or _repeats_the_question(said_words, meant_words, asked, sides)
    )


def _agrees_on_polarity(
    right: bool,  # noqa: FBT001 - yes or no
    meant: Sequence[str],
    claimed: bool | None,  # noqa: FBT001 - likewise, or neither
    said: Sequence[str],
    asked: Sequence[str],
) -> bool:
    """Judges an answer to a reference that begins with yes or no."""
    if claimed is None:
        there = len(said) > 1 and list(said) == list(meant[: len(said)]) and meant[0] in NEGATIONS
        return bool(said) and (there or list(said) == list(meant))
    if claimed is not right or not said:
        return claimed is right
    if meant:
        return _is_subsequence(said, meant) and _negations(said) == _negations(meant)
    repeated = [word for word in said if word in asked]
    return not set(said) & _TURNS and (len(repeated) == len(said) if right else not repeated)


def _polarity(text: str, question: str) -> tuple[bool | None, str]:
    """Splits a text into yes (True), no (False) or neither (None), and the rest."""
    plain = simplify(text, exact_case=True)
    first = re.match(rf"([^\W\d_]+){_SEPARATE}", plain)
    word = first[1].casefold() if first else ""
    if not first or word not in YES | NO or re.match(r"\s*\d", plain[first.end() :]):
        return None, plain
    if word in OR or (word == "si" and "si" in question.casefold().split()):
        return None, plain
    return word in YES, plain[first.end() :]


def _sides(question: str, asked: Sequence[str]) -> list[str]:
    """Returns the words that a question lets choose between: those around its "or"."""
    listed = re.findall(r"([^\W\d_]+), (?=(?:[^\W\d_]+,? )+(?:or|oder|ou|o)\b)", simplify(question))
    listed = listed[asked[:1] in _WHICH :]  # "Which is higher, X, Y or Z?": the first is no side
    asked = [
        word
        for place, word in enumerate(asked)
        if word not in ARTICLES or asked[place + 1 : place + 2] in ([], *([one] for one in OR))
    ]
    places = [place for place, word in enumerate(asked) if word in OR]
    if not places:
        return []
    after = list(asked[places[-1] + 1 : places[-1] + 3])
    before = [word for word in asked[max(0, places[0] - 2) : places[0]] if word not in after]
    return [*listed, *before[-1:], *after[:1]]


def _carry(words: Sequence[str], sides: Sequence[str]) -> list[str]:
    """Returns the words that carry meaning: all but stop words that nothing depends on."""
    return [word for word in words if word not in STOP_WORDS or word in sides]


def _bound(words: Sequence[str], carried: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Returns the small words inside a reference that says nothing of the question: "turn on" is not "turn"."""
    if not carried or set(carried) & set(asked) or carried[0] not in words:
        return []
    return [word for word in words[words.index(carried[0]) :] if word in BINDING and word not in asked]


def _negations(words: Sequence[str]) -> list[str]:
    return [word for word in words if word in NEGATIONS]


def _equal_quantities(meant: list[str], said: list[str]) -> bool:
    left, right = quantity(meant), quantity(said)
    if left is None or right is None:
        slash = re.fullmatch(r"(\d+)/(\d+)", said[0]) if len(said) == 1 else None
        if left is None or slash is None or int(slash[2]) == 0:
            return False
        right = quantity([f"#{Fraction(int(slash[1]), int(slash[2]))}"]) or (left[0] + 1, "")  # 0.5, said as 1/2
    share = {left[1], right[1]} <= {"part", ""} and 0 < left[0] < 1
    return left[0] == right[0] and (left[1] == right[1] or share)


def _is_subsequence(said: Sequence[str], meant: Sequence[str]) -> bool:
    rest = iter(meant)
    return all(word in rest for word in said)


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(list(words[place : place + len(part)]) == list(part) for place in range(len(words) - len(part) + 1))


def _repeats_the_question(said: list[str], meant: list[str], asked: Sequence[str], sides: Sequence[str]) -> bool:
    """Tells whether an answer is a bare reference with what was asked around it: "There are 3 people" for "3".

    What was asked must come whole, as far as its first relation ("people" of "people in the boat"), and in its order,
    so that nothing else of the question gets the answer's property.
    """
    place = next((at for at in range(len(said)) if said[at : at + len(meant)] == meant), None)
    if place is None:
        return False
    before, after = said[:place], said[place + len(meant) :]
    if before and after:
        return False
    around = before or after
    skipped = _ASKING | OR | set(sides)
    topic = [word for word in asked if word not in skipped and (word not in STOP_WORDS or word in _RELATIONS)]
    chinese = any("\u3400" <= word <= "\u9fff" for word in topic)  # whose relations come before what they belong to
    end = next((at for at, word in enumerate(topic) if word in _RELATIONS and at and not chinese), len(topic))
    head = [_stem(word) for word in topic[:end] if word not in STOP_WORDS and word not in _RELATIONS]
    whole = [_stem(word) for word in topic if word not in STOP_WORDS]
    spoken = [_stem(word) for word in around if word not in _ASKING]
    if asked[:1] in _WHICH and sides and spoken:  # "Which is higher, X or Y?": "Y is higher"
        return spoken == whole[-len(spoken) :]
    return spoken[: len(head)] == head != [] and _is_subsequence(spoken, whole)


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word  # noqa: PLR2004 - "is" is no plural
