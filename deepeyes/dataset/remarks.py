"""What a check says of a row."""

from __future__ import annotations

from typing import NamedTuple


class Remark(NamedTuple):
    """One finding about one row.

    Attributes:
        text: What is wrong and what was expected; equal for all rows with the same fault, so that they are one line.
        example: What this row holds, where that differs from row to row.
    """

    text: str
    example: str = ""

    def __str__(self) -> str:
        """Returns both, for a message about this row alone."""
        return f"{self.text}: {self.example}" if self.example else self.text
