"""Text that could pass for something else: the judge's own markers, role tokens, media tags."""

from __future__ import annotations

import re

MAX_LABEL_CHARS = 100  # of a label or of a box that is no box, in `rollout_infos`
PLAIN = str.maketrans("［］【】：｜‐‑–—−‘’“”", "[][]:|-----''\"\"")  # noqa: RUF001 - what they look like
MARKERS = re.compile(
    r"\[\s*(?:question|(?:reference|standard|model)[\s_]*answer)\s*\]|\bjud(?:ge?)?e?ment[\s*_`]{0,9}[:=]"
    r"|<\|[^|<>]{1,40}\|>|\[/?INST\]|</?(?:s|start_of_turn|end_of_turn)>",
    re.IGNORECASE,
)
MEDIA_TAG = re.compile(r"<(?=/?(?:image|video|audio|img|bbox|ref-object|cot-process|start-image)\b|\|)", re.IGNORECASE)


def forges_markers(answer: str) -> bool:
    """Tells whether an answer contains the judge's own markers or a role token."""
    return MARKERS.search(answer.translate(PLAIN)) is not None


def inert(text: str) -> str:
    """Returns the start of a text that the model wrote, without tags, tokens, control characters or surrogates."""
    text = " ".join(text[: 2 * MAX_LABEL_CHARS].encode("utf-8", "replace").decode("utf-8").split())
    return "".join(char for char in text if char.isprintable() and char not in "<>|")[:MAX_LABEL_CHARS]
