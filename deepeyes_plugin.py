"""DeepEyes for ms-swift: rewards, and the multi-turn scheduler that runs `image_zoom_in_tool`.

DeepEyes (arXiv 2505.14362) trains a vision-language model with GRPO to zoom into an image while it
reasons: the model names a box, gets the crop back as a new image, and answers. swift loads this module:

    swift rlhf --rlhf_type grpo --external_plugins deepeyes_plugin.py \
        --multi_turn_scheduler deepeyes_scheduler \
        --reward_funcs deepeyes_reward deepeyes_accuracy deepeyes_format deepeyes_tool \
        --reward_weights 1 0 0 0 ...

It registers the rewards `deepeyes_reward` (the total), `deepeyes_accuracy` (0/1), `deepeyes_format` (-1/0),
`deepeyes_tool` (0/1) and `deepeyes_judge_failure` (0/1, a curve), and the scheduler `deepeyes_scheduler`.
What it stands on is the package `deepeyes` beside it. Settings are environment variables, read once, here:
docs/settings.md lists them.

Source: the reward rules follow the authors' `verl/utils/reward_score/vl_agent.py`, the tool follows their
`verl/workers/agent/envs/mm_process_engine/visual_toolbox_v2.py` (github.com/Visual-Agent/DeepEyes);
docs/rewards.md lists every rule of `corrected` that differs from them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

try:  # ms-swift 4
    from swift.infer_engine import protocol
    from swift.rewards.orm import ORM, orms
    from swift.rollout import multi_turn as swift_multi_turn
except ImportError:  # ms-swift 3
    from swift.llm.infer import protocol
    from swift.plugin import ORM, orms
    from swift.plugin import multi_turn as swift_multi_turn

sys.path.insert(0, str(Path(__file__).resolve().parent))  # swift does so too, but not in every worker that it spawns

from deepeyes import lengths
from deepeyes.environment import read_settings
from deepeyes.family import media_tokens, response_prefix, shared_end
from deepeyes.images.encoding import is_url, to_data_uri
from deepeyes.images.processor import ImageProcessor
from deepeyes.judging.ahead import Ahead
from deepeyes.judging.judge import judge_of_process
from deepeyes.log import logger
from deepeyes.rows import has_columns, row_name
from deepeyes.scoring import Scored, score_batch
from deepeyes.traces import tracer_of_process
from deepeyes.turns import Observation, Progress, ZoomTool, with_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deepeyes.images.processor import View

SETTINGS = read_settings(os.environ)

ZOOM_THREADS = min(8, os.cpu_count() or 1)  # Pillow releases the GIL while it decodes, scales and encodes
DOWNLOAD_THREADS = 32  # they wait more than they work
DOWNLOAD_PATIENCE = 120.0  # seconds that a trajectory waits for an image behind a URL

# ---------------------------------------------------------------------------------------------------------
# Rewards: a trajectory becomes a number
# ---------------------------------------------------------------------------------------------------------


class DeepEyesReward(ORM):  # type: ignore[misc]  # swift ships no types
    """`deepeyes_reward`: the weighted sum of accuracy, format and tool reward. Registered, not called by hand."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        """Takes what any version of swift passes; nothing of it is needed."""

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """Scores a batch; see `score_batch` for arguments and errors.

        Returns:
            One number a completion.
        """
        judge = judge_of_process(SETTINGS)
        judge.begin(getattr(columns.get("trainer_state"), "global_step", None))
        scored = score_batch(completions, columns, SETTINGS, judge)
        judge.end([one.verdict for one in scored])
        if SETTINGS.trace_dir is not None:
            tracer_of_process(SETTINGS.trace_dir, SETTINGS.trace_bytes).record(scored, columns)
        return [self.part(one) for one in scored]

    def part(self, scored: Scored) -> float:
        """Returns the part of the score that this reward is."""
        return scored.score.total


class DeepEyesAccuracy(DeepEyesReward):
    """`deepeyes_accuracy`: 1 where the answer is right, else 0."""

    def part(self, scored: Scored) -> float:
        """Returns 0 or 1."""
        return scored.score.accuracy


class DeepEyesFormat(DeepEyesReward):
    """`deepeyes_format`: -1 where the format is broken, else 0."""

    def part(self, scored: Scored) -> float:
        """Returns -1 or 0."""
        return scored.score.format


class DeepEyesTool(DeepEyesReward):
    """`deepeyes_tool`: 1 where the answer is right and at least one crop reached the model, else 0."""

    def part(self, scored: Scored) -> float:
        """Returns 0 or 1."""
        return scored.score.tool


class DeepEyesJudgeFailure(DeepEyesReward):
    """`deepeyes_judge_failure`: 1 where the judge gave no verdict that can be read; give it weight 0."""

    def part(self, scored: Scored) -> float:
        """Returns 0 or 1."""
        return float(scored.verdict.source == "unparseable")


class DeepEyesJudgeAhead(DeepEyesReward):
    """`deepeyes_judge_ahead`: 1 where the verdict was there before the step came; a curve, give it weight 0."""

    def part(self, scored: Scored) -> float:
        """Returns 0 or 1."""
        return float(scored.verdict.ahead)


class DeepEyesJudgeSeconds(DeepEyesReward):
    """`deepeyes_judge_seconds`: how long the step waited for its judge; a curve, give it weight 0."""

    def part(self, scored: Scored) -> float:  # noqa: ARG002 - the same for the whole step
        """Returns seconds."""
        return judge_of_process(SETTINGS).waited


# ---------------------------------------------------------------------------------------------------------
# The scheduler: a turn becomes a crop
# ---------------------------------------------------------------------------------------------------------

_BLANK = to_data_uri(Image.new("RGB", (56, 56), (127, 127, 127)))  # for an image that can't be read: the run lives

# What this version of swift brings: 4.6 trains on token ids and nothing else, 3.7 has none.
_TOKEN_EXACT = hasattr(swift_multi_turn.MultiTurnScheduler, "get_response_token_data")
_TOKEN_IDS = hasattr(swift_multi_turn, "RolloutScheduler")

if not _TOKEN_IDS:
    logger.warning(
        "DeepEyes: this ms-swift gives no token ids to the trainer, which tokenises trajectories anew, and behind "
        "`swift rollout` no crops either: use --vllm_mode colocate, or better ms-swift 4.6, which trains on just the "
        "tokens that were sampled"
    )
elif not _TOKEN_EXACT:
    logger.warning(
        "DeepEyes: training is on just the tokens that were sampled, but for three flaws that ms-swift 4.6 mended: "
        "the engine sees earlier turns as text that it tokenises anew, the line break that the template puts after "
        "an earlier turn carries loss, and rollout importance sampling is off for trajectories of several turns"
    )


class DeepEyesScheduler(swift_multi_turn.MultiTurnScheduler):  # type: ignore[misc]  # swift ships no types
    """`deepeyes_scheduler`: runs `image_zoom_in_tool` between the turns of a rollout.

    It works behind `swift rollout` (`run`, asynchronous) and inside the trainer (`step` by turns), on ms-swift
    3.7 and newer. Every trajectory reports in `rollout_infos` its `images`, `num_zooms`, `num_zoom_errors`,
    `zooms`, `turns` (the text of every assistant turn), `view_size` (pixels) and the `verdict`, where it is there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes what any version of swift passes: `infer_engine`, `max_turns`, `tokenizer`, `template`."""
        super().__init__(*args, **kwargs)
        engine = self.__dict__.get("infer_engine")
        self._in_server = engine is not None
        template = (
            kwargs.get("template") or getattr(engine, "template", None) or getattr(engine, "default_template", None)
        )
        tokenizer = kwargs.get("tokenizer") or getattr(template, "tokenizer", None)
        self._processor = ImageProcessor(template, tokenizer, SETTINGS)
        self._tool = ZoomTool(self._processor, SETTINGS)
        self._ahead = Ahead(SETTINGS, lambda: judge_of_process(SETTINGS))
        if template is None:
            logger.warning(
                "DeepEyes: this ms-swift does not hand its template to the scheduler; limit images with the "
                "environment variable MAX_PIXELS, since boxes would be misread under --max_pixels"
            )
        self._pool = ThreadPoolExecutor(ZOOM_THREADS, thread_name_prefix="deepeyes-zoom")
        self._downloads = ThreadPoolExecutor(DOWNLOAD_THREADS, thread_name_prefix="deepeyes-download")
        self._template, self._media = template, media_tokens(template, tokenizer)
        self._eos_id = getattr(tokenizer, "eos_token_id", None)
        self._pad_id = getattr(tokenizer, "pad_token_id", self._eos_id)
        self._shared_end = shared_end(template, tokenizer)
        self._limit = None if self._in_server or tokenizer is None else lengths.engine_length()
        self._told_of_columns = False
        if self._in_server:
            self.infer_engine = lengths.ForgivingEngine(engine, self._end)

    # What swift calls, in this order.

    async def run(self, infer_request: Any, request_config: Any, **kwargs: Any) -> Any:
        """Runs one trajectory behind `swift rollout`."""
        await self._look(infer_request)
        output = await super().run(infer_request, request_config, **kwargs)
        progress = _progress(infer_request)
        verdict = await self._ahead.verdict(_row(infer_request), progress, infer_request.messages)
        output.rollout_infos.update({"verdict": verdict} if verdict else {})
        if progress.cut and len(output.response_loss_mask or ()) > 1:
            output.response_loss_mask[-1] = [0] * len(output.response_loss_mask[-1])
        views = progress.views or []
        crops = infer_request.images[len(views) :]
        images = [view.payload if view else _BLANK for view in views]
        images += await asyncio.gather(*[self._in_pool(to_data_uri, crop) for crop in crops])
        output.rollout_infos.update({**progress.infos(), "images": images})
        _complete_last_turn(output)
        return output

    async def on_trajectory_start(self, requests: Sequence[Any]) -> None:
        """Decodes and scales the images of new trajectories, off the event loop and in parallel."""
        if not self._in_server and self._template is not None:  # a trainer has its engine by now
            lengths.guard_own_engines(self._length, self._end, protocol.RolloutOutput)
        await asyncio.gather(*[self._look(request) for request in requests])

    async def on_turn_end(self, infer_request: Any, response_choice: Any, current_turn: int) -> dict[str, Any]:
        """Runs the tool call of a turn, off the event loop. ms-swift before 4.5 does this in `step`."""
        progress = _progress(infer_request)
        if not self.check_finished(infer_request, response_choice, current_turn):
            progress.prepared = await self._in_pool(self._observe, infer_request, progress)
            if self._outgrows(infer_request, progress):
                return {"rollout_infos": self._infos(infer_request, progress), "done": True}
            tokens = getattr(response_choice, "token_ids", None)
            if tokens and tokens[-1] == self._shared_end:
                tokens.pop()  # the next turn begins with it, and it has its loss there
        elif not self._in_server:
            progress.verdict = self._ahead.start(_row(infer_request), progress, infer_request.messages)
        return {"rollout_infos": self._infos(infer_request, progress)}

    def check_finished(self, infer_request: Any, response_choice: Any, current_turn: int) -> bool:
        """Tells whether a trajectory is over: an answer, no tool call, no tool, or a limit reached."""
        turn = self._hear(infer_request, response_choice, current_turn)
        if super().check_finished(infer_request, response_choice, current_turn):
            return True
        return self._tool.is_over(turn, _row(infer_request), self._told(infer_request))

    def get_response_token_data(self, infer_request: Any, response_choice: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes tokens that had to be replaced out of the loss. Called by ms-swift 4.6 and newer."""
        ids, mask = super().get_response_token_data(infer_request, response_choice, *args, **kwargs)
        prefix = len(ids) - len(response_choice.token_ids or [])
        for place in _progress(infer_request).masked:
            mask[prefix + place] = 0
        return ids, mask

    def step(self, infer_request: Any, response_choice: Any, current_turn: int) -> Any:
        """Appends the observation of a turn to the request."""
        progress = _progress(infer_request)
        self._hear(infer_request, response_choice, current_turn)
        observation = progress.prepared or self._observe(infer_request, progress)
        progress.prepared = None
        progress.zooms.append(observation.zoom)
        infer_request.messages.append({"role": "user", "content": observation.text})
        if observation.image is not None:
            image = observation.image
            infer_request.images.append(image if self._in_server else to_data_uri(image))
        infos = self._infos(infer_request, progress)
        if not _TOKEN_IDS:
            return infer_request, infos
        result = {"infer_request": infer_request, "rollout_infos": infos}
        if response_choice.token_ids and not _TOKEN_EXACT:
            ids = list(response_choice.token_ids)
            if ids[-1] == self._eos_id:  # the template of these versions adds it, with loss, and would double it
                ids.pop()
            result.update(response_token_ids=ids, response_loss_mask=[1] * len(ids))
        return result

    # The parts.

    async def _look(self, request: Any) -> None:
        """Makes the views of a new request's images, once."""
        progress = _progress(request)
        if progress.views is not None:
            return
        progress.views = []
        request.images = request.images or []  # a row may have none, and swift hands on what it found
        views = await asyncio.gather(*[self._view(request, image) for image in request.images], return_exceptions=True)
        self._take_views(request, views)

    async def _view(self, request: Any, image: Any) -> View:
        kwargs = getattr(request, "chat_template_kwargs", None)
        pool = self._downloads if is_url(image) else self._pool  # a server that hangs must not hold up the others
        future = await self._in_pool(self._processor.view, image, kwargs, pool)
        return await asyncio.wait_for(asyncio.wrap_future(future), DOWNLOAD_PATIENCE if is_url(image) else None)

    def _take_views(self, request: Any, views: Sequence[View | BaseException]) -> None:
        """Puts views in the place of a request's images, and something blank in the place of those without one."""
        progress = _progress(request)
        progress.views = [None if isinstance(view, BaseException) else view for view in views]
        for place, view in enumerate(views):
            if not isinstance(view, BaseException):
                request.images[place] = view.feed if self._in_server else _lighter(request.images[place], view.payload)
            else:
                request.images[place] = _BLANK
                logger.warning(
                    "%s: image %d can't be read: %s: %.300s", row_name(_row(request)), place, type(view).__name__, view
                )

    def _observe(self, request: Any, progress: Progress) -> Observation:
        """Runs the tool call that ends the last turn. Never raises for anything that the model wrote."""
        kwargs = getattr(request, "chat_template_kwargs", None)
        if progress.views is None:  # no on_trajectory_start before ms-swift 4.5
            crops = sum(zoom["error"] is None for zoom in progress.zooms)
            originals = request.images[: len(request.images or []) - crops] if request.images else []
            futures = [self._processor.view(image, kwargs) for image in originals]
            self._take_views(request, [future.exception() or future.result() for future in futures])
        users = [message["content"] for message in request.messages if message["role"] == "user"]
        prompt = users[-1 - len(progress.zooms)]
        return self._tool.observe(progress, _row(request), prompt, kwargs)

    def _hear(self, request: Any, choice: Any, turn: int) -> str:
        """Takes down a turn of the model, once, and makes what could pass for an image in it inert.

        Returns:
            The turn as the model wrote it.
        """
        progress = _progress(request)
        if len(progress.turns) >= turn:
            return progress.turns[-1]
        choice.message.content = (choice.message.content or "").encode("utf-8", "replace").decode("utf-8")
        prefix = response_prefix(self._template, getattr(request, "chat_template_kwargs", None))
        progress.turns.append(with_prefix(choice.message.content, prefix))
        progress.cut = getattr(choice, "cut", False)
        last = request.messages[-1]
        if last["role"] == "assistant" and isinstance(last["content"], str):
            last["content"] = self._media.inert(choice.message.content)
        tokens = getattr(choice, "token_ids", None) or []
        progress.masked = [place for place, token in enumerate(tokens) if token in self._media.names]
        for place in progress.masked:
            tokens[place] = self._pad_id
        if progress.masked:
            logger.warning("%s: the policy sampled image tokens; they are replaced", row_name(_row(request)))
            if _TOKEN_EXACT and choice.logprobs and "content" in choice.logprobs:
                kept = [item for place, item in enumerate(choice.logprobs["content"]) if place not in progress.masked]
                choice.logprobs["content"] = kept
        if progress.cut and turn > 1:
            progress.masked = list(range(len(tokens)))
        elif progress.cut:  # a trainer would encode it whole, and may die of it; and surely of one without any loss
            request.messages[:] = [{"role": "user", "content": lengths.LEFT_OUT}, request.messages[-1]]
            progress.views, request.images = [], []
        return progress.turns[-1]

    def _told(self, request: Any) -> str | None:
        """Returns what the model was told before its first turn, where that must say whether it has the tool."""
        if has_columns(_row(request)):
            return None
        if not self._told_of_columns:
            self._told_of_columns = True
            logger.warning(
                "DeepEyes: requests come without the columns of the dataset (Ray's Megatron trainer hands over none; "
                "elsewhere set --vllm_server_pass_dataset true): a row has the zoom tool if its prompt names it"
            )
        texts = []
        for message in request.messages:
            if message["role"] == "assistant":
                break
            texts.append(str(message["content"]))
        return "\n".join(texts)

    def _outgrows(self, request: Any, progress: Progress) -> bool:
        """Tells whether the next prompt would be beyond what the trainer's own engine takes."""
        if self._limit is None:
            return False
        length = lengths.next_prompt_length(request.messages, progress, self.tokenizer, self._processor.token)
        if length >= self._limit:
            logger.warning(
                "%s: ends after turn %d: the next prompt of about %d tokens is beyond the %d of the model; %s",
                *(row_name(_row(request)), len(progress.turns), length, self._limit, lengths.TOO_LONG_ADVICE),
            )
        return length >= self._limit

    def _length(self, request: Any) -> int:
        """Estimates the tokens of a prompt from above; 0 for one to another model, as of rewards."""
        ours = isinstance(request, protocol.RolloutInferRequest)
        return lengths.request_length(request, self._processor, self._pool, self.tokenizer) if ours else 0

    def _end(self, request: Any, error: BaseException) -> Any:
        """Makes the reply that ends a trajectory whose prompt is beyond the model's length: one token."""
        logger.warning("%s: ends here: %.200s; %s", row_name(_row(request)), error, lengths.TOO_LONG_ADVICE)
        return lengths.ending(protocol, self._eos_id)

    def _infos(self, request: Any, progress: Progress) -> dict[str, Any]:
        infos = progress.infos()
        if not self._in_server:
            infos["images"] = list(request.images)
            infos.update({} if progress.verdict is None else {"verdict": progress.verdict})
        return infos

    def _in_pool(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


def _lighter(source: Any, payload: str) -> str:
    """Returns the source where it is a text that is lighter: a trainer sends its requests around every turn."""
    return source if isinstance(source, str) and not is_url(source) and len(payload) > len(source) else payload


def _row(request: Any) -> Mapping[str, Any]:
    """Returns the dataset columns that came with a request."""
    return getattr(request, "data_dict", None) or {}


def _progress(request: Any) -> Progress:
    """Returns what is remembered of a request; ms-swift 3.7 makes a new request each turn and hands the infos on."""
    progress: Progress | None = getattr(request, "_deepeyes_progress", None)
    if progress is None:
        infos = _row(request).get("multi_turn_infos") or {}
        progress = Progress(turns=list(infos.get("turns", [])), zooms=list(infos.get("zooms", [])))
        request._deepeyes_progress = progress  # noqa: SLF001 - our own attribute
    return progress


def _complete_last_turn(output: Any) -> None:
    """Adds the token ids of the last turn, which `run` of ms-swift before 4.6 drops after a tool call."""
    choice = output.response.choices[0]
    if not choice.token_ids or len(output.response_token_ids) != output.rollout_infos["num_turns"] - 1:
        return
    output.response_token_ids.append(list(choice.token_ids))
    output.response_loss_mask.append([1] * len(choice.token_ids))


# ---------------------------------------------------------------------------------------------------------
# Registration
# ---------------------------------------------------------------------------------------------------------

orms["deepeyes_reward"] = DeepEyesReward
orms["deepeyes_accuracy"] = DeepEyesAccuracy
orms["deepeyes_format"] = DeepEyesFormat
orms["deepeyes_tool"] = DeepEyesTool
orms["deepeyes_judge_failure"] = DeepEyesJudgeFailure
orms["deepeyes_judge_ahead"] = DeepEyesJudgeAhead
orms["deepeyes_judge_seconds"] = DeepEyesJudgeSeconds
swift_multi_turn.multi_turns["deepeyes_scheduler"] = DeepEyesScheduler
