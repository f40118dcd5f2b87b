"""A run: trajectories are played as many at a time as memory and the user allow, and each is kept when it is over."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deepeyes.evaluation.bench import BadRow, Item
from deepeyes.playing.endpoint import RefusedError
from deepeyes.playing.journal import Journal, save_images
from deepeyes.playing.pictures import read_image
from deepeyes.playing.player import Player, Start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from deepeyes.evaluation.jobs import Asking, Job
    from deepeyes.playing.pictures import Picture, Viewer

IN_FLIGHT_BYTES = 1 << 30  # of pictures and requests; an 8K picture takes about 80 MB, one of V*Bench 20 MB


@dataclass
class Outcome:
    """What was not answered: rows whose image can't be read, and requests that the endpoint refused."""

    bad: list[BadRow] = field(default_factory=list)
    refused: list[BadRow] = field(default_factory=list)


class BadImageError(ValueError):
    """The image of a row can't be read."""


class _Budget:
    """Lets trajectories in as long as their number and their bytes stay within bounds; one alone always may."""

    def __init__(self, count: int, nbytes: int) -> None:
        self._count, self._free, self._all = count, nbytes, nbytes
        self._changed = asyncio.Condition()

    async def take(self, nbytes: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._count > 0 and self._free >= min(nbytes, self._all))
            self._count -= 1
            self._free -= min(nbytes, self._all)

    async def give(self, nbytes: int) -> None:
        async with self._changed:
            self._count += 1
            self._free += min(nbytes, self._all)
            self._changed.notify_all()


class Sources:
    """The images of items in encoded form; those of the last one are kept for the next samples and orders."""

    def __init__(self) -> None:
        """Makes an empty one."""
        self._item: Item | None = None
        self._found: list[bytes] | BadImageError = []

    async def of(self, item: Item) -> list[bytes] | BadImageError:
        """Returns an item's images, or why there are none."""
        if self._item is not item:
            try:
                self._found = await asyncio.to_thread(_read_images, item)
            except Exception as error:  # noqa: BLE001 - whatever a broken row raises, it is reported
                self._found = BadImageError(f"the image can't be read: {error}")
            self._item = item
        return self._found

    async def pictures(self, item: Item, viewer: Viewer) -> list[Picture] | None:
        """Returns an item's pictures; None where one of them can't be read."""
        source = await self.of(item)
        if not isinstance(source, list):
            return None
        try:
            return [await viewer.look(image) for image in source]
        except (OSError, ValueError, SyntaxError):
            return None


def _read_images(item: Item) -> list[bytes]:
    found = item.load()
    return [read_image(image) for image in (found if isinstance(found, list) else [found])]


async def drop_stale(jobs: Iterable[Job], asking: Asking, viewer: Viewer, journal: Journal) -> int:
    """Forgets the answers to a question, an image or a prompt that has changed since, and returns their number."""
    before, sources = len(journal.answers), Sources()
    for job in jobs:
        if (answer := journal.answers.get(job.id)) is None:
            continue
        source = await sources.of(job.item)
        try:
            asked = asking.asked(job, list(map(viewer.head, source))) if isinstance(source, list) else {"digest": None}
        except Exception:  # noqa: BLE001 - whatever a broken row raises: it is reported when its turn comes
            asked = {"digest": None}
        if any(answer.get(name) != value for name, value in asked.items()):
            del journal.answers[job.id]
    return before - len(journal.answers)


@dataclass(frozen=True)
class Run:
    """What trajectories are played with.

    Attributes:
        asking: How questions are asked.
        player: Who plays.
        viewer: Who makes the pictures.
        journal: Where answers are kept.
        source: Name of the benchmark, for the trace.
    """

    asking: Asking
    player: Player
    viewer: Viewer
    journal: Journal
    source: str

    async def play_all(self, jobs: Sequence[Job], concurrency: int) -> Outcome:
        """Plays what the journal does not hold yet.

        Args:
            jobs: All trajectories of the run.
            concurrency: Trajectories under way.

        Raises:
            EndpointError: The endpoint failed for good. What was finished before is in the journal.
        """
        outcome, budget, sources = Outcome(), _Budget(concurrency, IN_FLIGHT_BYTES), Sources()
        todo = [job for job in jobs if job.id not in self.journal.answers]
        running: set[asyncio.Task[None]] = set()
        with _bar(len(jobs), len(jobs) - len(todo)) as bar:
            try:
                for job in todo:
                    source = await sources.of(job.item)
                    weight = sum(map(self.viewer.weight, source)) if isinstance(source, list) else 0
                    await budget.take(weight)
                    if any(task.done() and task.exception() for task in running):
                        break
                    running = {task for task in running if not task.done() or task.exception()}
                    running.add(asyncio.create_task(self._one(job, source, outcome, _Place(budget, weight), bar)))
                await asyncio.gather(*running)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        return outcome

    async def _one(
        self, job: Job, source: list[bytes] | BadImageError, outcome: Outcome, place: _Place, bar: Progress
    ) -> None:
        """Plays one trajectory, and keeps it or notes why there is none."""
        async with place.left():
            try:
                if isinstance(source, BadImageError):
                    raise source
                self.journal.add(await self._play(job, source))
            except RefusedError as error:
                outcome.refused.append(BadRow(job.id, str(error)))
            except BadImageError as error:
                outcome.bad.append(BadRow(job.item.id, str(error)))
            bar.advance(bar.task_ids[0])

    async def _play(self, job: Job, source: Sequence[bytes]) -> dict[str, Any]:
        """Plays one trajectory and returns its record, in the form of the plugin's trace but for the verdict."""
        try:
            pictures = [await self.viewer.look(image) for image in source]
            asked = self.asking.asked(job, pictures)
        except Exception as error:
            raise BadImageError(f"the image can't be read: {type(error).__name__}: {error}"[:300]) from error
        messages, row = self.asking.turns(job)
        begun = time.monotonic()
        played = await self.player.play(Start(messages, row, pictures, self.asking.options(job)))
        seconds = time.monotonic() - begun
        names = await asyncio.to_thread(self._save, played.images, pictures[0].size)
        return {
            "id": job.id,
            "group": job.item.group,
            "category": job.item.category,
            "cycle": job.cycle,
            "sample": job.sample,
            **asked,
            "coordinates": self.viewer.coordinates.value,
            "tokens": [played.prompt_tokens, played.completion_tokens],
            "seconds": round(seconds, 3),
            "finish_reason": played.finish_reason,
            "refusal": played.refusal,
            "native": played.native,
            "batch": 0,
            "untrained": None,
            "step": 0,
            "prompt_id": job.item.group,
            "row": job.item.id,
            "source": self.source,
            "turns": played.turns,
            "observations": played.observations,
            **{name: played.infos[name] for name in ("num_zooms", "num_zoom_errors", "zooms")},
            "view_size": list(pictures[0].size),
            "original_size": list(pictures[0].original),
            "shrunk": any(picture.shrunk for picture in pictures),
            "images": names,
        }

    def _save(self, images: Sequence[str], size: tuple[int, int]) -> list[str]:
        """Writes the images of a trajectory, which decodes large ones."""
        with self.viewer.decoding(size):
            return save_images(self.journal.directory / "images", images)


@dataclass(frozen=True)
class _Place:
    """A trajectory's place in the budget."""

    budget: _Budget
    nbytes: int

    @asynccontextmanager
    async def left(self) -> AsyncIterator[None]:
        """Gives the place back at the end of a context."""
        try:
            yield
        finally:
            await self.budget.give(self.nbytes)


def _bar(total: int, done: int) -> Progress:
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task("answers", total=total, completed=done)
    return bar
