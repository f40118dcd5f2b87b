"""What swift loads beside the plugin in a rehearsal: a scheduler that plays the worst case, and a stopwatch.

Whatever the model says, each turn becomes as long as it may be and ends with a zoom of the whole picture; the last turn
ends with an answer. Sampling itself runs to its limit, so that it takes the time that it can take at most.

It reads `REHEARSAL_FOLDER`, where each process writes what it measured; `REHEARSAL_TURNS` and `REHEARSAL_TOKENS`, the
most turns of a trajectory and tokens of a turn; and `REHEARSAL_ANSWER`, which is right.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from swift.rollout import multi_turn

from deepeyes.rehearsal.measured import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(os.environ["REHEARSAL_FOLDER"])
TURNS = int(os.environ["REHEARSAL_TURNS"])
TOKENS = int(os.environ["REHEARSAL_TOKENS"])
ANSWER = os.environ["REHEARSAL_ANSWER"]
FILLER = " look"
"""A single token of most tokenizers."""
ZOOM = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 1000, 1000]}}</tool_call>'
"""The whole picture, in pixels as well as in thousandths: what lies outside is cut off."""


def note(what: str, value: float, step: int = 0) -> None:
    """Writes down a measurement of this process."""
    with (FOLDER / f"measured-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, "value": value, "step": step, "rank": os.environ.get("RANK", "0")}) + "\n")


_Scheduler: Any = multi_turn.multi_turns["deepeyes_scheduler"]


class WorstCaseScheduler(_Scheduler):  # type: ignore[misc]  # known only when swift has loaded the plugin
    """`deepeyes_scheduler` of the rehearsal."""

    def append_assistant_completion(self, infer_request: Any, completion: str) -> Any:  # noqa: ARG002 - that is the point
        """Puts what is played in the place of what the model said."""
        turn = getattr(infer_request, "_rehearsed_turns", 0) + 1
        infer_request._rehearsed_turns = turn  # noqa: SLF001 - our own attribute
        infer_request._rehearsed = self._play(last=turn >= TURNS)  # noqa: SLF001 - our own attribute
        return super().append_assistant_completion(infer_request, infer_request._rehearsed[0])  # noqa: SLF001 - our own attribute

    async def on_turn_end(self, infer_request: Any, response_choice: Any, current_turn: int) -> Any:
        """Does the same to the tokens that will be trained on."""
        text, tokens = infer_request._rehearsed  # noqa: SLF001 - our own attribute
        response_choice.message.content = text
        response_choice.token_ids = list(tokens)
        response_choice.finish_reason = "stop"
        response_choice.logprobs = None
        return await super().on_turn_end(infer_request, response_choice, current_turn)

    def _play(self, *, last: bool) -> tuple[str, list[int]]:
        """Returns the text of a turn and its tokens, as many as a turn may have.

        Every second answer is right, so that a group has something to learn from; each wrong one is another, so that
        the judge is asked about all of them.
        """
        call = ZOOM
        if last:
            mark = uuid.uuid4().hex[:8]
            call = f"<answer>{ANSWER if int(mark, 16) % 2 else f'a kite, number {mark}'}</answer>"
        end = [*self.tokenizer.encode(call, add_special_tokens=False), self.tokenizer.eos_token_id]
        filler = self.tokenizer.encode(FILLER, add_special_tokens=False)
        repeats = max(0, TOKENS - len(end)) // len(filler)
        return FILLER * repeats + call, filler * repeats + end


def sample_to_the_limit(engine: Any) -> None:
    """Lets an engine of swift sample every turn to its limit."""
    original = engine._prepare_generation_config  # noqa: SLF001 - no public place to say it

    @functools.wraps(original)
    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(self, *args, **kwargs)
        if hasattr(config, "ignore_eos"):  # of vLLM
            config.ignore_eos = True
        elif getattr(config, "max_new_tokens", None):  # of transformers
            config.min_new_tokens = config.max_new_tokens
        return config

    engine._prepare_generation_config = prepare  # noqa: SLF001 - swift offers no other place


def time_method(trainer: Any, name: str, phase: str) -> None:
    """Writes down how long a method of a trainer takes, and after it the memory of this process."""
    original: Callable[..., Any] = getattr(trainer, name)

    @functools.wraps(original)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.monotonic()
        result = original(self, *args, **kwargs)
        note(phase, time.monotonic() - start, self.state.global_step)
        if torch.cuda.is_available():
            note("gpu_gigabytes", torch.cuda.max_memory_reserved() / 1e9)
        return result

    setattr(trainer, name, timed)


def count_tokens(trainer: Any) -> None:
    """Writes down how long the sequences are that the loss sees, observations and pictures included."""
    original = trainer._compute_loss  # noqa: SLF001 - the place where they are whole

    @functools.wraps(original)
    def counted(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        note("tokens", inputs["attention_mask"].sum(-1).max().item() if "attention_mask" in inputs else 0)
        return original(self, model, inputs, *args, **kwargs)

    trainer._compute_loss = counted  # noqa: SLF001 - swift offers no other place


multi_turn.multi_turns["deepeyes_scheduler"] = WorstCaseScheduler
for _name in ("VllmEngine", "TransformersEngine"):
    sample_to_the_limit(getattr(importlib.import_module("swift.infer_engine"), _name))
if Path(sys.argv[0]).stem in ("rlhf", "without_sync"):
    _by_swift, _by_megatron = METHODS
    _of_megatron = Path(sys.argv[0]).parent.name == "_megatron"  # where swift keeps the program
    _place = _by_megatron if _of_megatron else _by_swift
    _module, _, _class = _place.rpartition(".")
    _trainer = getattr(importlib.import_module(_module), _class)
    for _name, _phase in METHODS[_place].items():
        time_method(_trainer, _name, _phase)
    if not _of_megatron:  # which packs sequences into one
        count_tokens(_trainer)
