"""Held-out evaluation for the demo: the plugin's own scheduler and scores over swift's transformers engine.

The settings of the plugin are read at import, so whoever imports this module sets the environment first.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import demo_sampling  # noqa: F401 - for its effect
import torch
from PIL import Image
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.infer_engine.protocol import RolloutInferRequest, RolloutOutput
from swift.rollout import invoke_async_hook, run_multi_turn

import deepeyes_plugin as plugin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_TURNS = 2
MAX_TOKENS = 60
"""Tokens of one turn; a tool call takes 47."""
TOP_K = 20
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


class _BlankingScheduler(plugin.DeepEyesScheduler):
    """The plugin's scheduler, except that every crop is grey."""

    def step(self, infer_request: Any, response_choice: Any, current_turn: int) -> Any:
        """Append the observation with its picture painted over."""
        given = len(infer_request.images)
        result = super().step(infer_request, response_choice, current_turn)
        for at in range(given, len(infer_request.images)):
            with Image.open(io.BytesIO(plugin.image_bytes(infer_request.images[at]))) as crop:
                infer_request.images[at] = Image.new("RGB", crop.size, (128, 128, 128))
        return result


class Evaluator:
    """A checkpoint behind swift's transformers engine."""

    def __init__(self, checkpoint: Path) -> None:
        """Load a checkpoint.

        Args:
            checkpoint: Its directory.
        """
        self._engine = TransformersEngine(
            str(checkpoint),
            model_type="qwen2_5_vl",
            template_type="qwen2_5_vl",
            torch_dtype=torch.float32,
            max_batch_size=BATCH_SIZE,
        )
        self._engine.template.remove_unused_columns = True  # a checkpoint of GRPO comes with the trainer's own answer
        self._config = RequestConfig(max_tokens=MAX_TOKENS, temperature=1.0, top_k=TOP_K, return_details=True)

    def run(
        self,
        rows: Sequence[dict[str, Any]],
        boxes: Sequence[tuple[int, ...]],
        *,
        mode: Mode = Mode.TRUE_CROP,
        direct: str = "",
        seed: int = 0,
    ) -> Outcome:
        """Let the policy answer each row's question once, sampled as in training.

        Args:
            rows: Dataset rows in the official schema.
            boxes: For each row, the box in pixels of the view that holds the answer.
            mode: What a zoom shows.
            direct: With `Mode.NO_TOOL`, the words that begin the answer.
            seed: Seed of the sampling.

        Returns:
            The means.
        """
        torch.manual_seed(seed)
        kind = _BlankingScheduler if mode is Mode.BLANK_CROP else plugin.DeepEyesScheduler
        template = self._engine.template
        scheduler = kind(max_turns=MAX_TURNS, template=template, tokenizer=template.tokenizer)
        requests = [_request(row, direct if mode is Mode.NO_TOOL else "") for row in rows]

        def roll_out(pending: list[Any], config: Any) -> list[Any]:
            return [
                RolloutOutput(response=response) for response in self._engine.infer(pending, config, use_tqdm=False)
            ]

        invoke_async_hook(scheduler.on_trajectory_start(requests))
        outputs = run_multi_turn(
            requests, roll_out(requests, self._config), scheduler, roll_out, self._config, max_turns=MAX_TURNS
        )
        if mode is Mode.NO_TOOL:
            for output in outputs:  # what it was made to begin with is a part of its answer
                output.rollout_infos["turns"][-1] = direct + output.rollout_infos["turns"][-1]
        return _outcome(rows, boxes, outputs)


def _request(row: dict[str, Any], direct: str) -> Any:
    messages = copy.deepcopy(row["prompt"])
    if direct:
        messages.append({"role": "assistant", "content": direct})
    columns = {key: value for key, value in row.items() if key not in ("prompt", "images")}
    return RolloutInferRequest(messages=messages, images=copy.deepcopy(row["images"]), data_dict=columns)


def _outcome(rows: Sequence[dict[str, Any]], boxes: Sequence[tuple[int, ...]], outputs: Sequence[Any]) -> Outcome:
    """Score trajectories as the rewards do, and average."""
    columns = {name: [row[name] for row in rows] for name in ("data_source", "reward_model", "extra_info", "env_name")}
    columns["messages"] = [output.messages for output in outputs]
    columns["rollout_infos"] = [output.rollout_infos for output in outputs]
    completions = [output.response.choices[0].message.content for output in outputs]
    scores = [
        scored.score for scored in plugin.score_batch(completions, columns, plugin.SETTINGS, plugin.judge_of_process())
    ]
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
