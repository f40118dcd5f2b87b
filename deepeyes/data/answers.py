"""What kind of answer a reference is (pure)."""

from __future__ import annotations

import hashlib
import re

KINDS = ("option", "yes or no", "number", "expression", "words", "sentence")
"""Every kind, in the order of tables."""

SENTENCE_WORDS = 6
"""From so many words on it is a sentence, which a judge alone can compare."""

_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(\.\d+)?\s*(%|°|[a-zA-Z]{1,3}|[^\w\s]{1,2})?")
_OPTION = re.compile(r"\(?[A-H]\)?[.:]?(\s.{0,200})?", re.DOTALL)
_EXPRESSION = re.compile(r"[\\^_={}√π]|\d\s*[-+*/]\s*\d|[a-z]\s*[-+*/]\s*\d")


def answer_kind(reference: str) -> str:
    """Returns one of `KINDS`."""
    text = reference.strip()
    if re.fullmatch(r"(yes|no|true|false)\.?", text, re.IGNORECASE):
        return "yes or no"
    if re.fullmatch(r"\(?[A-H]\)?[.:]?", text) or (_OPTION.fullmatch(text) and re.match(r"\(?[A-H]\)?[.:)]\s", text)):
        return "option"
    if _NUMBER.fullmatch(text):
        return "number"
    if _EXPRESSION.search(text):
        return "expression"
    return "words" if len(text.split()) < SENTENCE_WORDS else "sentence"


def key_of(text: object, *, loose: bool = False) -> bytes:
    """Returns a hash of a text.

    Args:
        text: Anything else than a text has an empty hash.
        loose: Spaces, case and a final dot are set aside.
    """
    if not isinstance(text, str):
        return b""
    if loose:
        text = " ".join(text.casefold().split()).rstrip(".")
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
