"""Who is asked: an OpenAI-compatible endpoint, with retries, and errors that name its URL, the cause and what to do.

The openai SDK rather than aiohttp, which the judge client uses: a few dozen long calls in flight cost no CPU worth
saving, and its retries with backoff and `Retry-After` are kept by others.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import openai

from deepeyes.log import logger
from deepeyes.playing.wire import Reply, read_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

T = TypeVar("T")

GREETING_PATIENCE = 8.0  # seconds for the list of models, retries included: a dead URL is named within ten
GREETING_TIMEOUT = 4.0  # seconds for one try of it
GREETING_RETRIES = 3
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
"""What the protocol calls the most tokens of a turn; OpenAI's reasoning models take the second alone."""
REFUSALS = (400, 413, 422)  # for what is in the request; all other faults are the endpoint's
FAULTS = (500, 503)
"""Of the model's server itself. A 502 may also come from a gateway, or from a URL that is not the API's."""
QUOTED_CHARS = 500  # of what a server says


class EndpointError(Exception):
    """The endpoint can't be used; the message names its URL, the cause and what to do."""

    status = 1


class RefusedError(RuntimeError):
    """The endpoint refused one request, for what is in it: a prompt that is too long, for instance."""


@dataclass(frozen=True)
class Access:
    """Where an endpoint is, and how hard to try.

    Attributes:
        url: Base URL, as http://127.0.0.1:8000/v1.
        api_key: Sent as a bearer token; stands in no message and no file.
        retries: How often a request is repeated after a fault that may pass, with backoff up to 8 s.
        timeout: Seconds for one reply.
        patience: Seconds for one reply with all its retries; no less than `timeout`.
        extra: Further fields of every request.
    """

    url: str
    api_key: str = field(default="EMPTY", repr=False)
    retries: int = 20
    timeout: float = 300.0
    patience: float = 600.0
    extra: Mapping[str, Any] | None = None


class Endpoint:
    """A model behind a URL.

    Attributes:
        url: Base URL.
        model: Served name; empty until `find_model`.
        root: Path behind the name, where the endpoint says it.
    """

    def __init__(self, access: Access, model: str | None = None) -> None:
        """Makes a client; nothing is sent yet. Without a `model`, `find_model` looks it up."""
        self.url, self.model = access.url, model or ""
        self.root: str | None = None
        self._access = access
        self._limit = TOKEN_LIMITS[0]
        self._client = openai.AsyncOpenAI(
            base_url=access.url,
            api_key=access.api_key,
            max_retries=access.retries,
            timeout=access.timeout,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_tell_faults]}),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def find_model(self, earlier: str | None = None, *, needed: bool = True) -> bool:
        """Looks up the served name where none was given, and in `root` the path behind it where the endpoint says it.

        Args:
            earlier: Name that the run had before: taken where it is still served, or where nobody answers.
            needed: Whether to raise where nobody answers although a name is known.

        Returns:
            Whether there was an answer. An endpoint without `/models` counts, where a name is known.

        Raises:
            EndpointError: No list of models came back, or an empty one, and one is needed.
        """
        known = self.model or earlier
        retries = GREETING_RETRIES if needed or not known else 0
        client = self._client.with_options(max_retries=retries, timeout=GREETING_TIMEOUT)
        try:
            listed = await self._in_time(client.models.list(), "/models", GREETING_PATIENCE)
            served = {model.id: getattr(model, "root", None) for model in listed.data}
        except (openai.OpenAIError, EndpointError, ValueError, TypeError, AttributeError) as error:
            away = isinstance(error, (openai.APIConnectionError, EndpointError))
            if not known or (needed and away):
                raise error if isinstance(error, EndpointError) else self._error(error, "/models", retries) from error
            self.model = known
            return not away
        if not self.model:
            if not served:
                raise EndpointError(f"{self.url}/models lists no model; name one with --model")
            self.model = earlier if earlier in served else next(iter(served))
        self.root = served.get(self.model)
        return True

    async def reply(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> Reply:
        """Gets the next turn of a trajectory.

        Raises:
            RefusedError: The endpoint refuses this request.
            EndpointError: It failed for good.
        """
        return read_reply(await self._complete(messages, options))

    async def count(self, messages: list[dict[str, Any]]) -> int | None:
        """Returns how many tokens a prompt has as the endpoint counts them; None where it does not.

        Raises:
            RefusedError: See `reply`.
            EndpointError: Likewise.
        """
        completion = await self._complete(messages, {"max_tokens": 1, "temperature": 0.0})
        return (completion.usage.prompt_tokens or None) if completion.usage else None

    async def _complete(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> Any:
        limit, path = self._limit, "/chat/completions"
        named = {limit if name in TOKEN_LIMITS else name: value for name, value in options.items()}
        try:
            return await self._in_time(
                self._client.chat.completions.create(
                    model=self.model,
                    messages=[],
                    stream=bool(named.pop("stream", False)),
                    # So fields that the SDK does not know go too, and it does not walk through every message.
                    extra_body={"messages": messages, **named, **(self._access.extra or {})},
                ),
                path,
                max(self._access.patience, self._access.timeout),
            )
        except openai.APIStatusError as error:
            if error.status_code not in REFUSALS:
                raise self._error(error, path, self._access.retries) from error
            if limit != TOKEN_LIMITS[1] and re.search(rf"support.*{TOKEN_LIMITS[1]}", error.message, re.DOTALL):
                self._limit = TOKEN_LIMITS[1]
                return await self._complete(messages, options)
            raise RefusedError(f"status {error.status_code}: {self._quote(error.message)}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise self._error(error, path, self._access.retries) from error

    async def _in_time(self, reply: Awaitable[T], path: str, patience: float) -> T:
        """Waits for a reply with all its retries, as long as the patience lasts."""
        try:
            return await asyncio.wait_for(reply, patience)
        except asyncio.TimeoutError as error:
            raise EndpointError(
                f"{self.url}{path} gave no reply in {patience:g} s, retries included; does the server hang, or is it "
                "still loading? For a slow one: --timeout and --patience"
            ) from error

    def _error(self, error: Exception, path: str, retries: int) -> EndpointError:
        cause = f"{type(error).__name__}: {error}"
        if error.__cause__ is not None:
            cause += f" ({error.__cause__})"
        tried = f" after {retries} retries" if isinstance(error, openai.APIConnectionError) else ""
        mend = "Is the server up, and is --url its base URL, as http://127.0.0.1:8000/v1?"
        if getattr(error, "status_code", None) in FAULTS:
            mend = "The server is up, but fails; its log says more."
        if isinstance(error, openai.AuthenticationError):
            mend = "It wants another key: OPENAI_API_KEY, or for a running serve DEEPEYES_SERVE_API_KEY"
        return EndpointError(f"{self.url}{path} failed{tried}: {self._quote(cause)}. {mend}")

    def _quote(self, text: str) -> str:
        return text.replace(self._access.api_key, "***")[:QUOTED_CHARS]


async def _tell_faults(response: Any) -> None:
    """Gives a reply a status that is retried where its own hides a fault that may pass.

    swift deploy says with 400 that its vLLM died, and a gateway may say with 200 that what is behind it failed.
    """
    if response.request.method != "POST" or response.status_code not in (200, 400):
        return
    if "text/event-stream" in response.headers.get("content-type", ""):  # it comes piece by piece, and is not awaited
        return
    content = await response.aread()
    if response.status_code == 400 and b"EngineCore encountered" in content:  # noqa: PLR2004 - HTTP
        response.status_code = 503
    elif response.status_code == 200 and not _is_completion(content):  # noqa: PLR2004 - HTTP
        response.status_code = 502
    if response.status_code in (502, 503):
        logger.warning("%s: %.300s; trying again", response.request.url, content.decode("utf-8", "replace"))


def _is_completion(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content)["choices"][0]["message"], dict)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
