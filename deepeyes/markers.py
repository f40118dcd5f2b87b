"""Text that could pass for something else: the judge's own markers, role tokens, media tags."""

from __future__ import annotations

import re

MAX_LABEL_CHARS = 100  # of a label or of a box that is no box, in `rollout_infos`
PLAIN = str.maketrans("［］【】：｜‐‑–—−‘’“”", "[][]:|-----''\"\"")  # noqa: RUF001 - what they look like
_LABEL = r"(?:\bjud(?:ge?)?e?ment|判断(?:结果)?|评判|判定|结论)"
_BRACKETS = r"\[\s*(?:question|(?:reference|standard|model)[\s_]*answer)\s*\]"
FORGERIES = re.compile(  # the judge's own markers, a verdict line in any form, and role tokens of chat templates
    rf"{_BRACKETS}|{_LABEL}[\s*_`\"'\])]{{0,9}}[:=][\s*_`\"'\[(]{{0,9}}(?:[01](?:\.0+)?|true|false|yes|no)(?![\w%/]|[.,]\d)"
    r"|<jud(?:ge?)?e?ment>\s*(?:[01]|true|false)|<\|[^|<>]{1,40}\|>|\[/?INST\]|</?(?:start_of_turn|end_of_turn)>",
    re.IGNORECASE,
)
_LOOKS_ALIKE = re.compile(  # what a judge could take for one of them
    rf"(?P<open>\[)(?=\s*(?:question|(?:reference|standard|model)[\s_]*answer)\s*\])|(?P<label>{_LABEL}[\s*_`\"'\])]{{0,9}})[:=]"
    r"|<(?=/?(?:s|jud(?:ge?)?e?ment|start_of_turn|end_of_turn|think)>|\|)|\[(?=/?INST\])",
    re.IGNORECASE,
)
MEDIA_TAG = re.compile(r"<(?=/?(?:image|video|audio|img|bbox|ref-object|cot-process|start-image)\b|\|)", re.IGNORECASE)


def forges_markers(answer: str) -> bool:
    """Tells whether an answer writes a verdict line, one of the judge's own markers, or a role token.

    A word that only looks like one ("Judgment: final" on a sign, `<s>` in HTML) is none; an end token `</s>` is one
    where no `<s>` opens before it.
    """
    plain = answer.translate(PLAIN)
    return FORGERIES.search(plain) is not None or "</s>" in plain.lower().partition("<s>")[0]


def disarm(text: str) -> str:
    """Returns a text in which nothing can pass for a marker or a token, with all its words."""
    return _LOOKS_ALIKE.sub(lambda found: f"{found['label'].rstrip()} -" if found["label"] else "(", text)


def inert(text: str) -> str:
    """Returns the start of a text that the model wrote, without tags, tokens, control characters or surrogates."""
    text = " ".join(text[: 2 * MAX_LABEL_CHARS].encode("utf-8", "replace").decode("utf-8").split())
    return "".join(char for char in text if char.isprintable() and char not in "<>|")[:MAX_LABEL_CHARS]
