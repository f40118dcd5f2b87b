"""What a server makes of our pictures, asked before a run: whether it scales them, and whether it takes two."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.images.encoding import to_data_uri
from deepeyes.playing.endpoint import EndpointError, RefusedError
from deepeyes.playing.wire import to_openai

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deepeyes.playing.endpoint import Endpoint
    from deepeyes.playing.pictures import Picture, Viewer

MARKUP_TOKENS = 8  # more than those of its pixels that an image may take: Qwen's models put one before and one after it


@dataclass(frozen=True)
class ViewTokens:
    """How many tokens a server makes of a view.

    Attributes:
        size: Width and height of the view in pixels.
        expected: Tokens of it as `deepeyes.playing.pictures` reckons.
        seen: As the server counts; None where it does not say.
        note: What a user should know of it, or None.
    """

    size: tuple[int, int]
    expected: int
    seen: int | None
    note: str | None = None


async def check_view(
    endpoint: Endpoint, viewer: Viewer, messages: Sequence[Mapping[str, Any]], picture: Picture, *, tool: bool
) -> ViewTokens:
    """Counts the tokens that the endpoint makes of a view and of the smallest crop.

    Args:
        endpoint: Who is asked.
        viewer: Who made the picture.
        messages: The first turns of a trajectory, with one `<image>`.
        picture: What stands there.
        tool: Whether crops will follow.

    Raises:
        RefusedError: The endpoint refuses the question as it stands.
        EndpointError: It makes more or fewer tokens than a model of this family makes of the view as it is, and boxes
            would be out of place; or it does not take the second image that a crop is.
    """
    bare = await endpoint.count(to_openai(messages, []))
    whole = await endpoint.count(to_openai(messages, [picture.uri]))
    seen = whole - bare if whole and bare else None
    if seen is not None and not picture.tokens <= seen <= picture.tokens + MARKUP_TOKENS:
        raise EndpointError(
            f"{endpoint.url} makes {seen} tokens of a view of {picture.size[0]} x {picture.size[1]} pixels, where "
            f"{picture.tokens} to {picture.tokens + MARKUP_TOKENS} were expected: it scales the view again, and boxes "
            "would be out of place. Start the server with MAX_PIXELS at least that of --max-pixels, or name the right "
            "--family; for a model of another kind: --skip-view-check"
        )
    note = await _crop_note(endpoint, viewer, messages, picture, whole) if tool else None
    if seen is None:
        note = "the endpoint counts no tokens, so whether it shows our views unscaled is not known"
    return ViewTokens(picture.size, picture.tokens, seen, note)


async def _crop_note(
    endpoint: Endpoint, viewer: Viewer, messages: Sequence[Mapping[str, Any]], picture: Picture, before: int | None
) -> str | None:
    """Says so where the endpoint does not show the smallest crop, sent beside the view, as training does."""
    smallest = viewer.smallest()
    crop = await asyncio.to_thread(to_data_uri, smallest)
    after = [
        {"role": "assistant", "content": "<tool_call></tool_call>"},
        {"role": "user", "content": "<tool_response><image></tool_response>"},
    ]
    try:
        bare = await endpoint.count(to_openai([*messages, *after], [picture.uri]))
    except RefusedError as error:
        raise EndpointError(f"{endpoint.url} refuses a second turn: {error}") from error
    try:
        whole = await endpoint.count(to_openai([*messages, *after], [picture.uri, crop]))
    except RefusedError as refusal:
        await _check_two(endpoint, [*messages, *after], picture)
        return f"the endpoint refuses the smallest crop: {refusal}"
    least = viewer.tokens(smallest.size)
    made = whole - bare if before and whole and bare else None
    if made is None or made <= least + MARKUP_TOKENS:
        return None
    return (
        f"the server makes {made} tokens of a crop of {least}: it scales small crops up, unlike "
        'training; for vLLM: --extra \'{"mm_processor_kwargs": {"do_resize": false}}\''
    )


async def _check_two(endpoint: Endpoint, messages: Sequence[Mapping[str, Any]], picture: Picture) -> None:
    """Raises where the endpoint refuses any second image, not only a small one."""
    try:
        await endpoint.count(to_openai(messages, [picture.uri, picture.uri]))
    except RefusedError as error:
        raise EndpointError(
            f"{endpoint.url} refuses a second image, and every crop is one: {error}. For vLLM: "
            "--limit-mm-per-prompt '{\"image\": 12}'; to ask without the tool: --no-tool"
        ) from error
