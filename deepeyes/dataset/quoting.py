"""Values of a row in messages: short, whatever they hold."""

from __future__ import annotations

from typing import Any

MAX_QUOTE = 80
"""Characters of a value that a message shows."""


def quote(value: Any) -> str:
    """Returns the start of a value as Python writes it."""
    return f"{value!r:.{MAX_QUOTE}}"


def shorten(value: Any) -> Any:
    """Returns the start of what is too long to be quoted; a name as it is."""
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}..."
