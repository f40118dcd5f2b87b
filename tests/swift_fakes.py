"""The one thing that the scheduler's tests fake: the inference engine, which answers from a script."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
from typing import TYPE_CHECKING, Any

from PIL import Image
from swift.infer_engine.protocol import (
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
    RolloutInferRequest,
    RolloutOutput,
    UsageInfo,
)
from swift.model import get_processor
from swift.template import get_template

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from swift.infer_engine import RequestConfig

INSTRUCTION = (
    "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  <think>...</think>  "
    "<tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
)


@functools.cache
def load_processor(model: Path) -> Any:
    """The processor of a checkpoint, read once a run."""
    return get_processor(str(model), model_type="qwen2_5_vl")


@functools.cache
def load_template(model: Path) -> Any:
    """The template of Qwen2.5-VL."""
    template = get_template(load_processor(model), template_type="qwen2_5_vl")
    template.max_length = None
    return template


def call(*box: float) -> str:
    """A turn that zooms."""
    return (
        '<think>look</think><tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": '
        f"{list(box)}}}}}</tool_call>"
    )


def jpeg(width: int, height: int, seed: int = 0) -> str:
    """A picture as base64, another for each seed."""
    image = Image.effect_mandelbrot((width, height), (-2 - 0.01 * seed, -1.5, 1, 1.5), 90).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()


def request(image: Any, *, question: str = "What colour is it?", **row: Any) -> Any:
    """A request as the trainer makes it of a row of the official files."""
    data = {
        "data_source": "vstar",
        "env_name": "visual_toolbox_v2",
        "extra_info": {"question": question, "index": "17"},
    }
    return RolloutInferRequest(
        messages=[
            {"role": "system", "content": "You may zoom."},
            {"role": "user", "content": f"<image>\n{question}{INSTRUCTION}"},
        ],
        images=[] if image is None else [image],
        data_dict={**data, **row},
    )


class Engine:
    """Answers each request with the next turn of a script; has swift's template encode the prompt if given one.

    Attributes:
        prompts: What the template made of each prompt.
    """

    def __init__(self, turns: Sequence[str], template: Any, *, encode: bool = True) -> None:
        """Makes an engine; the last turn repeats. Without `encode` it looks at no prompt and tokenises no answer."""
        self.turns = turns
        self.template = template
        self.tokenizer = template.tokenizer
        self.encode = encode
        self.engine = self
        self.prompts: list[dict[str, Any]] = []

    def reply(self, request: Any) -> ChatCompletionResponse:
        """Answers by the number of turns that the request already has."""
        if self.encode:
            self.template.set_mode("vllm")
            self.prompts.append(self.template.encode(request))
        heard = sum(message["role"] == "assistant" for message in request.messages)
        text = self.turns[min(heard, len(self.turns) - 1)]
        ids = self.tokenizer.encode(text.encode("utf-8", "replace").decode()) if self.encode else [1, 2, 3]
        message = ChatMessage(role="assistant", content=text)
        choice = ChatCompletionResponseChoice(index=0, message=message, finish_reason="stop", token_ids=ids)
        return ChatCompletionResponse(model="scripted", choices=[choice], usage=UsageInfo(1, 1, 2))

    async def infer_async(self, request: Any, _config: RequestConfig, **_kwargs: Any) -> ChatCompletionResponse:
        """Answers, off the event loop as vLLM's engine encodes."""
        return await asyncio.get_running_loop().run_in_executor(None, self.reply, request)

    def rollout(self, requests: Sequence[Any], _config: Any = None) -> list[RolloutOutput]:
        """Answers a batch, as the trainer's own engine does."""
        return [RolloutOutput(response=self.reply(one)) for one in requests]
