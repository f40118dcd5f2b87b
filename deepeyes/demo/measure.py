"""Held-out evaluation for the demo: the plugin's own scheduler and scores over swift's transformers engine.

The plugin reads its settings when it is loaded, so whoever makes an `Evaluator` sets the environment first.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.infer_engine.protocol import RolloutInferRequest, RolloutOutput
from swift.rollout import invoke_async_hook, multi_turns, run_multi_turn
from swift.utils import import_external_file

from deepeyes.demo import sampling as demo_sampling  # noqa: F401 - for its effect
from deepeyes.demo import task
from deepeyes.demo.cache import PLUGIN
from deepeyes.environment import read_settings
from deepeyes.images.encoding import image_bytes
from deepeyes.judging.judge import judge_of_process
from deepeyes.scoring import score_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_TURNS = 2
MAX_TOKENS = 60
"""Tokens of one turn; a tool call takes 47."""
BATCH_SIZE = 64


class Mode(str, Enum):
    """What a zoom shows: the crop, a grey one of its size, or nothing, since the policy is made to answer at once."""

    TRUE_CROP = "true crop"
    BLANK_CROP = "blanked crop"
    NO_TOOL = "tool off"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means over the trajectories of an evaluation, one a question.

    Attributes:
        questions: How many.
        tool_use: Share of trajectories in which a crop reached the policy.
        hits: Share of trajectories whose (last) crop holds the place of the answer, among those that zoomed.
        accuracy: Share of right answers.
        reward: Mean total reward.
        format: Mean format signal, -1 to 0.
        turns: Mean number of turns.
    """

    questions: int
    tool_use: float
    hits: float
    accuracy: float
    reward: float
    format: float
    turns: float


class Evaluator:
    """A checkpoint behind swift's transformers engine."""

    def __init__(self, checkpoint: Path, progress: Callable[[int, int], object] = lambda *_: None) -> None:
        """Load a checkpoint.

        Args:
            checkpoint: Its directory.
            progress: Told how many of how many turns are written, after each batch.
        """
        self._progress = progress
        import_external_file(str(PLUGIN))  # as `--external_plugins` does: the scheduler is in swift's registry after it
        self._engine = TransformersEngine(
            str(checkpoint),
            model_type="qwen2_5_vl",
            template_type="qwen2_5_vl",
            torch_dtype=torch.float32,
            max_batch_size=BATCH_SIZE,
        )
        self._engine.template.remove_unused_columns = True  # a checkpoint of GRPO comes with the trainer's own answer
        self._config = RequestConfig(max_tokens=MAX_TOKENS, temperature=1.0, top_k=0, return_details=True)

    def answer(self, rows: Sequence[dict[str, Any]], *, begun_with: str = "", seed: int = 0) -> list[RolloutOutput]:
        """Let the policy answer each row's question once, sampled as in training.

        Args:
            rows: Dataset rows in the official schema.
            begun_with: Words that begin its first turn, so that it can't zoom.
            seed: Seed of the sampling.

        Returns:
            The trajectories, in the rows' order.
        """
        torch.manual_seed(seed)
        template = self._engine.template
        scheduler = multi_turns["deepeyes_scheduler"](
            max_turns=MAX_TURNS, template=template, tokenizer=template.tokenizer
        )
        requests = [_request(row, begun_with) for row in rows]
        invoke_async_hook(scheduler.on_trajectory_start(requests))
        outputs: list[RolloutOutput] = run_multi_turn(
            requests, self._roll_out(requests), scheduler, self._roll_out, self._config, max_turns=MAX_TURNS
        )
        for output in outputs:  # what it was made to begin with is a part of its answer
            output.rollout_infos["turns"][-1] = begun_with + output.rollout_infos["turns"][-1]
        return outputs

    def answer_blank_crops(self, outputs: Sequence[RolloutOutput], *, seed: int = 0) -> list[RolloutOutput]:
        """Let the policy answer again where it had zoomed, after the same call, with a grey crop.

        Args:
            outputs: Trajectories of `answer`; they stay as they are.
            seed: Seed of the sampling.

        Returns:
            Trajectories in the same order.
        """
        torch.manual_seed(seed)
        again = list(outputs)
        zoomed = [at for at, output in enumerate(outputs) if output.rollout_infos["num_zooms"]]
        requests = [_blanked(outputs[at]) for at in zoomed]
        for at, new in zip(zoomed, self._roll_out(requests), strict=True):
            infos = dict(outputs[at].rollout_infos)
            infos["turns"] = [*infos["turns"][:-1], new.response.choices[0].message.content]
            again[at] = RolloutOutput(response=new.response, messages=outputs[at].messages, rollout_infos=infos)
        return again

    def _roll_out(self, requests: list[RolloutInferRequest], *_: Any) -> list[RolloutOutput]:
        responses = []
        for start in range(0, len(requests), BATCH_SIZE):
            responses += self._engine.infer(requests[start : start + BATCH_SIZE], self._config, use_tqdm=False)
            self._progress(len(responses), len(requests))
        return [RolloutOutput(response=response) for response in responses]


def _request(row: dict[str, Any], begun_with: str) -> RolloutInferRequest:
    messages = copy.deepcopy(row["prompt"])
    if begun_with:
        messages.append({"role": "assistant", "content": begun_with})
    columns = {key: value for key, value in row.items() if key not in ("prompt", "images")}
    return RolloutInferRequest(messages=messages, images=copy.deepcopy(row["images"]), data_dict=columns)


def _blanked(output: RolloutOutput) -> RolloutInferRequest:
    """Give the request of the last turn, with every crop painted over."""
    original, *crops = output.rollout_infos["images"]
    grey = []
    for crop in crops:
        with Image.open(io.BytesIO(image_bytes(crop))) as image:
            grey.append(Image.new("RGB", image.size, (128, 128, 128)))
    return RolloutInferRequest(messages=output.messages[:-1], images=[original, *grey])


def outcome_of(
    rows: Sequence[dict[str, Any]], boxes: Sequence[tuple[int, ...]], outputs: Sequence[RolloutOutput]
) -> Outcome:
    """Score trajectories as the rewards do, and average.

    Args:
        rows: Dataset rows in the official schema.
        boxes: For each row, the box in pixels of the view that holds the answer.
        outputs: For each row, the trajectory.
    """
    columns = {name: [row[name] for row in rows] for name in ("data_source", "reward_model", "extra_info", "env_name")}
    columns["messages"] = [output.messages for output in outputs]
    columns["rollout_infos"] = [output.rollout_infos for output in outputs]
    completions = [output.response.choices[0].message.content for output in outputs]
    settings = read_settings(os.environ)
    scores = [scored.score for scored in score_batch(completions, columns, settings, judge_of_process(settings))]
    infos = [output.rollout_infos for output in outputs]
    zoomed = [bool(info["num_zooms"]) for info in infos]
    hits = [
        bool(info["zooms"]) and info["zooms"][-1]["box"] == list(box) for info, box in zip(infos, boxes, strict=True)
    ]
    count = len(rows)
    return Outcome(
        questions=count,
        tool_use=sum(zoomed) / count,
        hits=sum(hits) / max(1, sum(zoomed)),
        accuracy=sum(score.accuracy for score in scores) / count,
        reward=sum(score.total for score in scores) / count,
        format=sum(score.format for score in scores) / count,
        turns=sum(info["num_turns"] for info in infos) / count,
    )


def main() -> None:
    """Measure a checkpoint; write progress, and an `Outcome` with its mode as each is done, to `logging.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--split", required=True, help="name of the pictures' stream of random numbers")
    parser.add_argument("--count", type=int, required=True, help="questions")
    parser.add_argument("--seed", type=int, required=True, help="of the pictures and the sampling")
    parser.add_argument("--modes", nargs="+", choices=Mode.__members__, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    pictures = task.sample_pictures(options.count, seed=options.seed, split=options.split)
    rows = [task.row(index, picture, options.split) for index, picture in enumerate(pictures)]
    boxes = [picture.box for picture in pictures]
    with (options.output_dir / "logging.jsonl").open("w", encoding="utf-8", buffering=1) as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")

        evaluator = Evaluator(options.checkpoint, lambda done, of: write({"step": done, "steps": of}))
        outputs = evaluator.answer(rows, seed=options.seed)
        for mode in options.modes:
            if Mode[mode] is Mode.BLANK_CROP:
                shown = evaluator.answer_blank_crops(outputs, seed=options.seed)
            elif Mode[mode] is Mode.NO_TOOL:
                direct = task.answer_turn("").removesuffix("</answer>")
                shown = evaluator.answer(rows, begun_with=direct, seed=options.seed)
            else:
                shown = outputs
            write({"mode": mode, **asdict(outcome_of(rows, boxes, shown))})


if __name__ == "__main__":
    main()
