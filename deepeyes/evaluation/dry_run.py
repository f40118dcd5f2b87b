"""One prompt and its views as they would be sent, and nobody is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepeyes.evaluation.errors import UsageError
from deepeyes.evaluation.running import Sources
from deepeyes.evaluation.session import ROOT, VIEW_TRIES, Setup, jobs_of, notes_of

if TYPE_CHECKING:
    from pathlib import Path

    from deepeyes.playing.pictures import Picture


async def dry_run(setup: Setup) -> str:
    """Returns one prompt as it would be sent, and writes its views to files.

    Raises:
        UsageError: None of the first rows has an image that can be read.
    """
    sources = Sources()
    for job in jobs_of(setup)[:VIEW_TRIES]:
        pictures = await sources.pictures(job.item, setup.viewer)
        if pictures is None:
            continue
        folder = setup.options.out or ROOT / "output" / "eval"
        turns = "\n".join(f"--- {turn['role']}\n{turn['content']}" for turn in setup.asking.turns(job)[0])
        for number, picture in enumerate(pictures, 1):
            turns = turns.replace("<image>", _show(picture, folder, number), 1)
        head = f"{job.id}\n{setup.asking.protocol}: {setup.asking.limits.plain()}\n{setup.asking.options(job)}"
        notes = [f"note: {note}" for note in notes_of(setup)]
        return "\n".join([head, turns, f"--- reference: {job.reference()}", *notes])
    raise UsageError(f"none of the first {VIEW_TRIES} rows has an image that can be read")


def _show(picture: Picture, folder: Path, number: int) -> str:
    """Writes a view to a file, and says what it is."""
    kind = picture.uri.partition(";")[0].rpartition("/")[2]
    path = folder / f"dry-run-view{f'-{number}' if number > 1 else ''}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture.encode())
    return (
        f"[the view: {picture.size[0]} x {picture.size[1]} pixels, {picture.tokens} tokens, "
        f"of a picture of {picture.original[0]} x {picture.original[1]}; {path}]"
    )
