r"""Which answers mathematics can be trusted with, and what has to be equal for two of them to be equal (pure).

Words, units, percentages, relations, chains of equations and names of points go to the judge. What is left are numbers
and expressions of one-letter variables, tuples and sets of them, and \pm. A notation that has two readings (2^10, 1/2x,
1\frac{1}{2}) is not trusted either.
"""

from __future__ import annotations

import cmath
import math
import re
import unicodedata
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CHARS = 200  # longer expressions are derivations
TOLERANCE = 1e-13  # relative; what is nearer is left to exact arithmetic
VALUES = ((1.7320917, 0.3819661), (0.7391213, 1.2533141))  # two points at which variables are tried: start and step
Pairs = list[tuple[str, str]]

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SIGNS = str.maketrans(
    {"√": "\\sqrt ", "π": "\\pi ", "\xd7": "\\times ", "÷": "\\div ", "±": "\\pm ", "·": "\\cdot ", "\u2212": "-"}
)
_NUMBER = r"\d+(?:\.\d+)?|\.\d+"
_RATIONAL = re.compile(rf"([-+]?)\s*(?:({_NUMBER})|\\frac\{{(\d+)\}}\{{(\d+)\}}|\\frac(\d)(\d)|(\d+)\s?/\s?(\d+))")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_TOKEN = re.compile(
    rf"\s*({_NUMBER}|\\(?:frac|sqrt|pi|cdot|times|div|alpha|beta|gamma|delta|theta|lambda|mu|omega|phi)(?![a-zA-Z])"
    r"|[a-z]|[-+*/^(){}\[\]])"
)
_TWO_READINGS = re.compile(  # F, R, P and V stand for \\frac, \\sqrt, \\pi and any other command
    r"\d\s+\d|[\d)}]\s*F|\^\s*\d\d|\^\s*[-+]|F\s*\d\s*\d\s*\d|R\s*\d\s*\d|[a-z]\s*[a-z\d(]|[)}P]\s*\d"
    r"|\.\d+\.|\A\s*\d+\s*-\s*\d+\s*\Z"
)
_COMMAND = re.compile(r"\\[a-z]+")
_INITIALS = {"\\frac": "F", "\\sqrt": "R", "\\pi": "P"}


class _NoNumberError(Exception):
    """Text that is no expression of which a value can be trusted."""


def claims(reference: str, answer: str) -> Pairs | None:
    r"""Tells what has to be equal for an answer to be right.

    Args:
        reference: LaTeX or plain text, as in the dataset.
        answer: What stood in the answer's `\boxed{}`.

    Returns:
        Pairs of expressions that exact arithmetic must still find equal, none where the two are equal as they stand;
        None where they differ, or where mathematics can't be trusted with them.
    """
    if max(len(reference), len(answer)) > MAX_CHARS:
        return None
    gold, said = plain(reference), plain(answer)
    if _letters_only(gold) == _letters_only(said) != "" or _is_ratio(gold, said):
        return []
    return _compare(_read(gold), _read(said))


def plain(text: str) -> str:
    r"""Returns LaTeX without what changes only its looks: `$`, \left, \text{}, thin spaces, Unicode signs."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda digits: f"^{{{digits[0].translate(_SUPERSCRIPTS)}}}", text)
    text = text.translate(_SIGNS)
    text = unicodedata.normalize("NFKC", text).replace("°", "^\\circ ")
    text = re.sub(r"\\(?:left|right|displaystyle|[,;:!]|quad)(?![a-zA-Z])|(?<!\\)\$|\\[()\[\]]|\\ |~", " ", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    text = (
        re.sub(r"\\[dt]frac", r"\\frac", text).replace("{,}", ",").replace("\\%", "%").replace("^{\\circ}", "^\\circ ")
    )
    return " ".join(text.split()).rstrip(".,; ")


def _letters_only(text: str) -> str:
    """Returns a text without the spaces that separate no words and no numbers."""
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text)


def _is_ratio(gold: str, said: str) -> bool:
    """Tells whether one says 2:3 and the other 2/3."""
    forms = [re.fullmatch(r"(\d+) ?([:/]) ?(\d+)|\\frac\{(\d+)\}(\{)(\d+)\}", text) for text in (gold, said)]
    left, right = ([part for part in form.groups() if part] if form else [] for form in forms)
    return bool(left and right) and ":" in (left[1], right[1]) and (left[0], left[2]) == (right[0], right[2])


class _Values(NamedTuple):
    r"""What a text says: its brackets, and the values in them; `signs` where a `\pm` made two of one."""

    brackets: str
    items: list[str]
    signs: bool


def _read(text: str) -> _Values:
    brackets = ""
    if (outer := re.fullmatch(r"(\\\{|[(\[])(.*?)(\\\}|[)\]])", text, re.DOTALL)) and len(_split(outer[2])) > 1:
        brackets, text = outer[1] + outer[3], outer[2]
    parts = [text] if _THOUSANDS.fullmatch(text) and not brackets else _split(text)
    items = []
    for part in parts:
        items += [part.replace("\\pm", sign) for sign in "+-"] if part.count("\\pm") == 1 else [part]
    return _Values(brackets, [item.strip() for item in items], len(items) > len(parts))


def _split(text: str) -> list[str]:
    """Splits at the commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
        if depth < 0:
            return [text]
    return [*parts, text[start:]]


def _compare(gold: _Values, said: _Values) -> Pairs | None:
    alike = gold.brackets == said.brackets or (gold.brackets == "()" and not said.brackets)
    if not alike or len(gold.items) != len(said.items):
        return None
    pairs: Pairs = []
    left = list(said.items)
    free = gold.signs or gold.brackets == "\\{\\}"  # in any order
    for item in gold.items:
        found = next((other for other in (left if free else left[:1]) if _may_equal(item, other)), None)
        if found is None:
            return None
        left.remove(found)
        if _rational(item) is None or _rational(found) is None:
            pairs.append((item, found))
    return pairs


def _may_equal(gold: str, said: str) -> bool:
    """Tells whether two expressions are trusted and have one value: exactly so for plain numbers, else to 13 digits."""
    exact = _rational(gold), _rational(said)
    if None not in exact:
        return exact[0] == exact[1]
    try:
        return all(_is_near(*(evaluate(text, start, step) for text in (gold, said))) for start, step in VALUES) and (
            _variables(gold) == _variables(said)
        )
    except (_NoNumberError, ArithmeticError, ValueError, RecursionError):
        return False


def _is_near(left: complex, right: complex) -> bool:
    return cmath.isfinite(left) and abs(left - right) <= TOLERANCE * max(abs(left), abs(right))


def _variables(text: str) -> set[str]:
    return {token for token in _tokens(text) if re.fullmatch(r"[a-z]|\\(?!frac|sqrt|pi|cdot|times|div)[a-z]+", token)}


def _rational(text: str) -> Fraction | None:
    """Returns the value of a plain number or a fraction of two integers; None for anything else."""
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    found = _RATIONAL.fullmatch(text)
    if found is None:
        return None
    sign, number, *over = found.groups()
    over = [part for part in over if part]
    if over and int(over[1]) == 0:
        return None
    value = Fraction(number) if number else Fraction(int(over[0]), int(over[1]))
    return -value if sign == "-" else value


def _tokens(text: str) -> list[str]:
    if _TWO_READINGS.search(_COMMAND.sub(lambda command: _INITIALS.get(command[0], "V"), text)):
        raise _NoNumberError
    tokens, place = [], 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise _NoNumberError
        tokens.append(found[1])
        place = found.end()
    return tokens


def evaluate(text: str, start: float, step: float) -> complex:
    """Returns the value of an expression, each variable standing for a number of its own.

    Raises:
        _NoNumberError: It is no expression that can be trusted.
        ArithmeticError: It has no value, or one too large.
    """
    parser = _Parser(_tokens(text), start, step)
    value = parser.sum()
    if parser.rest:
        raise _NoNumberError
    return value


class _Parser:
    """Recursive descent over the tokens of an expression."""

    def __init__(self, tokens: Sequence[str], start: float, step: float) -> None:
        self.rest = list(reversed(tokens))
        self._start, self._step = start, step

    def _next(self) -> str:
        return self.rest[-1] if self.rest else ""

    def _take(self, *allowed: str) -> str:
        if not self.rest or (allowed and self.rest[-1] not in allowed):
            raise _NoNumberError
        return self.rest.pop()

    def sum(self) -> complex:
        """Reads terms with + and - between them."""
        sign = -1 if self._next() == "-" else 1
        if self._next() in ("+", "-"):
            self._take()
        value = sign * self._product()
        while self._next() in ("+", "-"):
            sign = -1 if self._take() == "-" else 1
            value += sign * self._product()
        return value

    def _product(self) -> complex:
        value, divided = self._power(), False
        while (token := self._next()) and token not in ("+", "-", ")", "}", "]"):
            if token in ("*", "\\cdot", "\\times"):
                self._take()
                value *= self._power()
            elif token in ("/", "\\div"):
                self._take()
                value /= self._power()
                divided = True
            elif divided or token in ("^", "["):  # 1/2x has two readings
                raise _NoNumberError
            else:
                value *= self._power()
        return value

    def _power(self) -> complex:
        value = self._atom()
        if self._next() == "^":
            self._take()
            exponent = self._group() if self._next() in ("{", "(") else self._atom()
            value = value**exponent
        return value

    def _group(self) -> complex:
        closing = {"{": "}", "(": ")", "[": "]"}[self._take("{", "(", "[")]
        value = self.sum()
        self._take(closing)
        return value

    def _argument(self) -> complex:
        """Reads what stands behind a command: a group, or one digit or letter."""
        if self._next() == "{":
            return self._group()
        token = self._take()
        if token.isdigit() and len(token) > 1:  # \frac12
            self.rest.append(token[1:])
            token = token[0]
        self.rest.append(token)
        return self._atom()

    def _atom(self) -> complex:
        if self._next() in ("(", "{"):
            return self._group()
        word = self._take()
        if re.fullmatch(_NUMBER, word):
            return float(word)
        if word == r"\pi":
            return math.pi
        if word == r"\frac":
            above = self._argument()
            return above / self._argument()
        if word == r"\sqrt":
            root = self._group() if self._next() == "[" else 2.0
            radicand = self._argument()
            return cmath.sqrt(radicand) if root == 2 else radicand ** (1 / root)  # noqa: PLR2004 - a square root
        if not re.fullmatch(r"[a-z]|\\(?!cdot|times|div)[a-z]+", word):
            raise _NoNumberError
        return self._start + self._step * (sum(map(ord, word)) % 97)
