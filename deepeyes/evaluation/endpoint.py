"""Who is asked: an OpenAI-compatible endpoint in the place of swift's engine, and how its model looks at images.

Trajectories run in `DeepEyesScheduler.run` itself, and so with the parsing, the view, the boxes, the crops and the stop
rules of training. The endpoint is sent every image in the pixels that the policy saw in training, without loss. Such an
image is a multiple of the patch grid within the pixel budget, so that the server's own preprocessing leaves it as it
is; `Endpoint.check_view` measures whether it does.

The openai SDK rather than aiohttp, which the judge client uses: a few dozen long calls in flight cost no CPU worth
saving, and its retries with backoff and `Retry-After` are kept by others.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import openai
from PIL import Image
from swift.infer_engine.protocol import (
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
    RolloutInferRequest,
    UsageInfo,
)
from swift.template.vision_utils import load_image

import deepeyes_plugin as plugin
from deepeyes.evaluation.bench import EvalError
from deepeyes.images.encoding import image_bytes, to_data_uri
from deepeyes.settings import Coordinates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from deepeyes.images.processor import View

T = TypeVar("T")

MERGE = 2
"""Patches along each side of an image token."""
MIN_IMAGE_TOKENS = 4
"""Of every image; qwen_vl_utils scales smaller ones up."""
GREY = (128, 128, 128)
PROBE_TIMEOUT = 10.0
"""Seconds for the list of models where it is of use, but not needed."""
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
"""What the protocol calls the most tokens of a turn; OpenAI's reasoning models take the second alone."""
MARKUP_TOKENS = 8
"""How many more tokens than those of its pixels an image may take: Qwen's models put one before it and one after."""


@dataclass(frozen=True)
class Family:
    """What an endpoint does not say of its model: the patch size in pixels, and the frame of the boxes it writes."""

    name: str
    patch: int
    coordinates: Coordinates


FAMILIES = {
    family.name: family
    for family in (
        Family("qwen2.5-vl", 14, Coordinates.PIXEL),
        Family("qwen3-vl", 16, Coordinates.NORM1000),
    )
}


def family_of(model: str) -> Family:
    """Guesses the family from a served name; DeepEyes itself is a Qwen2.5-VL. `check_view` finds a wrong guess."""
    return FAMILIES["qwen3-vl" if re.search(r"qwen-?3", model, re.IGNORECASE) else "qwen2.5-vl"]


class EndpointError(EvalError):
    """The endpoint can't be used; the message names its URL, the cause and what to do."""

    status = 1


class RefusedError(RuntimeError):
    """The endpoint refused one request, for what is in it: a prompt that is too long, for instance."""


class EndpointTemplate:
    """What the plugin needs of swift's template, for a model that is behind a URL: how it looks at images."""

    tokenizer = None

    def __init__(self, family: Family, max_pixels: int) -> None:
        """Makes a template.

        Args:
            family: Of the model.
            max_pixels: The most pixels of a view. Like swift, it is rounded down to whole image tokens.

        Raises:
            EvalError: That is less than the smallest view.
        """
        self.version = "v3" if family.patch == FAMILIES["qwen3-vl"].patch else "v2_5"
        self._patch = family.patch
        self._area = area = (family.patch * MERGE) ** 2
        if max_pixels < MIN_IMAGE_TOKENS * area:
            raise EvalError(f"--max-pixels {max_pixels}: {family.name} takes no fewer than {MIN_IMAGE_TOKENS * area}")
        self._limits = {"min_pixels": MIN_IMAGE_TOKENS * area, "max_pixels": max_pixels // area * area}

    def set_mode(self, _mode: str) -> None:
        """Does what it always does, as the modes of swift's template do with images."""

    def _preprocess_inputs(self, inputs: Any) -> None:
        inputs.images = [load_image(image) for image in inputs.images]

    def replace_tag(self, _kind: str, index: int, inputs: Any) -> None:
        """Puts the view of an image in its place."""
        inputs.images[index] = self.scale(inputs.images[index])

    def scale(self, image: Image.Image) -> Image.Image:
        """Scales and rounds an image in RGB, with the function that swift's templates of Qwen's models use."""
        from qwen_vl_utils import fetch_image  # noqa: PLC0415 - heavy

        return fetch_image({"image": image, **self._limits}, image_patch_size=self._patch)  # type: ignore[no-any-return]

    def smallest(self) -> Image.Image:
        """Returns an image of the smallest size that a view or a crop can have."""
        return self.scale(Image.new("RGB", (1, 1)))

    def tokens(self, view: Image.Image) -> int:
        """Returns how many image tokens a view takes."""
        return view.width * view.height // self._area


@dataclass
class EvalRequest(RolloutInferRequest):  # type: ignore[misc]  # swift ships no types
    """A trajectory under way, with what it has sent and spent."""

    sent: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    refusal: str | None = None


class Endpoint:
    """An OpenAI-compatible endpoint in the place of swift's engine."""

    tokenizer = None

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        url: str,
        model: str | None,
        api_key: str,
        retries: int,
        timeout: float,
        patience: float,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            url: Base URL, as http://127.0.0.1:8000/v1.
            model: Served name; None looks it up.
            api_key: Sent as a bearer token; stands in no message and no file.
            retries: How often a request is repeated after a fault that may pass.
            timeout: Seconds for one reply.
            patience: Seconds for one reply with all its retries; no less than `timeout`.
            extra: Further fields of every request.
        """
        self.url = url
        self.model = model or ""
        self.root: str | None = None
        self.template: EndpointTemplate | None = None
        self._key = api_key
        self._extra = extra
        self._patience = max(patience, timeout)
        self._limit = "max_tokens"
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=api_key,
            max_retries=retries,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_tell_faults]}),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def find_model(self, earlier: str | None, *, wait: bool) -> bool:
        """Looks up the served name where none was given, and in `root` the path behind it where the endpoint says it.

        Args:
            earlier: Name that the run had before: taken where it is still served, or where nobody answers.
            wait: Whether to retry, and to raise where nobody answers.

        Returns:
            Whether there was an answer. An endpoint without `/models` counts, where a name is known.

        Raises:
            EndpointError: No list of models came back, or an empty one, and one is needed.
        """
        known = self.model or earlier
        client = self._client if wait or not known else self._client.with_options(max_retries=0, timeout=PROBE_TIMEOUT)
        try:
            served = {
                model.id: getattr(model, "root", None)
                for model in (await self._in_time(client.models.list(), "/models")).data
            }
        except (openai.OpenAIError, EndpointError, ValueError, TypeError, AttributeError) as error:
            if not known or (wait and isinstance(error, (openai.APIConnectionError, EndpointError))):
                raise error if isinstance(error, EndpointError) else self._error(error, "/models") from error
            self.model = known
            return not isinstance(error, openai.APIConnectionError)
        if not self.model:
            if not served:
                raise EndpointError(f"{self.url}/models lists no model; name one with --model")
            self.model = earlier if earlier in served else next(iter(served))
        self.root = served.get(self.model)
        return True

    async def check_view(self, messages: list[dict[str, Any]], view: Image.Image) -> tuple[int, int | None]:
        """Counts the tokens that the endpoint makes of a view: with more or fewer, boxes would be out of place.

        Args:
            messages: The first turns of a trajectory, with one `<image>`.
            view: The view that goes there.

        Returns:
            Tokens of the view as this module reckons, and as the endpoint counts; None where it does not say.
        """
        assert self.template is not None  # noqa: S101 - for mypy: the caller set it
        uri = await asyncio.to_thread(to_data_uri, view)
        counts = []
        for images in ([uri], []):
            completion = await self._complete(to_openai(messages, images), {"max_tokens": 1, "temperature": 0.0})
            counts.append(completion.usage.prompt_tokens if completion.usage else 0)
        return self.template.tokens(view), counts[0] - counts[1] if all(counts) else None

    async def infer_async(self, infer_request: EvalRequest, request_config: Any, **_: Any) -> Any:
        """Gets the next turn of a trajectory; what swift's engine would be asked for."""
        for image in infer_request.images[len(infer_request.sent) :]:
            infer_request.sent.append(await asyncio.to_thread(self._encode, image))
        options = {
            name: value
            for name in ("max_tokens", "temperature", "top_p", "seed")
            if (value := getattr(request_config, name)) is not None
        }
        try:
            completion = await self._complete(to_openai(infer_request.messages, infer_request.sent), options)
        except RefusedError as error:
            if not any(message["role"] == "assistant" for message in infer_request.messages):
                raise
            infer_request.finish_reason, infer_request.refusal = "refused", str(error)
            return self._response("", "refused", UsageInfo(0, 0, 0))  # what the model did before counts
        choice, usage = completion.choices[0], completion.usage
        prompt, spent = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        infer_request.prompt_tokens += prompt
        infer_request.completion_tokens += spent
        infer_request.finish_reason = choice.finish_reason
        usage = UsageInfo(prompt, spent, prompt + spent)
        return self._response(choice.message.content or "", choice.finish_reason, usage)

    def _response(self, content: str, finish_reason: str, usage: Any) -> Any:
        message = ChatMessage(role="assistant", content=content)
        return ChatCompletionResponse(
            self.model, [ChatCompletionResponseChoice(0, message, finish_reason, token_ids=[])], usage
        )

    def _encode(self, image: Any) -> str:
        assert self.template is not None  # noqa: S101 - for mypy: the caller set it
        if not isinstance(image, Image.Image):
            image = Image.open(io.BytesIO(image_bytes(image)))
        return to_data_uri(self.template.scale(load_image(image)))

    async def _complete(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> Any:
        limit, path = self._limit, "/chat/completions"
        options = {limit if name in TOKEN_LIMITS else name: value for name, value in options.items()}
        try:
            return await self._in_time(
                self._client.chat.completions.create(
                    model=self.model,
                    messages=messages,  # type: ignore[arg-type]  # plain dicts
                    extra_body=self._extra,
                    **options,
                ),
                path,
            )
        except openai.APIStatusError as error:
            if error.status_code not in (400, 413, 422):
                raise self._error(error, path) from error
            if limit != TOKEN_LIMITS[1] and re.search(rf"support.*{TOKEN_LIMITS[1]}", error.message, re.DOTALL):
                self._limit = TOKEN_LIMITS[1]
                return await self._complete(messages, options)
            raise RefusedError(f"status {error.status_code}: {self._quote(error.message)}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise self._error(error, path) from error

    async def _in_time(self, reply: Awaitable[T], path: str) -> T:
        """Waits for a reply with all its retries, as long as the patience lasts."""
        try:
            return await asyncio.wait_for(reply, self._patience)
        except asyncio.TimeoutError as error:
            raise EndpointError(
                f"{self.url}{path} gave no reply in {self._patience:g} s, retries included; does the server hang? "
                "For a slow one: --timeout and --patience"
            ) from error

    def _error(self, error: Exception, path: str) -> EndpointError:
        cause = f"{type(error).__name__}: {error}"
        if error.__cause__ is not None:
            cause += f" ({error.__cause__})"
        retries = f" after {self._client.max_retries} retries" if isinstance(error, openai.APIConnectionError) else ""
        return EndpointError(
            f"{self.url}{path} failed{retries}: {self._quote(cause)}. Is the server up, and is --url its base URL, "
            "as http://127.0.0.1:8000/v1?"
        )

    def _quote(self, text: str) -> str:
        return text.replace(self._key, "***")[:500]


async def _tell_faults(response: Any) -> None:
    """Gives a reply a status that is retried where its own hides a fault that may pass.

    swift deploy says with 400 that its vLLM died, and a gateway may say with 200 that what is behind it failed.
    """
    if response.request.method != "POST" or response.status_code not in (200, 400):
        return
    content = await response.aread()
    if response.status_code == 400 and b"EngineCore encountered" in content:  # noqa: PLR2004 - HTTP
        response.status_code = 503
    elif response.status_code == 200 and not _is_completion(content):  # noqa: PLR2004 - HTTP
        response.status_code = 502


def _is_completion(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content)["choices"][0]["message"], dict)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def to_openai(messages: Sequence[dict[str, Any]], images: Sequence[str]) -> list[dict[str, Any]]:
    """Puts images in the place of their tags, turn by turn; those that are not there leave no trace."""
    rest = iter(images)
    turns = []
    for message in messages:
        first, *after = str(message["content"]).split("<image>") if message["role"] == "user" else [message["content"]]
        parts: list[dict[str, Any]] = [{"type": "text", "text": first}]
        for text in after:
            if (uri := next(rest, None)) is not None:
                parts.append({"type": "image_url", "image_url": {"url": uri}})
            parts.append({"type": "text", "text": text})
        parts = [part for part in parts if part["type"] != "text" or part["text"]]
        plain = len(parts) == 1 and parts[0]["type"] == "text"
        turns.append({"role": message["role"], "content": parts[0]["text"] if plain else parts})
    return turns


class EvalScheduler(plugin.DeepEyesScheduler):
    """The scheduler of the plugin, in front of an endpoint."""

    def __init__(self, endpoint: Endpoint, max_turns: int, *, blank_crops: bool = False) -> None:
        """Makes a scheduler.

        Args:
            endpoint: Its `template` must be set.
            max_turns: Turns of the model in a trajectory.
            blank_crops: Whether crops are painted grey, as a control.
        """
        super().__init__(infer_engine=endpoint, max_turns=max_turns)
        self._blank_crops = blank_crops

    def step(self, infer_request: Any, response_choice: Any, current_turn: int) -> Any:
        """Appends the observation of a turn to the request."""
        images = infer_request.images
        before = len(images)
        result = super().step(infer_request, response_choice, current_turn)
        if self._blank_crops:
            images[before:] = [Image.new("RGB", crop.size, GREY) for crop in images[before:]]
        return result

    def set_assistant_message_token_ids(self, infer_request: Any, token_ids: list[int]) -> None:
        """Keeps the text of a turn: an endpoint gives and takes no token ids."""

    async def view(self, source: Any) -> View:
        """Returns the view of an image; the trajectory then finds it made."""
        return await asyncio.wrap_future(self._processor.view(source, None, self._pool))
