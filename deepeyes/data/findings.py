"""What the check finds out about a file."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class FileReport:
    """All that the check found out about a file. Row numbers start at 0.

    Attributes:
        path: The file.
        snapshot: How it relates to the published files.
        differs: It bears an official name, but is not the published file.
        rows: Rows in it.
        sources: Rows a data source.
        problems: Reason to drop a row -> the rows.
        notes: Remark on rows that are kept -> the rows.
        digests: Digest of the image of each row, empty where there is none.
    """

    path: Path
    snapshot: str = "own data"
    differs: bool = False
    rows: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    digests: list[bytes] = field(default_factory=list)

    @property
    def dropped(self) -> set[int]:
        """Rows with at least one problem."""
        return {row for rows in self.problems.values() for row in rows}

    @property
    def sound(self) -> bool:
        """Whether there is nothing to mend: some rows, all good, and the published ones under a published name."""
        return bool(self.rows) and not self.differs and not self.problems

    @property
    def images(self) -> int:
        """Different images."""
        return len(set(self.digests) - {b""})
