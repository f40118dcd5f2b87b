"""How it is asked: prompts, the trajectories of a run, and a journal of those that are finished.

A finished trajectory is a line of `answers.jsonl`, and its images are files named by their content. A run that is
started again asks what is not there.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import re
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from swift.infer_engine.protocol import RequestConfig
from tqdm import tqdm  # type: ignore[import-untyped]

import deepeyes_plugin as plugin
from deepeyes.evaluation.bench import LETTERS, BadRow, Item, orders
from deepeyes.evaluation.endpoint import EndpointError, EvalRequest, EvalScheduler, RefusedError
from deepeyes.images.encoding import image_bytes, is_url
from deepeyes.prompts import DEFAULT_INSTRUCTION
from deepeyes.rows import has_tool, instruction_of
from deepeyes.settings import TOOL_NAME, Coordinates, Scoring

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MAX_SEED = 2**31 - 1
"""Some servers take no larger one."""

# Prompts


@dataclass(frozen=True)
class Prompt:
    """The system turn, and what follows the question and is repeated after every crop."""

    system: str
    instruction: str


_BOX = {
    Coordinates.PIXEL: "pixels of the image",
    Coordinates.NORM1000: "thousandths of the image's width and height",
}


def own_prompt(coordinates: Coordinates, *, tool: bool) -> Prompt:
    """Returns our own wording of the training prompt, or of one without the tool."""
    if not tool:
        instruction = "\nReason first, then answer. Format: <think>...</think> <answer>...</answer>"
        return Prompt("You are a helpful assistant.", instruction)
    box = {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "description": f"[x1, y1, x2, y2]: left, top, right and bottom of the part, in {_BOX[coordinates]}.",
    }
    label = {"type": "string", "description": "What you expect to see there. May be left out."}
    schema = {
        "type": "function",
        "function": {
            "name": TOOL_NAME,
            "description": "Cuts a part out of the image and shows it to you as a new image.",
            "parameters": {
                "type": "object",
                "properties": {"bbox_2d": box, "label": label},
                "required": ["bbox_2d"],
            },
        },
    }
    example = {"name": TOOL_NAME, "arguments": {"bbox_2d": [40, 60, 220, 180], "label": "the sign on the door"}}
    system = (
        "You are a helpful assistant.\n\n# Tools\nThese functions can be called while you answer; their signatures "
        f"stand within <tools></tools>:\n<tools>\n{json.dumps(schema)}\n</tools>\n\n# Calling a tool\nWrite its name "
        "and its arguments as one JSON object within <tool_call></tool_call>. For example:\n"
        f"<tool_call>\n{json.dumps(example)}\n</tool_call>"
    )
    instruction = (
        f"\nReason first, call **{TOOL_NAME}** where a detail is too small, then answer. Format: "
        "<think>...</think> and then either <tool_call>...</tool_call> or <answer>...</answer>"
    )
    return Prompt(system, instruction)


def prompt_from(row: dict[str, Any]) -> Prompt:
    """Takes the prompt of a training row: its system turn, and what follows its question in the user turn.

    Raises:
        ValueError: The row has no system turn, or its user turn does not hold its question.
    """
    system, user = ([turn["content"] for turn in row["prompt"] if turn["role"] == role] for role in ("system", "user"))
    instruction = instruction_of(row, user[0])
    if not system or instruction == DEFAULT_INSTRUCTION:
        raise ValueError("the first row has no system turn, or no instruction with <answer> after its question")
    return Prompt(system[0], instruction)


# Jobs


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

    def question(self) -> str:
        """Returns the question with its options, unable to forge an image."""
        text = self.item.question
        if self.order:
            lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, self.options, strict=False)]
            text = "\n".join([text, *lines, "Answer with the letter of the right option."])
        return re.sub(r"<(?=image\b|\|)", "< ", text)

    def reference(self) -> str:
        """Returns the reference answer, with the letter of a right option."""
        return self.item.reference if self.right is None else f"{LETTERS[self.right]}. {self.item.reference}"


def make_jobs(items: Iterable[Item], how: str, seed: int, samples: int) -> list[Job]:
    """Lists all trajectories of a run; see `orders`."""
    return [
        Job(item, order, cycle, sample)
        for item in items
        for sample in range(samples)
        for cycle, order in enumerate(orders(item, how, seed, sample))
    ]


# The journal


class Journal:
    """Finished trajectories, a line each; a line that a killed process left half written goes when it is opened."""

    def __init__(self, directory: Path) -> None:
        """Opens the journal of a directory, and makes both if need be.

        Raises:
            EndpointError: Another process works in this directory.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.path = directory / "answers.jsonl"
        self._file: IO[bytes] = self.path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise EndpointError(
                f"{directory}: another evaluation is writing here; give this one its own --out"
            ) from error
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        self._file.truncate(whole)
        self.answers: dict[str, dict[str, Any]] = {}
        for line in text[:whole].splitlines():
            answer = json.loads(line)
            self.answers[answer["id"]] = answer

    def add(self, answer: dict[str, Any]) -> None:
        """Appends one finished trajectory."""
        self._file.write(json.dumps(answer, default=str).encode() + b"\n")
        self._file.flush()
        self.answers[answer["id"]] = answer

    def close(self) -> None:
        """Closes the file, and lets others write."""
        self._file.close()


# The run


@dataclass(frozen=True)
class Sampling:
    """How the model is sampled: tokens a turn, temperature, top_p or None for the server's, and the seed of the run."""

    max_tokens: int
    temperature: float
    top_p: float | None
    seed: int

    def config(self, job: Job) -> RequestConfig:
        """Returns what swift calls a request config, with a seed of its own for every job."""
        seed = zlib.crc32(f"{self.seed} {job.id}".encode()) & MAX_SEED if self.temperature else None
        return RequestConfig(self.max_tokens, self.temperature, top_p=self.top_p, seed=seed)


@dataclass(frozen=True)
class Play:
    """How trajectories are played.

    Attributes:
        prompt: For questions that bring none of their own.
        tool: Whether the zoom tool is there.
        source: Name of the benchmark, for the trace.
        sampling: How the model is sampled.
        concurrency: Trajectories under way.
    """

    prompt: Prompt
    tool: bool
    source: str
    sampling: Sampling
    concurrency: int

    def request(self, job: Job) -> EvalRequest:
        """Makes the first turns of a trajectory."""
        row, question = job.item.row, job.question()
        users = {"role": "user", "content": f"<image>\n{question}{self.prompt.instruction}"}
        messages = [{"role": "system", "content": self.prompt.system}, users]
        data: dict[str, Any] = {"extra_info": {"question": question}, "env_name": "zoom" if self.tool else ""}
        if row is not None:
            bare = not self.tool and has_tool(row, plugin.SETTINGS)  # a prompt that speaks of a tool which is not there
            data = {**row, "env_name": row.get("env_name") if self.tool else ""}
            messages = messages if bare else [dict(turn) for turn in row["prompt"] if turn["role"] != "assistant"]
        return EvalRequest(messages=messages, data_dict=data)

    def asked(self, job: Job, source: Any) -> dict[str, Any]:
        """Returns what an answer is an answer to; one that was recorded with something else is to another question.

        Args:
            job: A trajectory.
            source: The image of its item.
        """
        row, item = job.item.row, job.item
        scoring = Scoring.VISUAL if row is None else plugin.SETTINGS.scoring_of(row["data_source"])
        place = (source.get("bytes") or source.get("path")) if isinstance(source, dict) else source
        image = str(place).encode() if is_url(place) else image_bytes(source)
        content = [item.question, sorted(item.options), item.reference, hashlib.sha256(image).hexdigest()]
        return {
            "digest": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
            "options": job.options,
            "right": job.right,
            "scoring": scoring.value,
            "question": job.question(),
            "reference": job.reference(),
            "prompt": [dict(message) for message in self.request(job).messages],
        }


@dataclass
class Outcome:
    """What was not answered: rows whose image can't be read, and requests that the endpoint refused."""

    bad: list[BadRow] = field(default_factory=list)
    refused: list[BadRow] = field(default_factory=list)


async def drop_stale(jobs: Iterable[Job], play: Play, journal: Journal) -> int:
    """Forgets the answers to a question, an image or a prompt that has changed since, and returns their number."""
    before = len(journal.answers)
    loaded: tuple[Item | None, Any] = (None, None)
    for job in jobs:
        if (answer := journal.answers.get(job.id)) is None:
            continue
        try:
            if loaded[0] is not job.item:
                loaded = job.item, await asyncio.to_thread(job.item.load)
            asked = await asyncio.to_thread(play.asked, job, loaded[1])
        except Exception:  # noqa: BLE001 - whatever a broken row raises: it is reported when its turn comes
            asked = {"digest": None}
        if any(answer.get(name) != value for name, value in asked.items()):
            del journal.answers[job.id]
    return before - len(journal.answers)


async def play_all(jobs: Sequence[Job], play: Play, scheduler: EvalScheduler, journal: Journal) -> Outcome:
    """Plays what the journal does not hold yet.

    Raises:
        EndpointError: The endpoint failed for good. What was finished before is in the journal.
    """
    outcome = Outcome()
    todo = [job for job in jobs if job.id not in journal.answers]
    gate = asyncio.Semaphore(play.concurrency)
    running: set[asyncio.Task[None]] = set()
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="answer", dynamic_ncols=True)
    zooms = 0

    async def one(job: Job, source: Any) -> None:
        nonlocal zooms
        try:
            answer = await _play(job, source, play, scheduler, journal.directory / "images")
        except RefusedError as error:
            outcome.refused.append(BadRow(job.id, str(error)))
        except _BadImageError as error:
            outcome.bad.append(BadRow(job.item.id, str(error)))
        else:
            journal.add(answer)
            zooms += answer["num_zooms"]
            bar.set_postfix(zooms=zooms, refused=len(outcome.refused), refresh=False)
        finally:
            gate.release()
        bar.update()

    loaded: tuple[Item | None, Any] = (None, None)
    try:
        for job in todo:
            await gate.acquire()
            if any(task.done() and task.exception() for task in running):
                break
            if loaded[0] is not job.item:
                try:
                    loaded = job.item, await asyncio.to_thread(job.item.load)
                except Exception as error:  # noqa: BLE001 - whatever a broken row raises, it is reported
                    loaded = job.item, _BadImageError(f"the image can't be read: {error}")
            running = {task for task in running if not task.done() or task.exception()}
            running.add(asyncio.create_task(one(job, loaded[1])))
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        bar.close()
    return outcome


class _BadImageError(ValueError):
    """The image of a row can't be read."""


async def _play(job: Job, source: Any, play: Play, scheduler: EvalScheduler, images: Path) -> dict[str, Any]:
    """Plays one trajectory and returns its record, in the form of the plugin's trace but for the verdict."""
    if isinstance(source, _BadImageError):
        raise source
    try:
        view = await scheduler.view(source)
        asked = await asyncio.to_thread(play.asked, job, source)
    except Exception as error:
        raise _BadImageError(f"the image can't be read: {type(error).__name__}: {error}"[:300]) from error
    request = play.request(job)
    request.images = [source if play.tool else view.image]
    start = time.monotonic()
    output = await scheduler.run(request, play.sampling.config(job))
    seconds = time.monotonic() - start
    infos, after = output.rollout_infos, output.messages[len(asked["prompt"]) :]
    names = await asyncio.to_thread(_save_images, images, request.sent)
    return {
        "id": job.id,
        "group": job.item.group,
        "category": job.item.category,
        "cycle": job.cycle,
        "sample": job.sample,
        **asked,
        "tokens": [request.prompt_tokens, request.completion_tokens],
        "seconds": round(seconds, 3),
        "finish_reason": request.finish_reason,
        "refusal": request.refusal,
        "batch": 0,
        "step": 0,
        "prompt_id": job.item.group,
        "row": job.item.id,
        "source": play.source,
        "turns": [turn["content"] for turn in after if turn["role"] == "assistant"],
        "observations": [turn["content"] for turn in after if turn["role"] == "user"],
        **{name: infos.get(name) for name in ("num_zooms", "num_zoom_errors", "zooms")},
        "view_size": list(view.image.size),
        "images": names,
    }


def _save_images(directory: Path, uris: Sequence[str]) -> list[str]:
    """Writes images under names that follow from their content, each once, and returns the names."""
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    for uri in uris:
        kind, _, text = uri.partition(";base64,")
        content = base64.b64decode(text)
        name = f"{hashlib.sha1(content, usedforsecurity=False).hexdigest()[:20]}.{kind.rpartition('/')[2]}"
        if not (directory / name).exists():
            temporary = directory / f".{name}.{threading.get_ident()}"
            temporary.write_bytes(content)
            temporary.replace(directory / name)
        names.append(name)
    return names
