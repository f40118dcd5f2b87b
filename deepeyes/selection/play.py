"""The rows played: several samples each, as in training and without the tool, and judged."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepeyes.answers import Trajectory, read_answer
from deepeyes.dataset.pictures import pictures_of
from deepeyes.dataset.progress import row_bar
from deepeyes.playing.endpoint import RefusedError
from deepeyes.playing.pictures import read_image
from deepeyes.playing.player import Player, Start
from deepeyes.playing.prompts import first_turns, own_prompt
from deepeyes.rows import has_tool
from deepeyes.selection.ledger import AS_TRAINED, PLAIN, Ledger, Play
from deepeyes.verdicts import UNPARSEABLE, Question

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deepeyes.judging.judge import Judge
    from deepeyes.playing.pictures import Viewer
    from deepeyes.playing.player import Played
    from deepeyes.settings import Settings

IN_FLIGHT_BYTES = 1 << 30  # of pictures on their way; one of V*Bench takes 14 MB
REASONS_KEPT = 5  # of trajectories that are missing; the others are counted


@dataclass(frozen=True)
class Sampling:
    """How trajectories are drawn.

    Attributes:
        samples: Trajectories a row as in training.
        plain: Trajectories without the tool, of a row that has it.
        temperature: Of the sampling.
        max_tokens: Of a turn.
        seed: Of the sampling; each trajectory has its own, which follows from this one.
    """

    samples: int
    plain: int
    temperature: float
    max_tokens: int
    seed: int

    def options(self, row: int, mode: int, sample: int) -> dict[str, Any]:
        """Returns the fields of a request."""
        digest = hashlib.blake2b(f"{self.seed} {row} {mode} {sample}".encode(), digest_size=4).digest()
        seed = int.from_bytes(digest, "big") >> 1
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": seed}


@dataclass
class Missing:
    """Trajectories that there are none of: pictures that can't be read, requests refused, replies of no judge."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, row: int, reason: object) -> None:
        """Notes one."""
        self.count += 1
        if len(self.reasons) < REASONS_KEPT:
            self.reasons.append(f"row {row}: {reason!s:.300}")


@dataclass(frozen=True)
class _Ended:
    """A trajectory that waits for its verdict."""

    row: int
    mode: int
    sample: int
    trajectory: Trajectory


class Table:
    """Plays rows at one endpoint, many trajectories at a time; verdicts are asked for in batches beside it."""

    def __init__(self, player: Player, viewer: Viewer, judge: Judge, settings: Settings, sampling: Sampling) -> None:
        """Makes one; nothing is sent yet."""
        self._player, self._viewer, self._judge = player, viewer, judge
        self._settings, self._sampling = settings, sampling
        self.missing = Missing()

    async def play(
        self, rows: Iterable[tuple[int, dict[str, Any]]], ledger: Ledger, total: int, concurrency: int
    ) -> None:
        """Plays what the ledger does not hold yet.

        Args:
            rows: Numbers and rows.
            ledger: Where trajectories are noted.
            total: Rows in all, for the bar.
            concurrency: Trajectories under way.

        Raises:
            EndpointError: The endpoint failed for good. What was judged before is in the ledger.
            JudgeError: The judge did.
        """
        ended: asyncio.Queue[_Ended | None] = asyncio.Queue(4 * concurrency)
        judging = asyncio.create_task(self._judge_all(ended, ledger))
        running: set[asyncio.Task[None]] = set()
        try:
            with row_bar("played", total) as advance:
                for number, row in rows:
                    for mode, sample in self._todo(number, row, ledger):
                        most = self._most(row, concurrency)
                        await _room(running, judging, most)
                        running.add(asyncio.create_task(self._one(number, row, mode, sample, ended)))
                    advance(1)
                while running:
                    await _room(running, judging, 1)
                ending = asyncio.create_task(ended.put(None))
                await asyncio.wait({ending, judging}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel() if judging.done() else None
                await judging
        finally:
            for task in (*running, judging):
                task.cancel()
            await asyncio.gather(*running, judging, return_exceptions=True)

    def _todo(self, number: int, row: Mapping[str, Any], ledger: Ledger) -> list[tuple[int, int]]:
        plain = self._sampling.plain if has_tool(row, self._settings) else 0
        wanted = [(AS_TRAINED, sample) for sample in range(self._sampling.samples)]
        wanted += [(PLAIN, sample) for sample in range(plain)]
        return [place for place in wanted if not ledger.holds(number, *place)]

    def _most(self, row: Mapping[str, Any], concurrency: int) -> int:
        """Returns how many trajectories over such pictures may be under way."""
        weight = sum(self._viewer.weight(picture) for picture in pictures_of(row) if isinstance(picture, bytes))
        return max(1, min(concurrency, IN_FLIGHT_BYTES // max(1, weight)))

    async def _one(
        self, number: int, row: Mapping[str, Any], mode: int, sample: int, ended: asyncio.Queue[_Ended | None]
    ) -> None:
        try:
            pictures = [await self._viewer.look(await asyncio.to_thread(read_image, image)) for image in row["images"]]
        except (OSError, ValueError, SyntaxError) as error:
            self.missing.add(number, f"the image can't be read: {error}")
            return
        messages, columns = self.turns(row, mode)
        options = self._sampling.options(number, mode, sample)
        try:
            played = await self._player.play(Start(messages, columns, pictures, options))
        except RefusedError as error:
            self.missing.add(number, error)
            return
        await ended.put(_Ended(number, mode, sample, self.trajectory(row, played)))

    def turns(self, row: Mapping[str, Any], mode: int) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Returns the first turns of a trajectory, and the columns that say whether there is a tool."""
        columns = {name: row.get(name) for name in ("data_source", "env_name", "extra_info")}
        if mode == AS_TRAINED:
            return first_turns(row), columns
        prompt = own_prompt(self._viewer.coordinates, tool=False)
        user = f"{'<image>' * len(row['images'])}\n{row['extra_info']['question']}{prompt.instruction}"
        turns = [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]
        return turns, {**columns, "env_name": ""}

    def trajectory(self, row: Mapping[str, Any], played: Played) -> Trajectory:
        """Returns what a reward reads of a trajectory."""
        scoring = self._settings.scoring_of(row.get("data_source"))
        question, reference = row["extra_info"]["question"], row["reward_model"]["ground_truth"]
        crops = int(played.infos.get("num_zooms") or 0)
        return Trajectory(scoring, question, reference, tuple(played.turns), tuple(played.observations), crops)

    async def _judge_all(self, ended: asyncio.Queue[_Ended | None], ledger: Ledger) -> None:
        """Judges what has come meanwhile in one batch, again and again, until None comes."""
        over = False
        while not over:
            batch = [await ended.get()]
            while not ended.empty():
                batch.append(ended.get_nowait())
            over = None in batch
            await self._judge_batch([one for one in batch if one is not None], ledger)

    async def _judge_batch(self, batch: Sequence[_Ended], ledger: Ledger) -> None:
        readings = [read_answer(one.trajectory, self._settings.rules) for one in batch]
        asked: list[Question] = []
        for one, reading in zip(batch, readings, strict=True):
            if reading.settled is None:
                trajectory = one.trajectory
                asked.append(
                    Question(trajectory.scoring, trajectory.question, trajectory.reference, reading.answer or "")
                )
        verdicts = iter(await asyncio.to_thread(self._judge.verdicts, asked)) if asked else iter(())
        for one, reading in zip(batch, readings, strict=True):
            verdict = reading.settled or next(verdicts)
            if verdict == UNPARSEABLE:
                self.missing.add(one.row, "the judge gave no verdict that can be read")
            else:
                ledger.add(Play(one.row, one.mode, one.sample, verdict.correct, one.trajectory.num_zooms))


async def _room(running: set[asyncio.Task[None]], judging: asyncio.Task[None], most: int) -> None:
    """Waits until fewer than `most` trajectories are under way, and passes on what went wrong."""
    while len(running) >= most:
        done, _ = await asyncio.wait({*running, judging}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            running.discard(task)  # the judging task is not in it, and ends first only by an error
            task.result()
