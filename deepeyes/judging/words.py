"""The words, numbers, quantities and dates that carry the meaning of a short answer (pure)."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from deepeyes.markers import PLAIN


def words(text: str) -> frozenset[str]:
    """Returns the words of a list in a string."""
    return frozenset(text.split())


ARTICLES = words("a an the der die das den dem ein eine einen el la los las un una le les une des du")
_LIGHT = words(
    "is are was were be it its this that there ist sind es im est ce il y und et and 的 了 是 着 呢 吗 这 那"
)
STOP_WORDS = (
    ARTICLES | _LIGHT | words("of on at to von de del 在 有 个 只 条 张 位 名 辆 本 朵 棵 座 层 块 件 把 它 他 她")
)
BINDING = words("of on at to")  # stop words that make another thing of what they stand behind: "turn on"
_PLACES = words("left right other same top bottom near far hand front back")
NEGATIONS = words(
    "no not never none neither nor nothing without nicht kein keine keinen nie ne pas non sin nunca ni 不 没 无 非 未"
)
YES = words("yes yeah yep ja oui sí si 是 是的 对 有")
NO = words("no nope nein non 否 不 不是 没有")
OR = words("or oder ou o 或 还是 或者 还")

_UNITS_OF_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: value for value, word in enumerate(_UNITS_OF_NUMBERS)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES |= {f"{word}s": value for word, value in _SCALES.items()} | {"bn": 10**9, "mn": 10**6}
_SCALES |= {"百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_NUMBER_WORD = "|".join(sorted([*_SMALL, "hundred", "thousand", "million", "billion"], key=len, reverse=True))
_SPELLED = re.compile(rf"(?<!\d )(?<!\d)\b(?:{_NUMBER_WORD})(?:(?:[\s-]|\sand\s)(?:{_NUMBER_WORD}))*\b")
_CHINESE_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "\u3007": 0}
_CHINESE = re.compile(r"[零\u3007一二三四五六七八九十百两]+(?=[个只条张位名辆本朵棵座层块件把人年月日点岁]|\Z)")

# A unit by its names: the dimension, and how many of its base a unit is.
_UNITS: dict[str, tuple[str, Fraction]] = {}
for _dimension, _factor, _names in (
    ("length", "1/1000", "mm millimeter millimetre"),
    ("length", "1/100", "cm centimeter centimetre 厘米"),
    ("length", "1", "m meter metre 米"),
    ("length", "1000", "km kilometer kilometre 公里 千米"),
    ("inch", "1", "inch inches"),
    ("foot", "1", "ft foot feet"),
    ("mile", "1", "mile mi"),
    ("mass", "1/1000", "g gram 克"),
    ("mass", "1", "kg kilogram kilo 千克 公斤"),
    ("pound", "1", "lb lbs"),
    ("volume", "1/1000", "ml milliliter millilitre 毫升"),
    ("volume", "1", "l liter litre 升"),
    ("time", "1", "s sec second 秒"),
    ("time", "60", "min minute 分钟"),
    ("time", "3600", "h hr hour 小时"),
    ("day", "1", "day 天"),
    ("kmh", "1", "km/h kmh kph"),
    ("mph", "1", "mph"),
    ("part", "1/100", "% percent per_cent"),
    ("degree", "1", "° degree 度"),
    ("celsius", "1", "°c degrees_celsius"),
    ("fahrenheit", "1", "°f degrees_fahrenheit"),
    ("usd", "1", "$ dollar usd 美元"),
    ("eur", "1", "€ euro eur 欧元"),
    ("gbp", "1", "£ gbp"),
    ("cny", "1", "¥ yuan rmb 元"),
):
    for _name in _names.split():
        _UNITS[_name.replace("_", " ")] = (_dimension, Fraction(_factor))
        if _name.isascii() and _name.isalpha() and len(_name) > 3:  # noqa: PLR2004 - short names have no plural
            _UNITS[f"{_name}s"] = (_dimension, Fraction(_factor))

_MONTH_NAMES = (
    "january jan,february feb,march mar,april apr,may,june jun,july jul,august aug,september sep sept,october oct,"
    "november nov,december dec"
)
_MONTHS = {name: month for month, names in enumerate(_MONTH_NAMES.split(","), 1) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DATES = (  # year, month and day by their names
    re.compile(r"(?<![\d-])(?P<y>\d{4})-(?P<m>0[1-9]|1[0-2])-(?P<d>\d{1,2})(?![\d-])"),
    re.compile(rf"\b(?P<name>{_MONTH})\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y>\d{{4}})\b"),
    re.compile(rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<name>{_MONTH})\.?,? (?P<y>\d{{4}})\b"),
    re.compile(rf"\b(?P<name>{_MONTH})\.?,? (?:of )?(?P<y>\d{{4}})\b"),
    re.compile(r"(?P<y>\d{4})年(?P<m>\d{1,2})月(?:(?P<d>\d{1,2})[日号])?"),
)
_YEAR_AND_MONTH = re.compile(r"(?<![\d-])(?P<y>\d{4})-(?P<m>0[1-9]|1[0-2])(?![\d-])")  # or a range of years: 2010-12
_ASKS_FOR_MONTH = re.compile(r"month|date|when|月|日期|什么时候|monat|wann|mes\b|fecha|mois|quand")
_END = r"(\d[\d.,]*%?)"
_RANGE = re.compile(rf"(?<![\d.,-])(?:(?:from )?{_END}(?: ?- ?| to ){_END}|between {_END} and {_END})(?![\d-])")
_NUMBER = r"\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+"
_UNIT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_SCALE = "|".join(sorted(_SCALES, key=len, reverse=True))
_LETTER = r"[^\W\d_\u3400-\u9fff]"
_TOKEN = re.compile(
    r"(?P<kept>⟨[^⟩]*⟩)"
    r"|(?P<clock>(?<![\w.])\d+(?:[:/]\d+)+(?![\w]))"
    rf"|(?P<sign>[$€£¥])?\s?(?P<number>(?:(?<!\w)-)?(?:{_NUMBER})(?![.,]?\d))(?:\s?(?P<scale>{_SCALE})(?![a-z])|(?P<kilo>k)(?![a-z]))?"
    rf"(?:\s?(?P<unit>{_UNIT})(?![a-z]))?(?!{_LETTER})"
    r"|(?P<chinese>[\u3400-\u9fff])"
    rf"|(?P<word>(?:{_LETTER}|\d)+)"
    r"|(?P<other>[^\s\w.,;:!?'\"()\[\]*`_-])"
)


_LETTER_A = re.compile(r"(?<=[\w,] )A(?![\w'])")  # as in "vitamin A": no article


def simplify(text: str, *, exact_case: bool = False) -> str:
    """Returns a text without full-width forms, Markdown, quotes and, unless told otherwise, capitals."""
    text = re.sub(r"(?<=\w)[⁰¹²³⁴⁵⁶⁷⁸⁹]", lambda digit: f"^{unicodedata.normalize('NFKC', digit[0])}", text)
    text = unicodedata.normalize("NFKC", text).translate(PLAIN)
    text = text.replace("。", ". ")
    text = re.sub(r"\\(?:boxed|text|mathrm)\s*\{([^{}]*)\}|\$([^$]*\\[^$]*)\$", r" \1\2 ", text)
    text = re.sub(r"[*_`「」『』«»]+|(?<!\w)[\"']+|[\"']+(?!\w)", " ", text)
    text = " ".join(text.split())
    return text if exact_case else text.casefold()


def words_of(text: str, question: str = "", *, exact_case: bool = False) -> list[str]:
    """Returns the words, quantities, dates and signs of a text; equal quantities give equal words.

    Args:
        text: An answer, a reference or a question.
        question: What was asked: 2021-05 is a month where it asks for one, and else may be a range of years.
        exact_case: Whether "AB" and "ab" are two words.
    """
    text = simplify(text, exact_case=True)
    text = _LETTER_A.sub("⟨a⟩", text)
    if "⟨a⟩" in _LETTER_A.sub("⟨a⟩", question):
        text = re.sub(r"\AA(?![\w'])", "⟨a⟩", text)
    text = text if exact_case else text.casefold()
    text = re.sub(r"\b[cdjlmst]'(?=[^\W\d_])", "", re.sub(r"\bn'(?=[^\W\d_])", "ne ", text))  # French
    text = re.sub(r"\bcannot\b|\bcan't\b|n't\b", " not ", text)
    text = re.sub(r"(?<=[a-z])'(?:s|re)\b", " is ", text)
    text = re.sub(r"\bnos?\.? ?(?=#?\d)|\bnumber (?=\d)", "", text, flags=re.IGNORECASE)
    for pattern in (*_DATES, *([_YEAR_AND_MONTH] if _ASKS_FOR_MONTH.search(question.casefold()) else [])):
        text = pattern.sub(_date, text)
    text = _SPELLED.sub(_spelled, text)
    text = _CHINESE.sub(_chinese, text)
    text = _RANGE.sub(lambda ends: f" ⟨{'..'.join(_plain_number(end) for end in ends.groups() if end)}⟩ ", text)
    words = [_word(match) for match in _TOKEN.finditer(text)]
    return [word for place, word in enumerate(words) if word != "side" or words[place - 1 : place] not in _BESIDE]


_BESIDE = [[place] for place in _PLACES]


def _date(found: re.Match[str]) -> str:
    parts = found.groupdict()
    month = _MONTHS[parts["name"]] if parts.get("name") else int(parts["m"])
    return f" ⟨{parts['y']}y{month}m{int(parts['d'] or 0) if 'd' in parts else 0}⟩ "


def _spelled(found: re.Match[str]) -> str:
    """Returns the digits of a number in words; words that are no one number stay apart."""
    total = current = 0
    for word in re.split(r"[\s-]+", found[0]):
        if word == "and":
            continue
        if word in _SMALL:
            value = _SMALL[word]
            room = 100 if current % 100 == 0 else 10 if current % 10 == 0 and current % 100 > 10 else 0  # noqa: PLR2004 - tens and hundreds of a number in words
            if current and value >= room:
                return found[0]
            current += value
        elif word == "hundred":
            current = (current or 1) * 100
        else:
            total += (current or 1) * _SCALES[word]
            current = 0
    return str(total + current)


def _chinese(found: re.Match[str]) -> str:
    total = current = 0
    for char in found[0]:
        if char in _CHINESE_DIGITS:
            current = 10 * current + _CHINESE_DIGITS[char]
        else:
            total += (current or 1) * (10 if char == "十" else 100)
            current = 0
    return str(total + current)


def _plain_number(text: str) -> str:
    """Returns a number without separators of thousands and with a point before its decimals."""
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.rstrip(".,")).replace(",", ".")


def _word(match: re.Match[str]) -> str:
    if match["number"] is None:
        return match["kept"] or match["clock"] or match["chinese"] or match["word"] or match["other"]
    try:
        value = Fraction(_plain_number(match["number"]))
    except ValueError:  # 1.2.3
        return match[0].strip()
    value *= 1000 if match["kilo"] else _SCALES.get(match["scale"] or "", 1)
    dimension, factor = _UNITS.get(match["unit"] or match["sign"] or "", ("", Fraction(1)))
    return f"#{value * factor}{dimension}"


def quantity(words: list[str]) -> tuple[Fraction, str] | None:
    """Returns the value and the dimension of an answer that is one quantity and nothing else."""
    found = re.fullmatch(r"#(-?\d+(?:/\d+)?)([a-z]*)", words[0]) if len(words) == 1 else None
    return (Fraction(found[1]), found[2]) if found else None
