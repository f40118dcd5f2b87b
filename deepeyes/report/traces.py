"""Reading the trajectories that the plugin, the evaluation and the demo write."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from deepeyes.traces import group_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

RANKS_APART = 300  # seconds; in less than that all ranks of a run begin their traces

Record = dict[str, Any]


class ReportError(RuntimeError):
    """There is nothing to report on; the message says where it was looked for, and how to mend it."""


def read_jsonl(path: Path) -> Iterator[Record]:
    """Yield the objects of a JSON Lines file; a line that a crash left unfinished is passed over."""
    with path.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def read_traces(directory: Path) -> list[Record]:
    """Read the trajectories that the plugin wrote, in the order of steps and groups.

    Steps count from 1, as swift's log does. Where a run was resumed or begun anew, on as many processes or others, its
    later attempt replaces the steps that it repeats, of every rank. Each record gets a `group`, which the generations
    of one prompt share, and lists its `images` as paths.
    """
    found: dict[tuple[float, str], list[Record]] = defaultdict(list)  # by start and rank
    for path in sorted(directory.glob("trajectories-*.jsonl")):
        for record in read_jsonl(path):
            step = record["step"] if record["step"] is not None else record["batch"]
            images = [directory / "images" / name if name else None for name in record["images"]]
            found[record["run"], path.stem].append({**record, "rank": path.stem, "step": step + 1, "images": images})
    kept: list[Record] = []
    first_repeated = math.inf
    for attempt, starts in reversed(list(enumerate(_attempts(found)))):
        records = [record for start in found if start in starts for record in found[start]]
        records = [record for record in records if record["step"] < first_repeated]
        first_repeated = min([first_repeated, *(record["step"] for record in records)])
        kept += [{**record, "group": group_of(record, attempt)} for record in records]
    order = {group: place for place, group in enumerate(dict.fromkeys(record["group"] for record in kept))}
    return sorted(kept, key=lambda record: (record["group"][:3], order[record["group"]]))


def _attempts(starts: Iterable[tuple[float, str]]) -> list[list[tuple[float, str]]]:
    """Tell the attempts of a run apart, by rising time: in one, each rank starts once, and soon after the others."""
    attempts: list[list[tuple[float, str]]] = []
    for start, rank in sorted(starts):
        now = attempts[-1] if attempts else []
        if not now or start - now[-1][0] > RANKS_APART or rank in [other for _, other in now]:
            attempts.append([])
        attempts[-1].append((start, rank))
    return attempts


def choose(records: Sequence[Record], limit: int) -> list[Record]:
    """Choose whole groups, spread evenly over the steps, with up to `limit` records in all."""
    sizes = Counter(record["group"] for record in records)
    if len(records) <= limit or not sizes:
        return list(records)
    groups = list(sizes)
    count = min(len(groups), max(1, limit * len(groups) // len(records)))
    chosen = {groups[place * len(groups) // count] for place in range(count)}
    return [record for record in records if record["group"] in chosen]
