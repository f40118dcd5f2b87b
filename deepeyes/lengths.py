"""A prompt that has outgrown the model ends its trajectory, never the run."""

from __future__ import annotations

import functools
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from deepeyes.turns import Progress

_TOO_LONG = re.compile(
    r"longer than the maximum|max_?model_?len|maximum (?:model|context) length|is larger than the max_length",
    re.IGNORECASE,
)
OWN_ENGINES = (
    ("swift.infer_engine.transformers_engine", "TransformersEngine"),
    ("swift.infer_engine.grpo_vllm_engine", "GRPOVllmEngine"),
)
"""What a trainer plays with by itself: module and class."""
TOO_LONG_ADVICE = "raise MAX_MODEL_LEN (--vllm_max_model_len), or lower MAX_PIXELS or MAX_TURNS"
LEFT_OUT = "The question is left out: it is beyond the length of the model."  # in its place, in what is trained on
MAX_TILES = 13  # of InternVL, whose images of any size become at most so many squares
TILE_TOKENS = 256
MARGIN = 64  # tokens that the template may put around turns and images


def is_too_long(error: BaseException) -> bool:
    """Tells whether an engine refused a prompt for its length, in the words of swift's template or of vLLM."""
    return isinstance(error, ValueError) and _TOO_LONG.search(str(error)) is not None


class ForgivingEngine:
    """An engine that answers a prompt beyond the model's length with an end, and all others as it did before."""

    def __init__(self, engine: Any, end: Callable[[Any, BaseException], Any]) -> None:
        """Makes one.

        Args:
            engine: swift's engine of the rollout server; all else that is asked of this one is asked of it.
            end: Makes the reply that ends a trajectory, of the request and the error.
        """
        self._engine = engine
        self._end = end

    def __getattr__(self, name: str) -> Any:
        """Passes on."""
        return getattr(self._engine, name)

    async def infer_async(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Has the engine infer."""
        try:
            return await self._engine.infer_async(request, *args, **kwargs)
        except ValueError as error:
            if not is_too_long(error):
                raise
            return self._end(request, error)


def guard_own_engines(
    length: Callable[[Any], int], end: Callable[[Any, BaseException], Any], output: Callable[..., Any]
) -> None:
    """Has the engines of a trainer answer a prompt beyond the model's length with an end, where they would die of it.

    swift hands a scheduler inside the trainer no engine, so the classes that are loaded by then are changed; a later
    call takes the place of an earlier one.

    Args:
        length: Tokens of a request, from above; 0 for one that is not to be touched.
        end: Makes the reply that ends a trajectory, of the request and an error that says why.
        output: swift's `RolloutOutput`, of a `response`.
    """
    for module, name in OWN_ENGINES:
        kind: Any = getattr(sys.modules.get(module), name, None)
        if kind is not None:
            kind.infer = _guarded(getattr(kind.infer, "of_swift", kind.infer), length, end, output)


def _guarded(infer: Any, length: Callable[[Any], int], end: Callable[..., Any], output: Callable[..., Any]) -> Any:
    @functools.wraps(infer)
    def guarded(engine: Any, infer_requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        limit = engine.__dict__.setdefault("deepeyes_limit", engine.max_model_len)  # swift lowers its own in a step
        ends = {}
        for place, tokens in enumerate(map(length, infer_requests) if limit else ()):
            if tokens >= limit:
                error = ValueError(f"a prompt of about {tokens} tokens is beyond the {limit} of the model")
                ends[place] = end(infer_requests[place], error)
        if not ends:
            return infer(engine, infer_requests, *args, **kwargs)
        others = [request for place, request in enumerate(infer_requests) if place not in ends]
        replies = iter(infer(engine, others, *args, **kwargs) if others else ())
        whole = [ends[place] if place in ends else next(replies) for place in range(len(infer_requests))]
        return [reply if hasattr(reply, "response") else output(response=reply) for reply in whole]

    guarded.of_swift = infer  # type: ignore[attr-defined] # so that it is wrapped once
    return guarded


def ending(protocol: Any, token: int | None) -> Any:
    """Makes the reply that ends a trajectory: an empty turn of one token, whose choice is marked as `cut`.

    Args:
        protocol: swift's module of that name.
        token: The turn's only token.
    """
    message = protocol.ChatMessage(role="assistant", content="")
    kind = getattr(protocol, "RolloutResponseChoice", protocol.ChatCompletionResponseChoice)
    ids = [] if token is None else [token]
    choice = kind(index=0, message=message, finish_reason="length", token_ids=ids, logprobs={"content": []})
    choice.cut = True
    return protocol.ChatCompletionResponse(model="none", choices=[choice], usage=protocol.UsageInfo(0, 0, 0))


def engine_length(arguments: Sequence[str] | None = None) -> int | None:
    """Returns the tokens that the trainer's own engine takes, as the command line says it, else None.

    swift tells a scheduler inside the trainer nothing of the engine.

    Args:
        arguments: The command line, by default of this process.
    """
    arguments = sys.argv if arguments is None else arguments
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--vllm_max_model_len":
            value = value or "".join(arguments[place + 1 : place + 2])
            return int(value) if value.isdigit() else None
    return None


def prompt_length(contents: Iterable[Any], sizes: Iterable[tuple[int, int]], tokenizer: Any, token: int) -> int:
    """Estimates the tokens of a prompt, from above.

    Args:
        contents: Of all turns: texts, or the ids of their tokens.
        sizes: Width and height of all images as the model sees them, in pixels.
        tokenizer: Of the model.
        token: Side of the square that becomes one image token, in pixels.
    """
    images = 0
    for width, height in sizes:
        images += min(
            -(-width // token) * -(-height // token), max(MAX_TILES * TILE_TOKENS, width * height // token**2)
        )
    return MARGIN + images + sum(_count(content, tokenizer) for content in contents)


def _count(content: Any, tokenizer: Any) -> int:
    if isinstance(content, dict):  # of a turn that was sampled: the very tokens
        content = content.get("token_ids", "")
    if isinstance(content, list) and all(isinstance(token, int) for token in content):
        return len(content)
    return len(tokenizer.encode(str(content), add_special_tokens=False))


def next_prompt_length(messages: Iterable[Any], progress: Progress, tokenizer: Any, token: int) -> int:
    """Estimates the tokens of the prompt after an observation that is prepared, from above; see `prompt_length`."""
    if progress.prepared is None:
        return 0
    views = [view.size if view else (0, 0) for view in progress.views or []]
    zooms = [zoom for zoom in [*progress.zooms, progress.prepared.zoom] if zoom["box"]]
    sizes = [*views, *(views[zoom["image"]] for zoom in zooms)]  # no crop has more tokens than its view
    contents = [*(message["content"] for message in messages), progress.prepared.text]
    return prompt_length(contents, sizes, tokenizer, token)


def request_length(request: Any, processor: Any, pool: Any, tokenizer: Any) -> int:
    """Estimates the tokens of a request, from above; 0 where an image can't be read, which is another's to tell.

    Args:
        request: swift's.
        processor: `deepeyes.images.processor.ImageProcessor` of the model.
        pool: Where it makes views.
        tokenizer: Of the model.
    """
    kwargs = getattr(request, "chat_template_kwargs", None)
    views = [processor.view(image, kwargs, pool) for image in request.images or []]
    if any(view.exception() for view in views):
        return 0
    contents = [message["content"] for message in request.messages]
    return prompt_length(contents, [view.result().size for view in views], tokenizer, processor.token)
