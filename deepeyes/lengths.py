"""A prompt that has outgrown the model ends its trajectory, never the run."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_TOO_LONG = re.compile(
    r"longer than the maximum|max_?model_?len|maximum (?:model|context) length|is larger than the max_length",
    re.IGNORECASE,
)
TOO_LONG_ADVICE = "raise MAX_MODEL_LEN (--vllm_max_model_len), or lower MAX_PIXELS or MAX_TURNS"
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


def prompt_length(texts: Iterable[str], sizes: Iterable[tuple[int, int]], tokenizer: Any, token: int) -> int:
    """Estimates the tokens of a prompt, from above.

    Args:
        texts: Of all turns.
        sizes: Width and height of all images as the model sees them, in pixels.
        tokenizer: Of the model.
        token: Side of the square that becomes one image token, in pixels.
    """
    images = 0
    for width, height in sizes:
        images += min(
            -(-width // token) * -(-height // token), max(MAX_TILES * TILE_TOKENS, width * height // token**2)
        )
    return MARGIN + images + sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
