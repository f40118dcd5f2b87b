"""One HTTP request to a judge: what is sent, which model is asked, and how a reply or a fault is told apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deepeyes.errors import JudgeError
from deepeyes.judging.replicas import Patience, TransientError, retry_after_seconds
from deepeyes.log import logger

if TYPE_CHECKING:
    from deepeyes.judging.replicas import Replica
    from deepeyes.settings import JudgeSettings

JUDGE_START_COMMAND = "bash deploy_judge.sh"

MAX_REPLY_BYTES = 1 << 20  # a judge's reply is a few hundred bytes; what is longer is no reply
CONNECT_TIMEOUT = 5.0  # seconds until a replica that does not accept connections counts as down
KEEP_ALIVE = 600.0  # seconds an idle connection is kept; a training step may take minutes

_OPTIONAL = ("seed", "temperature", "max_tokens", "max_completion_tokens")  # what some servers refuse
_REFUSES = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|forbidden|extra inputs"
    r"|instead|deprecated",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reply:
    """What a judge said.

    Attributes:
        text: The message; empty where there is none.
        reasoning: What it thought, where the server tells that apart from the message.
        finish_reason: `stop`, `length` where it was cut off, or what else the server says; empty where it says none.
    """

    text: str
    reasoning: str = ""
    finish_reason: str = ""

    @property
    def only_thought(self) -> bool:
        """Tells whether the tokens went into thoughts, so that none were left for a verdict."""
        thinks_on = "<think>" in self.text and "</think>" not in self.text
        return thinks_on or (not self.text.strip() and bool(self.reasoning.strip()))

    def describe(self) -> str:
        """Returns the reply in one line, for a message."""
        if self.text.strip():
            return repr(self.text[:500])
        cut = f" (finish_reason {self.finish_reason!r})" if self.finish_reason else ""
        if self.reasoning.strip():
            return f"nothing but thoughts{cut}: {self.reasoning[:500]!r}"
        return f"an empty reply{cut}"


class Transport:
    """Sends requests to the replicas of a judge; all of it runs in one event loop."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Makes a transport; nothing is sent yet."""
        self._settings = settings
        self._searches: dict[str, asyncio.Task[str]] = {}
        self._session: Any = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, replica: Replica, prompt: str, seed: int) -> Reply:
        """Sends one prompt, once.

        Args:
            replica: Whom to ask.
            prompt: What the judge reads.
            seed: From 0; only the first try is greedy.

        Raises:
            TransientError: Another try, or another replica, may succeed.
            JudgeError: The server at the URL is no judge.
        """
        model = replica.model or await self._find_model(replica)
        body = self._body(replica, model, prompt, seed)
        status, text = await self._request("POST", f"{replica.url}/chat/completions", body)
        if status != 200:  # noqa: PLR2004 - HTTP OK
            if self._learn(replica, body, text):
                return await self.ask(replica, prompt, seed)
            if await self._find_model(replica) != model:  # it restarted with another model
                raise TransientError(f"status {status}: {self.quote(text)}")
            raise TransientError(
                f"the judge at {replica.url} refused the request with status {status}: {self.quote(text)}",
                patience=Patience.REFUSED,
            )
        try:
            choice = json.loads(text)["choices"][0]
            message = choice["message"]
            content, thought = message.get("content"), message.get("reasoning") or message.get("reasoning_content")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TransientError(f"a reply that is no chat completion: {self.quote(text)}") from error
        if not isinstance(content, str | None):
            raise TransientError(f"a reply whose content is no text: {self.quote(text)}")
        return Reply(content or "", str(thought or ""), str(choice.get("finish_reason") or ""))

    def quote(self, text: str) -> str:
        """Returns the server's own words for an error, in one line and without the key."""
        return repr(text.replace(self._settings.api_key, "***")[:500])

    def _body(self, replica: Replica, model: str, prompt: str, seed: int) -> dict[str, Any]:
        optional = {
            "seed": seed,
            "temperature": 0.5 if seed else 0.0,
            "max_completion_tokens" if "max_tokens" in replica.refuses else "max_tokens": self._settings.max_tokens,
        }
        return {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            **{name: value for name, value in optional.items() if name not in replica.refuses},
            **dict(self._settings.extra),
        }

    def _learn(self, replica: Replica, body: dict[str, Any], text: str) -> bool:
        """Notes which optional field a server refuses by name; tells whether the next request will differ."""
        own = [name for name in _OPTIONAL if name in body and name not in dict(self._settings.extra)]
        if any(name in replica.refuses for name in own):  # learnt meanwhile
            return True
        named = [name for name in own if re.search(rf"\b{name}\b", text)] if _REFUSES.search(text) else []
        for name in named[:1]:
            replica.refuses.add(name)
            logger.warning("judge: %s refuses %s and is asked without it: %s", replica.url, name, self.quote(text))
        return bool(named)

    async def _find_model(self, replica: Replica) -> str:
        """Asks a replica for its model, once for all who wait for it."""
        search = self._searches.get(replica.url)
        if search is None:
            search = self._searches[replica.url] = asyncio.ensure_future(self._search_model(replica.url))
            search.add_done_callback(lambda done: self._end_search(replica.url, done))
        model = await asyncio.shield(search)
        if model != replica.model:
            replica.model = model
            logger.info("judge: %s at %s", self.quote(model), replica.url)
        return model

    def _end_search(self, url: str, search: asyncio.Task[str]) -> None:
        self._searches.pop(url)
        if not search.cancelled():
            search.exception()  # else asyncio complains where all who waited for it were cancelled

    async def _search_model(self, url: str) -> str:
        status, text = await self._request("GET", f"{url}/models", None)
        if status != 200:  # noqa: PLR2004 - HTTP OK
            if await self._is_rollout(url):
                raise JudgeError(
                    f"{url} is a rollout server (swift rollout), not a judge. Start a judge with: "
                    f"{JUDGE_START_COMMAND}; name it with DEEPEYES_JUDGE_URLS"
                )
            if self._settings.model:  # not every gateway lists its models
                return self._settings.model
            raise JudgeError(
                f"{url}/models answered with status {status}: {self.quote(text)}. Expected a list of models; "
                "mend DEEPEYES_JUDGE_URLS, or name the model with DEEPEYES_JUDGE_MODEL"
            )
        try:
            served = [str(model["id"]) for model in json.loads(text)["data"]]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise TransientError(f"{url}/models gave no list of models: {self.quote(text)}") from error
        if not served:
            raise TransientError(f"{url}/models gave an empty list")
        return self._settings.model or served[0]

    async def _is_rollout(self, url: str) -> bool:
        """Tells whether swift's rollout server is at a URL: it has this route, and for it wants a key or none."""
        root = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        with contextlib.suppress(TransientError):
            status, text = await self._request("POST", f"{root}/get_engine_type/", {})
            return "engine_type" in text or (status == 401 and "bearer token" in text)  # noqa: PLR2004 - Unauthorized
        return False

    async def _request(self, method: str, url: str, body: object) -> tuple[int, str]:
        """Returns status and text of a reply; a fault of the server or the network is a `TransientError`."""
        import aiohttp  # noqa: PLC0415 - only where a judge is asked

        settings = self._settings
        timeout = min(settings.timeout, settings.patience)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
                headers={"Authorization": f"Bearer {settings.api_key}", "Content-Type": "application/json"},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout)),
            )
        try:
            content = None if body is None else json.dumps(body).encode()
            async with self._session.request(method, url, data=content) as response:
                reply = bytearray()
                async for chunk in response.content.iter_any():
                    reply += chunk
                    if len(reply) > MAX_REPLY_BYTES:
                        raise TransientError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except asyncio.TimeoutError as error:
            gone = isinstance(error, aiohttp.ConnectionTimeoutError)
            patience = Patience.GONE if gone else Patience.STUCK
            raise TransientError(f"no reply in {timeout:g} s", patience=patience) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            gone = isinstance(error, aiohttp.ClientConnectorError)
            cause = f"{type(error).__name__}: {self.quote(str(error))}"
            raise TransientError(cause, patience=Patience.GONE if gone else Patience.BUSY) from error
        text = reply.decode("utf-8", "replace")
        # 408 to 500 are what the openai SDK repeats, too; swift deploy says with 400 that its vLLM died.
        if status in (408, 409, 429) or status >= 500 or "EngineCore encountered" in text:  # noqa: PLR2004 - HTTP
            of_the_prompt = status == 500  # noqa: PLR2004 - 502 and more come from gateways and full queues
            raise TransientError(
                f"status {status}: {self.quote(text)}",
                retry_after_seconds(retry_after),
                Patience.STUCK if of_the_prompt else Patience.BUSY,
            )
        return status, text
