"""Verdicts: what is asked, and how a judge's reply is read (pure)."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from deepeyes.markers import PLAIN, disarm

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        ahead: Whether it was asked for when the trajectory ended, before its batch came to the reward.
    """

    correct: bool
    source: str
    ahead: bool = False


UNPARSEABLE = Verdict(correct=False, source="unparseable")


def fill_prompt(template: str, question: Question) -> str:
    """Fills a judge prompt in one pass, with the answer on one line, bounded, and unable to forge a marker."""
    answer = "".join(char if char.isprintable() else " " for char in question.answer.translate(PLAIN))
    answer = disarm(" ".join(answer.split()))[:MAX_ANSWER_CHARS]
    values = {"question": question.question.strip(), "reference": question.reference.strip(), "answer": answer}
    pieces = _split_prompt(template)
    return "".join(values[piece] if place % 2 else piece for place, piece in enumerate(pieces))


@functools.cache
def _split_prompt(template: str) -> list[str]:
    """Splits a judge prompt: text and names of fields by turns."""
    return re.split(r"\{(question|reference|answer)\}", template)


# How a judge writes its verdict. Full-width forms and Markdown are set aside before these are matched.
_VALUES = {
    True: ("1", "true", "yes", "correct", "agree", "agrees", "agreed", "一致", "正确", "是"),
    False: ("0", "false", "no", "incorrect", "disagree", "disagrees", "disagreed", "不一致", "错误", "否"),
}
_MEANING = {word: correct for correct, words in _VALUES.items() for word in words}
_NUMBER = r"\(?\s?(?P<value>[01](?:\.0{1,3})?|true|false)\s?\)?"
_ANY_VALUE = rf"\(?\s?(?P<value>[01](?:\.0{{1,3}})?|{'|'.join(word for word in _MEANING if not word.isdigit())})\s?\)?"
_VALUE_ENDS = r"(?=因|由于|\W|\Z)(?![%/°]|[.,:]\d|-\d)"
_LABEL = (
    r"(?:(?:jud(?:ge?)?e?ment|verdict)(?: (?:result|value|score|label|output))?"
    r"|(?:最终|我的)?(?:判断|判斷|评判|判定|评定|结论|結論|判决|裁决|裁定)(?:结果|結果|结论)?)"
)
_IS = r"(?:is|should be|would be|must be|will be|equals|应该是|應該是|应为|應為|为|為|是)"
_LEAD = (  # what may stand between the beginning of a sentence and its label
    r"(?:[-•>+~]\s?|\d{1,2}[.)]\s)?"
    r"(?:(?:therefore|thus|so|hence|overall|finally|accordingly|consequently|as a result|in conclusion|in summary"
    r"|to conclude|to summari[sz]e|to sum up|(?:based on|given|from) (?:this|that|these|the above"
    r"|the (?:above |given )?(?:analysis|comparison|information|reasoning)))[ ,:]{1,3})?"
    r"(?:(?:因此|所以|综上所述|综上|总之|故|最终|最后)[,:、 ]?)?"
    rf"(?:(?:my |the |final |overall ){{0,3}}"
    rf"(?:output|answer|response|result|reply|evaluation|conclusion|decision"
    rf"|(?:最终)?(?:答案|输出|回答|结果)|{_LABEL})"
    r" ?(?:[:=]|(?:is|为|為|是) ?[:=]?) ?)?"
    r"(?:here is |here's |here s |this is )?"
    r"(?:(?:the|my|our|a|its|final|overall|equivalence|correct|ultimate|resulting|binary) ){0,4}"
)
_LINK = rf"(?P<link>\s?(?:[:=]{{1,2}}>?|-+>|→|⇒|-+(?=\s)|{_IS}\s?[:=]?)?)\s?"
_LABELLED = re.compile(rf"{_LEAD}{_LABEL}{_LINK}(?:{_ANY_VALUE}{_VALUE_ENDS}|(?P<below>\Z))", re.IGNORECASE)
_VALUE_BELOW = re.compile(_ANY_VALUE + _VALUE_ENDS, re.IGNORECASE)
_BARE = re.compile(_NUMBER + _VALUE_ENDS, re.IGNORECASE)
_BARE_LINE = re.compile(rf"{_NUMBER}[.!]?", re.IGNORECASE)
_SENTENCE = re.compile(r"(?:(?<=[.!?。])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.) |(?<=[。!?])(?! )|^)(?=\S)")

_REASON = re.compile(r"(?:because|since|as|due to|given that|for the reason|因为|因|由于)(?![a-z])", re.IGNORECASE)
_EXPLAINED = re.compile(  # a new sentence about the answers, with no full stop before it
    r"\s(?-i:(?:The|Both|They|There|Neither|These|Those|Each|All) (?=[^\W\d]))|\s?(?:两者|二者|两个|模型|参考)"
    r"|\s?(?:reasons?|reasoning|rationale|explanation|justification|理由|原因|解释|说明) ?:",
    re.IGNORECASE,
)
_CONDITION = re.compile(  # what makes that sentence the half of an instruction
    r"\b(?:if|when|whenever|unless|otherwise|only|would|should|must|needs?|requires?|means?)\b"
    r"|如果|若|否则|或|除非|表示|代表|必须|应",
    re.IGNORECASE,
)
_DOUBT = re.compile(  # what takes a verdict back, or makes it the half of an instruction
    r"[\s\d]*(?:(?:if|or|when|whenever|unless|where|only|otherwise|else|in case|mean|means|meaning|provided|assuming"
    r"|but|however|though|although|except|yet|maybe|perhaps|possibly|probably|unsure|not sure|not certain|wait|actually"
    r"|rather|sorry|would|should|could|might|is|and|versus|vs|i mean|on second thought|correction|no(?=[,.;:!]|$))"
    r"(?!\w)|如果|若|当|否则|或|但|然而|不过|除非|表示|代表|还是|不对)|\s*\d|\s*\?",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(/?)(?:jud(?:ge?)?e?ment|verdict)>", re.IGNORECASE)
_QUOTES = re.compile(r"\\(?:boxed|text|mathbf|mathrm)(?=\s?\{)|\\[()]|[*_`#\"'|{}$「」『』«»\u2039\u203a《》„“”]")
_BRACKETED = re.compile(rf"[\[(]\s*({_LABEL}|[01](?:\.0+)?|true|false)\s*[\])]", re.IGNORECASE)
_REFUSED = re.compile(r"(?:^|[.!?。]\s*)(?:no[,.]|不对|不是[,.。]|不[,.。])", re.IGNORECASE | re.MULTILINE)
_RETRACTED = re.compile(
    r"(?:^|[.!?。,;-]\s*)(?:wait|no, |no\. |hold on|on second thought|scratch that|correction\b|sorry|oops|hmm|i mean\b"
    r"|let me re|i made a mistake|actually,|等等|不对|更正)",
    re.IGNORECASE | re.MULTILINE,
)
_GOOD = re.compile(
    r"\s*(?:agree|correct|right|consistent|same|equivalent|match|一致|正确|相同|[✅✔✓☑👍])", re.IGNORECASE
)
_BAD = re.compile(
    r"\s*(?:disagree|incorrect|wrong|inconsistent|differ|mismatch|not |contradict|不|错误|[❌✗✘❎👎])", re.IGNORECASE
)
_MARK = re.compile(r"\s*[✅✔✓☑👍❌✗✘❎👎\ufe0f]+")
_RESTATED = re.compile(  # ends a line after which a verdict is quoted, not given
    r"(?:\b(?:with|or|either|not|to|of|for|say|saying|write|than|n't)|[,(]"
    r"|\b(?:either|options?|possible|choose|format|reply with|respond with|one of|example|instructions?)\b.{0,80}:)\Z",
    re.IGNORECASE,
)
_END_TOKEN = re.compile(
    r"<\|?(?:im_end|endoftext|eot_id|eom_id|end|end_of_turn|eos|return|end▁of▁sentence)\|?>|</s>|\[/?INST\]"
)
_NEXT_QUESTION = re.compile(r"^\W{0,9}question\s?\]", re.IGNORECASE | re.MULTILINE)  # the judge goes on with its prompt
_THOUGHT = r"(?:think|thinking|thought|thoughts|reasoning)"


def parse_verdict(reply: str) -> bool | None:
    """Reads the verdict from what a judge wrote.

    A verdict is a label that begins its line or sentence with a value after it ("Judgement: 1", "So the judgement
    is 0 because ...", a heading with TRUE below it, a field of a JSON object), or a reply that begins with the value.
    What only mentions a verdict ("It is not Judgement: 1", "Judgement: 1 would be for agreement", the task restated)
    is none. Thoughts, Markdown, quotes, brackets, full-width forms and end tokens are set aside. A reply that says
    both has no verdict.

    Returns:
        The verdict, or None.
    """
    text = _spoken(reply)
    objects = _json_verdicts(text)
    lines = [line for line in map(_plain, text.splitlines()) if line]
    if not lines:
        return None
    labelled, quoted, end = _labelled_verdicts(lines)
    said = [*objects, *labelled]
    if not said:
        leading = _leading_verdict(lines)
        said = [] if leading is None else [leading]
    text = "\n".join(lines)
    if not said or _RETRACTED.search(text, end) or (said[0] and _REFUSED.search(text, 0, end)):
        return None
    said += [*quoted, *(_meaning(only) for only in map(_BARE_LINE.fullmatch, lines) if only)]
    return said[0] if len(set(said)) == 1 else None


def _spoken(reply: str) -> str:
    """Returns what a reply says after its thoughts and before its end token, in plain characters."""
    text = unicodedata.normalize("NFKC", reply).translate(PLAIN)
    text = re.split(rf"</{_THOUGHT}>|◁/think▷", text, flags=re.IGNORECASE)[-1]
    if re.search(rf"<{_THOUGHT}>|◁think▷", text, re.IGNORECASE):  # cut off before the verdict
        return ""
    text = next((part for part in _END_TOKEN.split(text) if part.strip()), "")
    text = re.sub(r"<\|[^|<>]{1,40}\|>(?:assistant\b)?", "\n", text)
    text = _NEXT_QUESTION.split(text, maxsplit=1)[0]
    text = re.sub(r"\\n(?![a-z])", "\n", text)
    lines = text.strip().splitlines()
    for place in {0, len(lines) - 1} if lines else ():
        if boxed := re.fullmatch(r"[\s$*]*\\boxed\s?\{\s?(?:\\text\s?\{)?([01])\}{1,2}[\s$*.]*", lines[place]):
            lines[place] = f"Judgement: {boxed[1]}"
    return "\n".join(lines)


def _plain(line: str) -> str:
    """Returns a line without Markdown, tags of the verdict, quotes, and brackets around a label or a value."""
    line = _TAG.sub(lambda tag: " " if tag[1] else " Judgement: ", line)
    line = _BRACKETED.sub(r" \1 ", _QUOTES.sub(" ", line))
    line = " ".join(line.replace("[", "(").replace("]", ")").split())
    line = re.sub(r"\A\(([^()]*)\)\Z", r"\1", line)
    return re.sub(r" (?=[:,.;!?])", "", line)


def _json_verdicts(text: str) -> list[bool]:
    """Returns the verdicts of the JSON objects that are the whole reply, or a line of it."""
    whole = re.sub(r"\A\s*```\w*|```\s*\Z", "", text).strip()
    found: list[bool] = []
    for part in dict.fromkeys([whole, *map(str.strip, text.splitlines())]):
        if not (part.startswith("{") and part.endswith("}")):
            continue
        with contextlib.suppress(ValueError, RecursionError):
            pairs = json.loads(part, object_pairs_hook=list)
            names = [re.fullmatch(_LEAD + _LABEL, name.replace("_", " "), re.IGNORECASE) for name, _ in pairs]
            values = [
                str(value).lower().removesuffix(".0") for name, (_, value) in zip(names, pairs, strict=True) if name
            ]
            found += [_MEANING[value] for value in values if value in _MEANING]
    return found


def _labelled_verdicts(lines: Sequence[str]) -> tuple[list[bool], list[bool], int]:
    """Returns the verdicts whose label begins a line or a sentence.

    Returns:
        Those given; those that a line only quotes; and where the last that is given ends, in the lines joined by line
        ends: what stands before it can't take it back.
    """
    given: list[bool] = []
    quoted: list[bool] = []
    begin = end = 0
    for place, line in enumerate(lines):
        found = quoted if place and _RESTATED.search(lines[place - 1][-120:]) else given
        for start in _SENTENCE.finditer(line):
            label = _LABELLED.match(line, start.end())
            if label is None:
                continue
            rest, strict = line[label.end() :], not label["link"].strip()
            after = begin + label.end()
            if label["below"] is not None:
                below = _VALUE_BELOW.match(lines[place + 1]) if place + 1 < len(lines) else None
                if below is None or re.match(r"\.\s*\S", lines[place + 1][below.end() :]):  # a numbered list
                    continue
                label, rest, strict = below, lines[place + 1][below.end() :], False
                after = begin + len(line) + 1 + below.end()
            elif strict and label["value"].lower() not in ("1", "0", "true", "false"):
                continue
            correct = _meaning(label)
            if _is_given(rest[:400], correct=correct, strict=strict):
                found.append(correct)
                end = after if found is given else end
        begin += len(line) + 1
    return given, quoted, end


def _leading_verdict(lines: Sequence[str]) -> bool | None:
    """Returns the verdict of a reply that begins with its value."""
    value = _BARE.match(lines[0])
    if value is None or (len(lines) > 1 and re.match(r"\(?\d", lines[1])):  # a list
        return None
    rest, correct = lines[0][value.end() :], _meaning(value)
    if re.match(r"[.:)]\s*\S", rest) or _EXPLAINED.match(rest):  # a numbered line
        return None
    return correct if _is_given(rest[:400], correct=correct, strict=False) else None


def _meaning(found: re.Match[str]) -> bool:
    return _MEANING[found["value"].lower().partition(".")[0]]


def _is_given(rest: str, *, correct: bool, strict: bool) -> bool:
    """Tells whether what follows a value on its line leaves it a verdict.

    Args:
        rest: The rest of the line.
        correct: What the value says.
        strict: Nothing but the end of the sentence or a remark in brackets may follow.
    """
    against = _BAD if correct else _GOOD
    while mark := _MARK.match(rest):
        if against.match(mark[0]):
            return False
        rest = rest[mark.end() :]
    if remark := re.match(r"\s*\(([^()]*)\)", rest):
        doubted = _DOUBT.match(remark[1]) or against.match(remark[1]) or "?" in remark[1]
        return not doubted and _is_given(rest[remark.end() :], correct=correct, strict=strict)
    sentence = re.split(r"(?<=[.!?。])(?:\s|$)|。", rest, maxsplit=1)[0]
    if re.match(r"\s*[.!]*\?", rest) or re.search(rf"(?<![\w.])[{'0' if correct else '1'}][.!]?\Z", sentence):
        return False
    if re.match(r"\s*(?:[.!。;]|\Z)", rest):
        return True
    if after := re.match(r"\s*[,:;、-]+", rest):
        return not strict and not _DOUBT.match(rest[after.end() :]) and not against.match(rest[after.end() :])
    return not strict and (_REASON.match(rest.lstrip()) is not None or _is_explained(sentence, correct=correct))


def _is_explained(sentence: str, *, correct: bool) -> bool:
    """Tells whether what follows a value begins to say why, and neither contradicts it nor says when it would hold."""
    begins = _EXPLAINED.match(sentence)
    if begins is None:
        return False
    contradicted = _BAD.search(sentence) if correct else _GOOD.match(sentence, begins.end())
    both = re.search(rf"(?<![\w.]){'0' if correct else '1'}(?![\w.])", sentence)
    return not (contradicted or both or _CONDITION.search(sentence) or sentence.rstrip().endswith("?"))
