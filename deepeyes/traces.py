"""Traces: whole trajectories on disk, for `bash deepeyes.sh report`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from PIL import Image

from deepeyes.images.encoding import image_bytes
from deepeyes.log import logger
from deepeyes.phase import phase_of_caller, untrained
from deepeyes.scoring import infos_of
from deepeyes.settings import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deepeyes.answers import Trajectory
    from deepeyes.scoring import Score, Scored
    from deepeyes.verdicts import Verdict


MAX_TRAJECTORIES = 2000  # in a page of `bash deepeyes.sh report`, unless --limit says otherwise
TRACES_PER_STEP = 64  # trajectories written a step and process
TRACE_BACKLOG = 4  # batches that may wait for the disk; each holds the images of its trajectories in memory
DEFAULT_BYTES = 2_000_000_000  # of a run's traces, images included
KEPT_SHARE = 0.75  # of the limit, after the oldest steps went: so that they go seldom, and many at once
YOUNG = 600.0  # seconds; an image that is younger may be of a line that another process is about to write
_tracers: dict[int, Tracer] = {}


def tracer_of_process(directory: Path, limit: int = DEFAULT_BYTES) -> Tracer:
    """Returns the tracer of this process, which writes to `directory`, all processes together up to `limit` bytes."""
    pid = os.getpid()
    if pid not in _tracers:
        share = limit // max(1, int(os.environ.get("WORLD_SIZE") or 1))
        _tracers[pid] = Tracer(directory, os.environ.get("RANK", "0"), share)
    return _tracers[pid]


class Tracer:
    """Appends trajectories to `trajectories-<rank>.jsonl`, and their images, once each, to `images/`.

    Training pays only for choosing a sample of the batch; reading images, encoding and writing happen on one
    thread. A run that is killed leaves at most an unfinished last line, which the next run ends, and hidden
    temporary files. What goes wrong here is logged and never reaches training; where the disk is too slow,
    batches are left out.
    """

    def __init__(self, directory: Path, rank: str, limit: int = DEFAULT_BYTES) -> None:
        """Makes a tracer; `directory` is made when the first trajectory comes.

        Args:
            directory: Where traces go.
            rank: Of this process.
            limit: Bytes that this process may fill; beyond, its oldest steps are taken out.
        """
        self._directory = directory
        self._limit = limit
        self._image_bytes = 0
        self._file = directory / f"trajectories-{rank}.jsonl"
        self._run = round(time.time(), 3)
        self._batch = -1
        self._last: object = None
        self._waiting: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deepeyes-trace")

    def record(self, scored: Sequence[Scored], columns: Mapping[str, Any]) -> None:
        """Records a sample of a batch: whole groups of one prompt, spread over the batch. Never raises.

        The several reward functions of a run see the same batch; only the first of them records it.
        """
        try:
            step = getattr(columns.get("trainer_state"), "global_step", None)
            identity = (step, hash(tuple(one.trajectory for one in scored)))
            if identity == self._last:
                return
            self._last = identity
            self._batch += 1
            self._waiting = [task for task in self._waiting if not task.done()]
            if len(self._waiting) >= TRACE_BACKLOG:
                logger.warning("trace: the disk is too slow, the trajectories of step %s are left out", step)
                return
            task = self._thread.submit(self._write, self._sample(step, scored, columns))
            task.add_done_callback(_log_failure)
            self._waiting.append(task)
        except Exception as error:  # noqa: BLE001 - a trace must not end a run
            logger.warning("trace: a batch was not recorded: %r", error)

    def _sample(
        self, step: int | None, scored: Sequence[Scored], columns: Mapping[str, Any]
    ) -> list[tuple[dict[str, Any], list[Any]]]:
        """Returns a record and the images, still in any form, of each chosen trajectory."""
        nothing = [None] * len(scored)
        prompts = columns.get("prompt_id") or nothing
        rows = [(extra or {}).get("index") for extra in columns.get("extra_info") or nothing]
        groups = [
            (prompt, row, one.trajectory.question, one.trajectory.reference)
            for prompt, row, one in zip(prompts, rows, scored, strict=True)
        ]
        scores: dict[tuple[Any, ...], list[Score]] = defaultdict(list)
        for group, one in zip(groups, scored, strict=True):
            scores[group].append(one.score)
        phase = phase_of_caller()
        records = []
        for index in spread(groups, TRACES_PER_STEP):
            one, infos = scored[index], infos_of(columns, index)
            messages = (columns.get("messages") or nothing)[index] or []
            images = infos.get("images") or (columns.get("images") or nothing)[index] or []
            record = {
                "run": self._run,
                "batch": self._batch,
                "step": step,
                "prompt_id": prompts[index],
                "group_size": len(scores[groups[index]]),
                "untrained": untrained(phase, scores[groups[index]]),
                "source": columns["data_source"][index],
                "row": rows[index],
                "question": one.trajectory.question,
                "reference": one.trajectory.reference,
                "answer": one.reading.answer,
                "verdict": _verdict_record(one.verdict),
                "score": one.score._asdict(),
                "weights": WEIGHTS[one.trajectory.scoring]._asdict(),
                "prompt": [
                    {"role": message["role"], "content": message["content"]}
                    for message in messages[: _prompt_length(messages, one.trajectory)]
                ],
                "turns": one.trajectory.turns,
                "observations": one.trajectory.observations,
                "num_zooms": infos.get("num_zooms", 0),
                "num_zoom_errors": infos.get("num_zoom_errors", 0),
                "zooms": infos.get("zooms", []),
                "view_size": infos.get("view_size"),
            }
            records.append((record, list(images)))
        return records

    def _write(self, records: list[tuple[dict[str, Any], list[Any]]]) -> None:
        directory = self._directory / "images"
        directory.mkdir(parents=True, exist_ok=True)
        names: dict[str, str | None] = {}  # a group shares its first image: decode it once
        lines = []
        for record, images in records:
            record["images"] = []
            for image in images:
                key = image if isinstance(image, str) else str(id(image))
                if key not in names:
                    names[key] = self._save_image(directory, image)
                record["images"].append(names[key])
            lines.append(json.dumps(record, default=str) + "\n")
        self._append("".join(lines).encode())
        if self._file.stat().st_size + self._image_bytes > self._limit:
            self._take_out_oldest()

    def _take_out_oldest(self) -> None:
        """Drops the oldest lines of this process, and the images that no line of any process names any more."""
        lines = self._file.read_bytes().splitlines(keepends=True)
        total = sum(map(len, lines)) + self._image_bytes
        kept, size = len(lines), 0.0
        for line in reversed(lines):  # a line stands for its share of the images, too
            size += len(line) * total / max(1, total - self._image_bytes)
            if size > KEPT_SHARE * self._limit:
                break
            kept -= 1
        steps = [_step_of(line) for line in lines]
        while 0 < kept < len(lines) and steps[kept] == steps[kept - 1]:  # whole steps
            kept += 1
        temporary = self._file.with_suffix(".tmp")
        temporary.write_bytes(b"".join(lines[kept:]))
        temporary.replace(self._file)
        named = set()
        for file in self._directory.glob("trajectories-*.jsonl"):
            named.update(re.findall(rb'"([0-9a-f]{2}/[0-9a-f]{20}\.\w+)"', file.read_bytes()))
        self._image_bytes = 0
        for image in (self._directory / "images").glob("??/*"):
            status = image.stat()
            if f"{image.parent.name}/{image.name}".encode() in named or time.time() - status.st_mtime < YOUNG:
                self._image_bytes += status.st_size
            else:
                image.unlink(missing_ok=True)

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end and os.pread(descriptor, 1, end - 1) != b"\n":  # a writer was killed, or the disk was full
                lines = b"\n" + lines
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)

    def _save_image(self, directory: Path, source: Any) -> str | None:
        """Saves an image under the hash of its bytes and returns that name; None where it can't be read."""
        try:
            content = image_bytes(source)
            suffix = (Image.open(io.BytesIO(content)).format or "bin").lower()
        except Exception as error:  # noqa: BLE001 - the text is worth having without it
            logger.warning("trace: an image can't be read: %s: %.300s", type(error).__name__, error)
            return None
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()[:20]
        name = f"{digest[:2]}/{digest}.{suffix}"
        try:
            if not (directory / name).exists():
                (directory / name).parent.mkdir(exist_ok=True)
                temporary = directory / f".{self._file.stem}-{os.getpid()}-{digest}"
                temporary.write_bytes(content)
                temporary.replace(directory / name)
                self._image_bytes += len(content)
        except OSError as error:
            logger.warning("trace: an image can't be written: %s: %.300s", type(error).__name__, error)
            return None
        return name


def _verdict_record(verdict: Verdict) -> dict[str, Any]:
    """Returns a verdict as it is kept: whether it came ahead only where somebody was asked."""
    record = verdict._asdict()
    if verdict.source not in ("judge", "rule", "math"):
        del record["ahead"]
    return record


def _step_of(line: bytes) -> bytes:
    found = re.search(rb'"batch": (\d+), "step": (\w+)', line[:400])
    return found[0] if found else b""


def _prompt_length(messages: Sequence[Mapping[str, Any]], trajectory: Trajectory) -> int:
    assistants = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return assistants[-len(trajectory.turns)] if len(assistants) >= len(trajectory.turns) > 0 else len(messages)


def _log_failure(done: Future[None]) -> None:
    if error := done.exception():
        logger.warning("trace: trajectories were not written: %r", error)


def group_of(record: Mapping[str, Any], attempt: int) -> tuple[Any, ...]:
    """Names the group of a record: two rows with the same text share swift's prompt id, but not their image."""
    batch = (record["step"], attempt, record["batch"])
    return (*batch, *(str(record[name]) for name in ("prompt_id", "row", "reference")), str(record["images"][:1]))


def spread(groups: Sequence[Any], limit: int) -> list[int]:
    """Chooses places of whole groups, up to `limit` places.

    Where a choice is needed, groups smaller than the largest are passed over: they go on in another process, which
    chooses by itself and might leave its part out. That holds as long as this process has one group whole.

    Args:
        groups: The group of each place.
        limit: How many places at the most.

    Returns:
        Places in rising order. Where the largest group does not fit, smaller ones; where none fits, the first `limit`
        places of one.
    """
    members: dict[Any, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    order = sorted(members, key=lambda group: hashlib.sha256(repr(group).encode()).digest())
    largest = max(map(len, members.values()), default=0)
    least = largest if largest <= limit < len(groups) else 0
    chosen: list[int] = []
    for group in order:
        if len(members[group]) >= least and len(chosen) + len(members[group]) <= limit:
            chosen += members[group]
    return sorted(chosen or [place for group in order[:1] for place in members[group][:limit]])
