"""Which option an answer picks, read by rule: from a letter alone to a page of reasoning that ends with one (pure).

The rule reads only what is beyond doubt; it says nothing of all else, and the judge is asked then.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepeyes.evaluation.bench.items import LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OPEN, _CLOSE = r"[\s\"'“‘«(\[{【「『<]{0,8}", r"[\s\"'”’»)\]}】」』>]{0,8}"  # noqa: RUF001 - as models write them
_LETTER = rf"{_OPEN}(?-i:(?P<letter>[A-Z])){_CLOSE}"
_NOUN = r"(?:answer|option|choice)"
_GROUND = r"(?:based on|given|from|looking at|since|because|judging (?:by|from)|according to|after|in(?! no\b))"
_SURE = r"(?:(?:I think|I believe|I am confident|I'm confident|I conclude|it is clear|this means)(?: that)? )?"
_FIRST = (
    rf"(?:(?:so|thus|therefore|hence|overall|finally|in conclusion|in summary)[,:]? )*(?:{_GROUND} [^,]*, )?{_SURE}"
)
_FIRST_ZH = r"(?:(?:(?:所以|因此|故|综上所述|综上|由图可知|可以看出|我认为|我的)[,:]?|(?:根据|从图中)[^,]*,)\s*)*"
_THE_ANSWER = (
    rf"(?:the |my )?(?:(?:correct|right|final|best|only) )*{_NOUN}"
    rf"(?: is| would be| should be| must be| will be)?\s*:?\s*(?:{_NOUN}\s*)?"
)
_I_CHOOSE = rf"I(?:'d| would|'ll| will)? (?:choose|pick|select|go with|go for)(?: {_NOUN})?"
_ANSWER_ZH = r"【?(?:正确|最终)?(?:答案|选项)】?(?:应该|应|就)?(?:是|为|选)?\s*:?"
_I_CHOOSE_ZH = r"(?:我|本题|应该|应)*选(?:择|项)?\s*:?\s*(?:选项)?"
_REASON = r"(?P<reason>,? ?(?:because|since)\b.*|,? ?因为.*)?"
_DECLARED = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"{_FIRST}(?:{_THE_ANSWER}|{_I_CHOOSE}){_LETTER}(?:[.,:、]?\s*(?P<text>[^\s].*?))??{_REASON}",
        rf"{_FIRST}(?:the )?(?:{_NOUN} )?{_LETTER}(?:is|must be) (?:the )?(?:correct|right)(?: {_NOUN}| one)?{_REASON}",
        rf"{_FIRST_ZH}(?:{_ANSWER_ZH}|{_I_CHOOSE_ZH}){_LETTER}(?:选项)?(?:[.,:、]?\s*(?P<text>[^\s].*?))??{_REASON}",
        rf"{_FIRST_ZH}(?:选项|答案)?{_LETTER}(?:选项)?是?(?:正确|对)的?(?:答案|选项)?{_REASON}",
    )
)
"""Whole sentences that say which option it is; only those whose every word is known."""
_LEAD = re.compile(
    rf"{_FIRST}{_THE_ANSWER}|{_FIRST}{_I_CHOOSE} |{_FIRST_ZH}(?:{_ANSWER_ZH}|{_I_CHOOSE_ZH})", re.IGNORECASE
)
_ANNOUNCES = re.compile(rf"{_FIRST}{_THE_ANSWER}|{_FIRST_ZH}{_ANSWER_ZH}", re.IGNORECASE)
_ALONE = re.compile(rf"{_OPEN}(?P<letter>[A-Za-z]){_CLOSE}[.:;!,。]{{0,8}}{_CLOSE}")
_LED = re.compile(rf"{_OPEN}(?P<letter>[A-Za-z]){_CLOSE}(?:(?<=[)\]】])|[.:,、。])\s*(?P<text>.+)")
_SENTENCE = re.compile(r"[^.!?;。]+(?:\.(?!\s|$)[^.!?;。]*)*[.!?;。]*")
_TURNS = re.compile(
    r"\b(?:no|not|neither|nor|wait|but|however|actually|although|though|unless|if|or|maybe|perhaps|instead|rather|wrong"
    r"|incorrect|mistaken|false|reconsider|correction|alternatively|otherwise)\b|n't\b|\?|不|但|然而|等等|错|或|可能|如果|其实|实际"
    r"|没",
    re.IGNORECASE,
)
"""Words after which an answer may mean another option than the one it named."""
_CONTRAST = re.compile(r", (?:and )?not (?:an?|the) [^,.;]*")  # "green, not a mixture" takes nothing back


@dataclass(frozen=True)
class _Piece:
    """A sentence of an answer, and whether it is a line of its own that nothing but an announcement leads to."""

    text: str
    own_line: bool


def read_choice(answer: str, options: Sequence[str]) -> int | None:
    """Returns the place of the option that an answer names beyond doubt, else None.

    Named is an option by its letter alone, by its text alone, or by its letter with text that speaks of no other; in a
    longer answer by a sentence or a line that says which it is ("The answer is B.", "I choose B", "答案是B", "B"). That
    must be the last one, or the first with nothing behind it that takes it back; two that differ name none.
    """
    text = _plain_text(answer)
    boxed = {" ".join(found.split()) for found in re.findall(r"\\boxed{([^{}]*)}", text)}
    if boxed:
        found = _read_whole(boxed.pop(), options) if len(boxed) == 1 else None
    else:
        found = _read_whole(" ".join(text.split()), options)
        found = _read_sentences(text, options) if found is None else found
    return found if found is not None and found < len(options) else None


def _plain_text(answer: str) -> str:
    """Returns an answer without marks of emphasis and of mathematics, in the letters and signs of ASCII."""
    text = unicodedata.normalize("NFKC", answer)
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf){([^{}]*)}", r"\1", text)
    text = re.sub(r"[*`$]|\\[()\[\]]|(?<!\w)_+|_+(?!\w)", "", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def _read_whole(answer: str, options: Sequence[str]) -> int | None:
    """Reads an answer of one line that is nothing but the choice, with or without its text."""
    texts = [_bare(option) for option in options]
    for said in dict.fromkeys((answer, _LEAD.sub("", answer, count=1) if _LEAD.match(answer) else answer)):
        if alone := _ALONE.fullmatch(said):
            return LETTERS.find(alone["letter"].upper())
        if _bare(said) and _bare(said) in texts:
            return texts.index(_bare(said))
        led = _LED.fullmatch(said)
        place = LETTERS.find(led["letter"].upper()) if led else len(options)
        if led is None or place >= len(options):
            continue
        if _bare(led["text"]) == texts[place]:
            return place
        if led["letter"].isupper() and not _doubtful(led["text"], place, options):
            return place
    return None


def _read_sentences(text: str, options: Sequence[str]) -> int | None:
    """Reads the sentence of a longer answer that says which option it is."""
    pieces = list(_pieces(text))
    said = [_declared(piece, options) for piece in pieces]
    named = set(said) - {None}
    if len(named) != 1:
        return None
    (place,) = named
    rest = " ".join(piece.text for piece in pieces[1:])
    sure = said[-1] is not None or (said[0] is not None and place is not None and not _doubtful(rest, place, options))
    return place if sure else None


def _pieces(text: str) -> Iterator[_Piece]:
    """Gives the sentences of a text. A line after "...:" is one of its own only where that announces an answer."""
    led = False
    for line in filter(None, map(str.strip, text.splitlines())):
        found = [piece.strip() for piece in _SENTENCE.findall(line)]
        for piece in filter(None, found):
            yield _Piece(piece, own_line=piece == line and not led)
        led = line.endswith(":") and not _ANNOUNCES.fullmatch(line)


def _declared(piece: _Piece, options: Sequence[str]) -> int | None:
    """Returns the place of the option that a sentence says it is, else None."""
    if piece.own_line and (alone := _ALONE.fullmatch(piece.text)):
        return LETTERS.find(alone["letter"]) if alone["letter"].isupper() else None
    if piece.text.endswith("?"):
        return None
    for pattern in _DECLARED:
        match = pattern.fullmatch(piece.text.rstrip(".!;。"))
        if match is None:
            continue
        parts = match.groupdict()
        place = LETTERS.find(parts["letter"])
        if place >= len(options) or (parts.get("text") and _bare(parts["text"]) != _bare(options[place])):
            continue
        if re.search(r"\b(?:but|however|actually|wait|no)\b|但|不过|其实", parts["reason"] or "", re.IGNORECASE):
            continue
        return place
    return None


def _doubtful(text: str, place: int, options: Sequence[str]) -> bool:
    """Tells whether a text speaks of another option than the one at `place`, or may take it back."""
    own = _bare(options[place])
    said = _bare(text).replace(own, " ") if own else _bare(text)
    said = _CONTRAST.sub("", said)
    letters = "".join(LETTERS[other] for other in range(len(options)) if other != place)
    return (
        re.search(rf"(?<![A-Za-z])[{letters}](?![A-Za-z'])", text) is not None
        or _TURNS.search(said) is not None
        or any(
            _holds(_bare(text).replace(own, " ") if _bare(option) in own else _bare(text), _bare(option))
            for other, option in enumerate(options)
            if other != place
        )
    )


def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split()).strip("*_`\"' ").rstrip(".!,;:。 ").casefold()


def _holds(said: str, text: str) -> bool:
    """Tells whether a text stands in what was said; within a longer word it does not."""
    return re.search(rf"(?<![a-z0-9]){re.escape(text)}(?![a-z0-9])", said) is not None
