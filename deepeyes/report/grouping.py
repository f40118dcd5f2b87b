"""From records to what the page holds: groups of one prompt or question, and their trajectories."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from deepeyes.phase import EVALUATION
from deepeyes.report.curves import advantages
from deepeyes.report.gallery import Gallery, pictures_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.report.traces import Record

NEEDED = ("turns", "observations", "answer", "verdict", "score", "weights", "num_zooms", "num_zoom_errors")
FURTHER = (
    *("options", "right", "picked", "reference", "untagged", "finish_reason", "refusal", "tokens"),
    *("targets", "original_size"),
)
"""What an evaluation records besides."""
SHARED = ("step", "source", "row", "question", "reference", "view_size")


class Groups:
    """Groups and trajectories as the page's code knows them.

    Attributes:
        gallery: The images.
        prompts: First turns, each once.
        groups: Dicts with the `members`, places of trajectories.
        trajectories: Dicts.
    """

    def __init__(
        self, records: Sequence[Record], generations: int | None, *, evaluation: bool, divided: bool | None = True
    ) -> None:
        """Makes groups of records; those of a group stand next to each other.

        Args:
            records: See `deepeyes.report.traces.read_traces`.
            generations: How many a group has, where that is known; else as many as the ranks that recorded it had.
            evaluation: Whether groups are questions, which have no advantages.
            divided: See `divided_by_deviation`.
        """
        self._divided = None if evaluation else divided
        self.gallery = Gallery([picture for record in records for picture in pictures_of(record) if picture])
        self.trajectories: list[dict[str, Any]] = []
        prompts: dict[str, int] = {}
        groups: dict[Any, dict[str, Any]] = {}
        seen: Counter[str] = Counter()
        for record in records:
            prompt = prompts.setdefault(json.dumps(record["prompt"]), len(prompts))
            group = groups.setdefault(record["group"], self._group(record, prompt, evaluation=evaluation))
            group["members"].append(len(self.trajectories))
            group["expected"][record["rank"]] = record["group_size"]
            key = _key(record)
            seen[key] += 1
            self.trajectories.append(
                {**self._trajectory(record), "key": key + (f"-{seen[key]}" if seen[key] > 1 else "")}
            )
        for group in groups.values():
            self._finish(group, generations, evaluation=evaluation)
        self.prompts = [json.loads(prompt) for prompt in prompts]
        self.groups = list(groups.values())

    @staticmethod
    def _group(record: Record, prompt: int, *, evaluation: bool) -> dict[str, Any]:
        shared = {name: record[name] for name in SHARED} | {"untrained": record.get("untrained")}
        if evaluation:
            right = record["options"][record["right"]] if record.get("options") else record["reference"]
            shared |= {"question": record.get("bare") or record["question"], "reference": right}
            shared["categories"] = record.get("categories") or [record["category"]]
        return {**shared, "prompt": prompt, "members": [], "expected": {}}

    def _trajectory(self, record: Record) -> dict[str, Any]:
        images = [self.gallery.place(picture) for picture in pictures_of(record)]
        delivered = max(0, len(images) - record["num_zooms"])
        crops = iter(images[delivered:])
        zooms = [
            {**zoom, "view": zoom.get("image") or 0, "image": None if zoom["error"] else next(crops, None)}
            for zoom in record["zooms"]
        ]
        return {
            **{name: record[name] for name in NEEDED},
            **{name: record[name] for name in FURTHER if name in record},
            "zooms": zooms,
            "views": images[:delivered],
            "advantage": record.get("advantage"),
            "run": record.get("run_name"),
        }

    def _finish(self, group: dict[str, Any], generations: int | None, *, evaluation: bool) -> None:
        """Adds how many generations are missing, and the advantages where they were not logged."""
        members = [self.trajectories[place] for place in group["members"]]
        expected = group.pop("expected").values()
        known = None not in expected and not evaluation
        if group["untrained"] == EVALUATION:
            generations = None  # it has a number of its own
        group["missing"] = max(generations or 0, sum(expected)) - len(members) if known else 0
        if group["untrained"]:
            return
        rewards = [member["score"]["total"] for member in members]
        if self._divided is not None and all(member["advantage"] is None for member in members) and None not in rewards:
            for member, advantage in zip(members, advantages(rewards, divided=self._divided), strict=True):
                member["advantage"] = advantage


def _key(record: Record) -> str:
    """Returns a name that follows from what a trajectory is, not from where it stands in the page."""
    parts = [record["step"], record.get("run_name"), record["question"], record["reference"], record["turns"]]
    return hashlib.sha256(json.dumps([*parts, str(record["row"])], default=str).encode()).hexdigest()[:12]
