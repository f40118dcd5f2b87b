"""Held-out evaluation for the demo: the plugin's own scheduler and scores over swift's transformers engine.

The plugin reads its settings when it is loaded, so whoever makes an `Evaluator` sets the environment first.
"""

from __future__ import annotations

import copy
import io
import os
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.infer_engine.protocol import RolloutInferRequest, RolloutOutput
from swift.rollout import invoke_async_hook, multi_turns, run_multi_turn
from swift.utils import import_external_file

from deepeyes.demo import progress, task
from deepeyes.demo.cache import PLUGIN
from deepeyes.environment import read_settings
from deepeyes.images.encoding import image_bytes
from deepeyes.judging.judge import judge_of_process
from deepeyes.scoring import score_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_TURNS, MAX_TOKENS, BATCH_SIZE = 2, 60, 64  # tokens of one turn; a tool call takes 47
MODES = {"TRUE_CROP": "true crop", "BLANK_CROP": "blanked crop", "NO_TOOL": "tool off"}
"""What a zoom shows: the crop, a grey one of its size, or nothing, since the policy is made to answer at once."""


class Evaluator:
    """A checkpoint behind swift's transformers engine, which answers sampled as in training."""

    def __init__(self, checkpoint: Path) -> None:
        """Load a checkpoint."""
        import_external_file(str(PLUGIN))  # as `--external_plugins` does: the scheduler is in swift's registry after it
        kind = {"model_type": "qwen2_5_vl", "template_type": "qwen2_5_vl", "torch_dtype": torch.float32}
        self._engine = TransformersEngine(str(checkpoint), max_batch_size=BATCH_SIZE, **kind)
        self._engine.template.remove_unused_columns = True  # a checkpoint of GRPO comes with the trainer's own answer
        self._config = RequestConfig(max_tokens=MAX_TOKENS, temperature=1.0, top_k=0, return_details=True)

    def answer(self, rows: Sequence[dict[str, Any]], seed: int, *, begun_with: str = "") -> list[RolloutOutput]:
        """Let the policy answer each row's question once; a first turn that is begun with words can't zoom."""
        torch.manual_seed(seed)
        kind, template = multi_turns["deepeyes_scheduler"], self._engine.template
        scheduler = kind(max_turns=MAX_TURNS, template=template, tokenizer=template.tokenizer)
        requests = []
        for row in copy.deepcopy(list(rows)):
            begun = [{"role": "assistant", "content": begun_with}] if begun_with else []
            requests.append(RolloutInferRequest(messages=row["prompt"] + begun, images=row["images"], data_dict=row))
        invoke_async_hook(scheduler.on_trajectory_start(requests))
        outputs: list[RolloutOutput] = run_multi_turn(
            requests, self._roll_out(requests), scheduler, self._roll_out, self._config, max_turns=MAX_TURNS
        )
        for output in outputs:  # what it was made to begin with is a part of its answer
            output.rollout_infos["turns"][-1] = begun_with + output.rollout_infos["turns"][-1]
        return outputs

    def answer_blank_crops(self, outputs: Sequence[RolloutOutput], seed: int) -> list[RolloutOutput]:
        """Let the policy answer again where it had zoomed, after the same call, with a grey crop."""
        torch.manual_seed(seed)
        again = list(outputs)
        zoomed = [at for at, output in enumerate(outputs) if output.rollout_infos["num_zooms"]]
        requests = []
        for output in (outputs[at] for at in zoomed):
            original, *crops = output.rollout_infos["images"]
            images = [original, *map(_painted_over, crops)]
            requests.append(RolloutInferRequest(messages=output.messages[:-1], images=images))
        for at, new in zip(zoomed, self._roll_out(requests), strict=True):
            infos = dict(outputs[at].rollout_infos)
            infos["turns"] = [*infos["turns"][:-1], new.response.choices[0].message.content]
            again[at] = RolloutOutput(response=new.response, messages=outputs[at].messages, rollout_infos=infos)
        return again

    def _roll_out(self, requests: list[RolloutInferRequest], *_: Any) -> list[RolloutOutput]:
        responses = self._engine.infer(requests, self._config, use_tqdm=False)
        return [RolloutOutput(response=response) for response in responses]


def _painted_over(crop: Any) -> Image.Image:
    with Image.open(io.BytesIO(image_bytes(crop))) as image:
        return Image.new("RGB", image.size, (128, 128, 128))


def outcome_of(
    rows: Sequence[dict[str, Any]], boxes: Sequence[task.Box], outputs: Sequence[RolloutOutput]
) -> dict[str, float]:
    """Score trajectories as the rewards do, and average.

    Args:
        rows: Dataset rows in the official schema.
        boxes: For each row, the one that holds the answer.
        outputs: For each row, the trajectory.

    Returns:
        The number of `questions`, and means over them: `tool_use` (a crop reached the policy), `accuracy`, `reward`,
        `format` (-1 to 0) and `turns`; and `hits`, the share of the zooms whose (last) crop holds the answer.
    """
    columns = {name: [row[name] for row in rows] for name in ("data_source", "reward_model", "extra_info", "env_name")}
    infos = columns["rollout_infos"] = [output.rollout_infos for output in outputs]
    columns["messages"] = [output.messages for output in outputs]
    completions = [output.response.choices[0].message.content for output in outputs]
    settings = read_settings(os.environ)
    scores = [scored.score for scored in score_batch(completions, columns, settings, judge_of_process(settings))]
    hits = [info["zooms"][-1]["box"] == list(box) for info, box in zip(infos, boxes, strict=True) if info["zooms"]]
    zoomed = sum(bool(info["num_zooms"]) for info in infos)
    return {
        "questions": len(rows),
        "tool_use": zoomed / len(rows),
        "hits": sum(hits) / max(1, zoomed),
        "accuracy": fmean(score.accuracy for score in scores),
        "reward": fmean(score.total for score in scores),
        "format": fmean(score.format for score in scores),
        "turns": fmean(info["num_turns"] for info in infos),
    }


def measure(checkpoint: Path, count: int, seed: int, modes: Sequence[str], folder: Path) -> None:
    """Measure a checkpoint on held-out questions that follow from the seed, with a pass for each of the modes.

    The folder gets `logging.jsonl`: progress, with the mode and what `outcome_of` gives for it.
    """
    pictures = task.sample_pictures(count, seed=seed, split="held-out")
    rows = [task.row(index, picture, "held-out") for index, picture in enumerate(pictures)]
    evaluator, writer = Evaluator(checkpoint), progress.Writer(folder)
    outputs = evaluator.answer(rows, seed)
    for at, mode in enumerate(modes, start=1):
        shown = outputs
        if mode == "BLANK_CROP":
            shown = evaluator.answer_blank_crops(outputs, seed)
        elif mode == "NO_TOOL":
            shown = evaluator.answer(rows, seed, begun_with=task.answer_turn("").removesuffix("</answer>"))
        figures = outcome_of(rows, [task.card_box(picture.mat) for picture in pictures], shown)
        told = "tool use {tool_use:.2f} (right place {hits:.2f})  accuracy {accuracy:.2f}  reward {reward:.2f}"
        writer.step(at, len(modes), f"{MODES[mode]}: {told.format(**figures)}", mode=mode, **figures)
