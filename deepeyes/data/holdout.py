"""Which rows are held out for evaluation: no image of theirs is in a row that stays."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from deepeyes.dataset.pictures import DIGEST_BYTES, pieces
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.data.findings import FileReport


def split(reports: Sequence[FileReport], count: int, seed: int) -> set[tuple[int, int]]:
    """Chooses the rows to hold out: no image of theirs, by its pixels, is in a row that stays.

    Args:
        reports: The checked files; each gives its share, by its good rows.
        count: Rows wanted. Fewer are chosen where images with several rows leave a gap.
        seed: Another seed, another choice.

    Returns:
        Pairs (number of the file, number of the row).
    """
    groups = _groups(reports)
    good = [report.rows - len(report.dropped) for report in reports]
    shares = [count * rows / max(1, sum(good)) for rows in good]
    room = [int(share) for share in shares]
    for file in sorted(range(len(good)), key=lambda file: room[file] - shares[file])[: count - sum(room)]:
        room[file] += 1
    chosen: set[tuple[int, int]] = set()
    for digest in sorted(groups, key=lambda digest: hashlib.blake2b(b"%d %s" % (seed, digest)).digest()):
        needed = Counter(file for file, _ in groups[digest])
        if all(room[file] >= rows for file, rows in needed.items()):
            chosen.update(groups[digest])
            for file, rows in needed.items():
                room[file] -= rows
    return chosen


def _groups(reports: Sequence[FileReport]) -> dict[bytes, list[tuple[int, int]]]:
    """Returns the good rows that stay together, by the least digest of their pictures.

    Two rows do that have a picture in common, or both have one in common with a third.
    """
    first: dict[bytes, bytes] = {}  # digest -> a lesser one of its group, or itself

    def least(digest: bytes) -> bytes:
        while (lesser := first.setdefault(digest, digest)) != digest:
            first[digest] = first.setdefault(lesser, lesser)
            digest = lesser
        return digest

    places: list[tuple[bytes, tuple[int, int]]] = []
    for file, report in enumerate(reports):
        dropped = report.dropped
        for row, joined in enumerate(report.digests):
            if row in dropped:
                continue
            digests = pieces(joined, DIGEST_BYTES) or [b""]
            lowest = min(map(least, digests))
            for digest in digests:
                first[least(digest)] = lowest
            places.append((digests[0], (file, row)))
    groups: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for digest, place in places:
        groups[least(digest)].append(place)
    return groups


def choose(reports: Sequence[FileReport], holdout: int, seed: int) -> set[tuple[int, int]]:
    """Returns what `split` does.

    Raises:
        DataFileError: A file would be left without a row, which swift can't load; that goes for the held-out one too.
    """
    good = [report.rows - len(report.dropped) for report in reports]
    if bare := [str(report.path) for report, rows in zip(reports, good, strict=True) if not rows]:
        raise DataFileError(f"there is no good row to write in {', '.join(bare)}; mend the rows or leave the file out")
    chosen = split(reports, holdout, seed) if holdout else set()
    held = Counter(file for file, _ in chosen)
    if bare := [str(report.path) for file, report in enumerate(reports) if held[file] == good[file]]:
        raise DataFileError(
            f"--holdout {holdout} leaves no row to train on of {', '.join(bare)}; "
            f"hold out fewer than the {sum(good):,} good rows in all"
        )
    if holdout and not chosen:
        raise DataFileError(f"--holdout {holdout} finds no row: those that share an image stay together, and are more")
    return chosen
