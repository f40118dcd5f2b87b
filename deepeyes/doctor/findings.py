"""What a check says: one line of the report."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Level(str, Enum):
    """How bad it is: only errors stop a run."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        check: What was looked at.
        level: How it is.
        found: What was found and, where it is not ok, what is expected.
        mend: The command that mends it, where there is one.
    """

    check: str
    level: Level
    found: str
    mend: str = ""
