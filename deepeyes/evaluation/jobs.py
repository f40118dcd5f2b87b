"""What is played: a trajectory an item, order and sample; and what an answer is an answer to (pure)."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.bench import LETTERS, Item, Kind, orders
from deepeyes.playing.prompts import Prompt, first_turns
from deepeyes.rows import has_tool
from deepeyes.settings import Coordinates, Scoring, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deepeyes.evaluation.protocol import Limits
    from deepeyes.playing.pictures import Picture

MAX_SEED = 2**31 - 1
"""Some servers take no larger one."""
FRAMES = {
    Coordinates.PIXEL: "in pixels of the image",
    Coordinates.NORM1000: "in thousandths of the image's width and height",
}


@dataclass(frozen=True)
class Job:
    """One trajectory that is to be played: an item with its options in some order, and the number of the sample."""

    item: Item
    order: tuple[int, ...]
    cycle: int
    sample: int

    @property
    def id(self) -> str:
        """Unique within a run."""
        return f"{self.item.id} | {self.cycle} | {self.sample}"

    @property
    def options(self) -> list[str]:
        """The options as they are shown."""
        return [self.item.options[place] for place in self.order]

    @property
    def right(self) -> int | None:
        """Where the right option is shown; None for a free answer."""
        return self.order.index(self.item.right) if self.order else None

    def reference(self) -> str:
        """Returns the reference answer, with the letter of a right option."""
        return self.item.reference if self.right is None else f"{LETTERS[self.right]}. {self.item.reference}"


def make_jobs(items: Iterable[Item], how: str, seed: int, samples: int) -> list[Job]:
    """Lists all trajectories of a run; see `deepeyes.evaluation.bench.orders`."""
    return [
        Job(item, order, cycle, sample)
        for item in items
        for sample in range(samples)
        for cycle, order in enumerate(orders(item, how, seed, sample))
    ]


@dataclass(frozen=True)
class Asking:
    """How questions are asked.

    Attributes:
        protocol: `paper` or `training`; it decides the words around a question.
        prompt: The system turn and the instruction, for questions that bring none of their own.
        tool: Whether the zoom tool is there.
        limits: Of the protocol, with what flags changed.
        settings: Rules and sources.
        coordinates: Frame of the boxes that the model writes.
        top_p: Of sampling; None is the server's.
        seed: Of the run.
    """

    protocol: str
    prompt: Prompt
    tool: bool
    limits: Limits
    settings: Settings
    coordinates: Coordinates
    top_p: float | None = None
    seed: int = 0

    def question(self, job: Job) -> str:
        """Returns a question with its options, unable to forge an image."""
        item, lines = job.item, [job.item.question]
        if job.order and self.protocol == "paper":
            lines = [f"Question: {item.question}", "Options:"]
            lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, job.options, strict=False)]
        elif job.order:
            lines += [f"({letter}) {option}" for letter, option in zip(LETTERS, job.options, strict=False)]
            lines.append("Answer with the letter of the right option.")
        elif item.kind is Kind.YESNO:
            lines.append("Answer with yes or no.")
        elif item.kind is Kind.BOX:
            lines.append(f"Answer with the box of what is meant, [x1, y1, x2, y2], {FRAMES[self.coordinates]}.")
        return re.sub(r"<(?=image\b|\|)", "< ", "\n".join(lines))

    def options(self, job: Job) -> dict[str, Any]:
        """Returns the fields of a request that say how the model is sampled, with a seed of its own for every job."""
        limits = self.limits
        sampled: dict[str, Any] = {"max_tokens": limits.max_tokens, "temperature": limits.temperature}
        if self.top_p is not None:
            sampled["top_p"] = self.top_p
        if limits.temperature:
            sampled["seed"] = zlib.crc32(f"{self.seed} {job.id}".encode()) & MAX_SEED
        return sampled

    def turns(self, job: Job) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        """Returns the first turns of a trajectory, and the columns that decide how it is played."""
        row, question = job.item.row, self.question(job)
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": self.prompt.system},
            {"role": "user", "content": f"{'<image>' * job.item.pictures}\n{question}{self.prompt.instruction}"},
        ]
        data: dict[str, Any] = {"extra_info": {"question": question}, "env_name": "zoom" if self.tool else ""}
        if row is not None:
            bare = not self.tool and has_tool(row, self.settings)  # a prompt that speaks of a tool which is not there
            data = {**row, "env_name": row.get("env_name") if self.tool else ""}
            messages = messages if bare else first_turns(row)
        return messages, data

    def asked(self, job: Job, pictures: Sequence[Picture]) -> dict[str, Any]:
        """Returns what an answer is an answer to; one that was recorded with something else is to another question."""
        row, item = job.item.row, job.item
        scoring = Scoring.VISUAL if row is None else self.settings.scoring_of(row["data_source"])
        images = [hashlib.sha256(picture.encoded).hexdigest() for picture in pictures]
        content = [item.question, sorted(item.options), item.reference, *images]
        return {
            "digest": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
            "bare": item.question,
            "kind": item.kind.value,
            "options": job.options,
            "right": job.right,
            "targets": [list(box) for box in item.targets],
            "scoring": scoring.value,
            "question": self.question(job),
            "reference": job.reference(),
            "prompt": self.turns(job)[0],
        }
