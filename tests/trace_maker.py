"""Makes traces with the plugin's own scoring and tracer, so that tests of the report read what training writes."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from PIL import Image

from deepeyes.calls import ZOOM_ERRORS
from deepeyes.images.encoding import to_data_uri
from deepeyes.judging.judge import Judge
from deepeyes.scoring import score_batch
from deepeyes.settings import JudgeKind, JudgeSettings, Settings
from deepeyes.traces import Tracer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Box = tuple[int, int, int, int]
HOSTILE = "</script><script>alert(1)</script><!--<script> <img src=x onerror=alert(2)> {{DATA}} &lt; \u2028 \ud800"
"""Text that would break out of HTML, of a script or of a template."""

LOG = {
    "loss": 0.01,
    "reward": 0.5,
    "rewards/DeepEyesReward/mean": 0.5,
    "rewards/DeepEyesAccuracy/mean": 0.25,
    "rewards/DeepEyesFormat/mean": -0.125,
    "rewards/DeepEyesTool/mean": 0.125,
    "num_turns": 1.5,
    "epoch": 0.33333333,
    "global_step/max_steps": "1/2",
    "elapsed_time": "1m 19s",
}
"""A line of swift's logging.jsonl."""

WORDS = "the colour of a small sign beside that door is hard to read from here so I zoom into its corner"

JUDGE = Judge(Settings(judge=JudgeSettings(kind=JudgeKind.RULE)))


@dataclass(frozen=True)
class Generation:
    """One trajectory: an answer after zooms to `boxes` (pixels of the view); a box that is None is refused."""

    answer: str
    boxes: Sequence[Box | None] = ()
    thought: str = "I look."

    def turns(self) -> list[str]:
        call = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": %s}}</tool_call>'
        asks = [f"<think>{self.thought}</think>\n{call % list(box or (5, 5, 5, 5))}" for box in self.boxes]
        return [*asks, f"<think>{self.thought}</think>\n<answer>{self.answer}</answer>"]


@dataclass(frozen=True)
class Prompt:
    """A question with its generations.

    `image` may be larger than the view, as an untouched original is. `file` is recorded in its place, as it is.
    """

    question: str
    reference: str
    image: Image.Image
    generations: Sequence[Generation]
    source: str = "vstar"
    view_size: tuple[int, int] | None = None
    crops: dict[Box, Image.Image] = field(default_factory=dict)
    file: Path | None = None


def log(directory: Path, *lines: dict[str, Any]) -> Path:
    """Writes a logging.jsonl and returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "logging.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def columns_of(prompts: Sequence[Prompt], step: int | None) -> tuple[list[str], dict[str, Any]]:
    """Returns completions and columns, as swift hands them to a reward, in the form of server mode."""
    names = ("messages", "images", "rollout_infos", "data_source", "reward_model", "extra_info", "prompt_id")
    columns: dict[str, Any] = {name: [] for name in names}
    completions = []
    for place, prompt in enumerate(prompts):
        view_size = prompt.view_size or prompt.image.size
        view = str(prompt.file or to_data_uri(prompt.image))
        for generation in prompt.generations:
            turns, crops, zooms = generation.turns(), [], []
            messages = [
                {"role": "system", "content": "Use the tool."},
                {"role": "user", "content": f"<image>\n{prompt.question}"},
            ]
            for number, turn in enumerate(turns, 1):
                messages.append({"role": "assistant", "content": turn})
                if number == len(turns):
                    break
                box = generation.boxes[number - 1]
                error = None if box else "empty_box"
                if box:
                    crops.append(prompt.crops.get(box) or prompt.image.resize(view_size).crop(box))
                zooms.append(
                    {"turn": number, "bbox_2d": list(box or (5, 5, 5, 5)), "box": box, "label": None, "error": error}
                )
                text = "<tool_response><image>\nGo on.</tool_response>" if box else ZOOM_ERRORS["empty_box"]
                messages.append({"role": "user", "content": text})
            infos = {"num_turns": len(turns), "turns": turns, "zooms": zooms, "view_size": list(view_size)}
            infos["num_zooms"] = sum(zoom["error"] is None for zoom in zooms)
            infos["num_zoom_errors"] = len(zooms) - infos["num_zooms"]
            images = [view, *map(to_data_uri, crops)]
            reference = {"ground_truth": prompt.reference}
            extra = {"question": prompt.question, "index": str(place)}
            row = (messages, images, infos, prompt.source, reference, extra, f"prompt_{place}")
            for name, value in zip(names, row, strict=True):
                columns[name].append(value)
            completions.append(turns[-1])
    return completions, {**columns, "trainer_state": SimpleNamespace(global_step=step)}


def record(tracer: Tracer, prompts: Sequence[Prompt], step: int | None) -> None:
    """Scores a batch with the rule judge and hands it to `tracer`."""
    completions, columns = columns_of(prompts, step)
    scored = score_batch(completions, columns, Settings(), JUDGE)
    tracer.record(scored, columns)


def flush(tracer: Tracer) -> None:
    """Waits until all that was recorded is on disk, as the end of a training process does."""
    tracer._thread.shutdown(wait=True)  # noqa: SLF001 - what the interpreter does at its end


def record_crowd(directory: Path, groups: int, size: tuple[int, int] = (280, 168)) -> None:
    """Records a group a step: eight generations of 300 words, each with a crop of its own from the group's view."""
    width, height = size
    for step in range(groups):
        chance = random.Random(step)  # noqa: S311 - no secret
        generations = []
        for _ in range(8):
            x, y = chance.randrange(2 * width // 3), chance.randrange(2 * height // 3)
            box = (x, y, x + chance.randrange(width // 8, width // 3), y + chance.randrange(height // 8, height // 3))
            thought = " ".join(chance.choices(WORDS.split(), k=150))
            generations.append(Generation(chance.choice(["red", "blue"]), [box], thought))
        view = Image.frombytes("RGB", (28, 21), chance.randbytes(28 * 21 * 3)).resize(size)
        tracer = Tracer(directory, "0")  # one for all would leave out what the disk is too slow for
        record(tracer, [Prompt(f"What colour is sign {step}?", "red", view, generations)], step)
        flush(tracer)
