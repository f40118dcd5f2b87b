"""What the check finds out about a file."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepeyes.dataset.pictures import DIGEST_BYTES, pieces
from deepeyes.dataset.quoting import shorten

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepeyes.dataset.remarks import Remark

EXAMPLES = 3
"""Examples that are kept of a finding."""


@dataclass
class Group:
    """Rows of which the same is said.

    Attributes:
        rows: Their numbers, in order.
        examples: What the first of them hold, each once.
    """

    rows: list[int] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


class Groups(dict[str, Group]):
    """Findings by their text."""

    def add(self, remark: Remark, row: int) -> None:
        """Notes a finding of a row."""
        group = self.setdefault(remark.text, Group())
        group.rows.append(row)
        if remark.example and len(group.examples) < EXAMPLES and remark.example not in group.examples:
            group.examples.append(remark.example)


@dataclass
class Columns:
    """One entry a row: what is compared and counted once all files are read. Some 100 bytes a row.

    Attributes:
        sources: The data source.
        questions: Hash of the question.
        references: Hash of the reference answer, spaces, case and a final dot set aside.
        kinds: What kind of answer the reference is.
        lengths: Characters of the reference.
        digests: Of the pictures' pixels, one after the other; empty where there is none.
        fingerprints: Of how the pictures look, likewise; empty where they were not asked for.
        larger: Whether the largest picture has more pixels than its view.
    """

    sources: list[str] = field(default_factory=list)
    questions: list[bytes] = field(default_factory=list)
    references: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    lengths: array[int] = field(default_factory=lambda: array("I"))
    digests: list[bytes] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    larger: array[int] = field(default_factory=lambda: array("b"))


@dataclass
class FileReport:
    """All that the check found out about a file. Row numbers start at 0.

    Attributes:
        path: The file.
        convert: Turns a row of another project into one of ours; raises `ConversionError`.
        snapshot: How it relates to the published files.
        differs: It bears an official name, but is not the published file.
        rows: Rows in it.
        problems: Reason to drop a row -> the rows.
        mended: What training would stop at or score wrongly, and `--out` mends -> the rows.
        notes: Remark on rows that are kept -> the rows.
        columns: See `Columns`.
    """

    path: Path
    convert: Callable[[Any], dict[str, Any]] | None = None
    snapshot: str = "own data"
    differs: bool = False
    rows: int = 0
    problems: Groups = field(default_factory=Groups)
    mended: Groups = field(default_factory=Groups)
    notes: Groups = field(default_factory=Groups)
    columns: Columns = field(default_factory=Columns)

    @property
    def dropped(self) -> set[int]:
        """Rows with at least one problem."""
        return {row for group in self.problems.values() for row in group.rows}

    @property
    def digests(self) -> list[bytes]:
        """Digest of the picture of each row."""
        return self.columns.digests

    @property
    def sources(self) -> Counter[str]:
        """Rows a data source."""
        return Counter(self.columns.sources)

    @property
    def images(self) -> int:
        """Different images."""
        return len({digest for joined in self.digests for digest in pieces(joined, DIGEST_BYTES)})

    def sound(self, *, written: bool) -> bool:
        """Tells whether there is nothing to do: some rows, all good, and the published ones under a published name.

        Args:
            written: The rows were written by `--out`, and what can be mended is.
        """
        return bool(self.rows) and not self.differs and not self.problems and (written or not self.mended)


def source_of(row: Any) -> str:
    """Returns the data source of a row, shortened, or `none`."""
    return str(shorten(row.get("data_source"))) if isinstance(row, dict) else "none"
