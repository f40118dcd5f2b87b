"""One run: its settings, which stay the same when it goes on, and who plays."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.errors import DataFileError
from deepeyes.judging.judge import Judge
from deepeyes.playing.check import check_view
from deepeyes.playing.endpoint import Access, Endpoint
from deepeyes.playing.families import FAMILIES, family_of
from deepeyes.playing.pictures import Viewer, read_image
from deepeyes.playing.player import Player
from deepeyes.playing.prompts import first_turns
from deepeyes.selection.ledger import Counts, Ledger
from deepeyes.selection.play import Missing, Sampling, Table
from deepeyes.selection.source import rows_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from deepeyes.selection.source import SourceFile
    from deepeyes.settings import Settings

RUN_NAME = "run.json"


@dataclass(frozen=True)
class Run:
    """What a run is made with.

    Attributes:
        out: Its folder.
        sources: The rows.
        settings: Rules, judge, sources, crops and frame of the boxes, as in training.
        access: Where the endpoint is.
        model: Served name, where one was given.
        family: Name of the family, where one was given.
        sampling: How trajectories are drawn.
        max_turns: Turns of a trajectory.
        max_pixels: Of a view.
        concurrency: Trajectories under way.
        check: Whether to ask if the server scales views again.
    """

    out: Path
    sources: Sequence[SourceFile]
    settings: Settings
    access: Access
    model: str | None
    family: str | None
    sampling: Sampling
    max_turns: int
    max_pixels: int
    concurrency: int
    check: bool

    @classmethod
    def of(cls, options: argparse.Namespace, sources: Sequence[SourceFile], settings: Settings) -> Run:
        """Makes one of a command line."""
        key = os.environ.get("OPENAI_API_KEY") or "EMPTY"
        return cls(
            out=options.out,
            sources=sources,
            settings=settings,
            access=Access(options.url, key, options.retries, options.timeout, extra=options.extra),
            model=options.model,
            family=options.family,
            sampling=Sampling(
                options.samples, options.plain_samples, options.temperature, options.max_tokens, options.seed
            ),
            max_turns=options.max_turns,
            max_pixels=options.max_pixels,
            concurrency=options.concurrency,
            check=not options.skip_view_check,
        )

    def facts(self, model: str, family: str) -> dict[str, Any]:
        """Returns what must not change between the beginnings of a run; more samples may be asked for later."""
        return {
            "files": [source.identity() for source in self.sources],
            "model": model,
            "family": family,
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
            "seed": self.sampling.seed,
            "extra": self.access.extra,
            "max_turns": self.max_turns,
            "max_pixels": self.max_pixels,
            "rules": self.settings.rules.value,
            "crop_source": self.settings.crop_source.value,
            "coordinates": self.settings.coordinates.value,
            "judge": self.settings.judge.kind.value,
        }


def keep_facts(out: Path, facts: dict[str, Any]) -> None:
    """Notes the facts of a run, or compares them with those of its beginning.

    Raises:
        DataFileError: They differ.
    """
    path = out / RUN_NAME
    if not path.exists():
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [f"{name} was {before.get(name)!r:.200}" for name, value in facts.items() if before.get(name) != value]
    if changed:
        raise DataFileError(f"{out} holds a run with other settings: {'; '.join(changed)}. Give this one its own --out")


async def play_rows(run: Run) -> tuple[Counts, Missing]:
    """Plays all rows that were not played yet, and returns how often each was right.

    Raises:
        DataFileError: The folder is of another run.
        EndpointError: The endpoint failed for good.
        JudgeError: The judge did.
    """
    endpoint, judge = Endpoint(run.access, run.model), Judge(run.settings)
    try:
        await endpoint.find_model()
        family = FAMILIES[run.family] if run.family else family_of(endpoint.root or endpoint.model)
        keep_facts(run.out, run.facts(endpoint.model, family.name))
        viewer = Viewer(family, run.settings, run.max_pixels)
        ledger = Ledger(run.out, sum(source.rows for source in run.sources))
        try:
            if run.check:
                await _check(run, endpoint, viewer)
            table = Table(
                Player(endpoint, viewer, run.settings, run.max_turns), viewer, judge, run.settings, run.sampling
            )
            total = sum(source.rows for source in run.sources)
            await table.play(rows_of(run.sources), ledger, total, run.concurrency)
            return ledger.counts(), table.missing
        finally:
            ledger.close()
    finally:
        judge.close()
        await endpoint.close()


async def _check(run: Run, endpoint: Endpoint, viewer: Viewer) -> None:
    """Asks with the first row whether the server shows views as they are."""
    for _, row in rows_of(run.sources):
        picture = await viewer.look(read_image(row["images"][0]))
        await check_view(endpoint, viewer, first_turns(row), picture, tool=True)
        return
