"""The client of an LLM judge behind one or more OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import math
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from deepeyes.errors import JudgeError
from deepeyes.judging.replicas import Replica, TransientError, retry_after_seconds
from deepeyes.judging.stats import JudgeStats
from deepeyes.log import logger
from deepeyes.settings import JudgeSettings, Scoring
from deepeyes.verdicts import UNPARSEABLE, Question, Verdict, fill_prompt, parse_verdict

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from concurrent.futures import Future

T = TypeVar("T")

JUDGE_START_COMMAND = "bash deploy_judge.sh"

MAX_VERDICT_TOKENS = 64  # a verdict has about 6; the rest is room for a judge that is wordy
MAX_REPLY_BYTES = 1 << 20  # a judge's reply is a few hundred bytes; what is longer is no reply
CONNECT_TIMEOUT = 5.0  # seconds until a replica that does not accept connections counts as down
KEEP_ALIVE = 600.0  # seconds an idle connection is kept; a training step may take minutes
UNPARSEABLE_ASKS = 3  # times one question is asked when no verdict can be read from the reply


class JudgeClient:
    """Asks an LLM behind one or more OpenAI-compatible servers.

    All calls run in one event loop on a thread of its own, so that connections stay open from step to step
    whatever loop the caller has. aiohttp rather than the openai SDK, which spends several times the CPU on
    each of hundreds of calls in flight (benchmarks/judge.py).
    """

    def __init__(self, settings: JudgeSettings, stats: JudgeStats | None = None) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            settings: Where the judge is and how hard to try.
            stats: Counters to add to.
        """
        self.settings = settings
        self.stats = stats or JudgeStats()
        self._replicas = [Replica(url) for url in settings.urls]
        self._searches: dict[str, asyncio.Task[str]] = {}
        self._last_reply = -math.inf
        self._last_cause = "none"
        self._unread = ""
        self._semaphore = asyncio.Semaphore(settings.concurrency)
        self._session: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="deepeyes-judge", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        """Judges questions from synchronous code, in any thread.

        Args:
            questions: In any number; equal ones are asked once.

        Returns:
            A verdict a question, in order.

        Raises:
            JudgeError: The server refuses the request, or the judge could not be reached for `patience` seconds.
        """
        batch = self._run(self._judge_all(questions))
        try:
            return batch.result()
        except BaseException:
            batch.cancel()  # Ctrl-C: nobody waits any more
            raise

    async def verdicts_async(self, questions: Sequence[Question]) -> list[Verdict]:
        """Judges questions from a coroutine, in any event loop; otherwise like `verdicts`."""
        return await asyncio.wrap_future(self._run(self._judge_all(questions)))

    def close(self) -> None:
        """Ends what is under way, closes the connections and ends the thread; the client can't be used again."""
        atexit.unregister(self.close)
        if not self._thread.is_alive():  # closed before, or copied by a fork, which copies no threads
            return
        self._run(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _judge_all(self, questions: Sequence[Question]) -> list[Verdict]:
        verdicts: dict[Question, Verdict] = {}
        distinct = dict.fromkeys(questions)
        waiting = iter(distinct)

        async def work() -> None:
            for question in waiting:
                verdicts[question] = await self._judge(question)

        workers: list[asyncio.Future[None]] = []
        try:
            for _ in range(min(len(distinct), self.settings.concurrency)):
                workers.append(asyncio.ensure_future(work()))
                await asyncio.sleep(0)  # lets its request out: else the first waits until the last is prepared
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if unread := sum(verdict == UNPARSEABLE for verdict in verdicts.values()):
            logger.warning(
                "judge: no verdict in %d replies to each of %d of %d questions, which count as wrong; the last was %s",
                UNPARSEABLE_ASKS,
                unread,
                len(distinct),
                self._quote(self._unread),
            )
        return [verdicts[question] for question in questions]

    async def _judge(self, question: Question) -> Verdict:
        self.stats.questions += 1
        settings = self.settings
        template = settings.math_prompt if question.scoring is Scoring.MATH else settings.visual_prompt
        prompt = fill_prompt(template, question)
        for seed in range(UNPARSEABLE_ASKS):
            reply = await self._ask(prompt, seed)
            correct = parse_verdict(reply)
            if correct is not None:
                return Verdict(correct, "judge")
            self._unread = reply
        self.stats.unparseable += 1
        return UNPARSEABLE

    async def _ask(self, prompt: str, seed: int) -> str:
        """Returns the text of one reply, however many calls that takes."""
        start = time.monotonic()
        while True:
            async with self._semaphore:
                replica = await self._pick(start)
                sent = time.monotonic()
                replica.in_flight += 1
                try:
                    reply = await self._post(replica, prompt, seed)
                except TransientError as error:
                    self.stats.retries += 1
                    self._last_cause = f"{replica.url}: {error}"
                    replica.set_aside(sent, error)
                else:
                    self._last_reply = time.monotonic()
                    replica.take_back()
                    return reply
                finally:
                    replica.in_flight -= 1

    async def _pick(self, start: float) -> Replica:
        """Returns the free replica with the least in flight, waiting until one is free.

        Args:
            start: When the question was first put, in seconds of the monotonic clock.

        Raises:
            JudgeError: No replica has answered anything for as long as the patience lasts.
        """
        while True:
            now = time.monotonic()
            silence = now - max(start, self._last_reply)
            if silence >= self.settings.patience:
                raise JudgeError(
                    f"no judge answered for {silence:.1f} s (DEEPEYES_JUDGE_PATIENCE={self.settings.patience:g}). "
                    f"URLs: {', '.join(self.settings.urls)}. Last cause: {self._last_cause}. Start a judge with: "
                    f"{JUDGE_START_COMMAND}; name it with DEEPEYES_JUDGE_URLS; or do without one: DEEPEYES_JUDGE=rule"
                )
            if free := [replica for replica in self._replicas if replica.free_at <= now]:
                fit = [replica for replica in free if replica.is_fit(now)]
                return min(fit or free, key=lambda replica: (replica.in_flight, random.random()))  # noqa: S311
            soonest = min(replica.free_at for replica in self._replicas) - now
            await asyncio.sleep(min(soonest, self.settings.patience - silence))

    async def _post(self, replica: Replica, prompt: str, seed: int) -> str:
        model = replica.model or await self._find_model(replica)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MAX_VERDICT_TOKENS,
            "temperature": 0.5 if seed else 0.0,
            "seed": seed,
        }
        self.stats.calls += 1
        status, text = await self._request("POST", f"{replica.url}/chat/completions", body)
        if status != 200:  # noqa: PLR2004 - HTTP OK
            if await self._find_model(replica) != model:  # it restarted with another model
                raise TransientError(f"status {status}: {self._quote(text)}")
            raise JudgeError(
                f"the judge at {replica.url} refused the request with status {status}: {self._quote(text)}"
            )
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise TransientError(f"a reply that is no chat completion: {self._quote(text)}") from error
        if not isinstance(content, str) or not content.strip():
            raise TransientError("a reply with no text")
        return content

    async def _find_model(self, replica: Replica) -> str:
        """Asks a replica for its model, once for all who wait for it."""
        search = self._searches.get(replica.url)
        if search is None:
            search = self._searches[replica.url] = self._loop.create_task(self._search_model(replica.url))
            search.add_done_callback(lambda _: self._searches.pop(replica.url))
        model = await asyncio.shield(search)
        if model != replica.model:
            replica.model = model
            logger.info("judge: %s at %s", self._quote(model), replica.url)
        return model

    async def _search_model(self, url: str) -> str:
        status, text = await self._request("GET", f"{url}/models", None)
        if status != 200:  # noqa: PLR2004 - HTTP OK
            if await self._is_rollout(url):
                raise JudgeError(
                    f"{url} is a rollout server (swift rollout), not a judge. Start a judge with: "
                    f"{JUDGE_START_COMMAND}; name it with DEEPEYES_JUDGE_URLS"
                )
            if self.settings.model:  # not every gateway lists its models
                return self.settings.model
            raise JudgeError(
                f"{url}/models answered with status {status}: {self._quote(text)}. Expected a list of models; "
                "mend DEEPEYES_JUDGE_URLS, or name the model with DEEPEYES_JUDGE_MODEL"
            )
        try:
            served = [str(model["id"]) for model in json.loads(text)["data"]]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise TransientError(f"{url}/models gave no list of models: {self._quote(text)}") from error
        if not served:
            raise TransientError(f"{url}/models gave an empty list")
        return self.settings.model or served[0]

    async def _is_rollout(self, url: str) -> bool:
        """Tells whether swift's rollout server is at a URL: it has this route, and for it wants a key or none."""
        root = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        with contextlib.suppress(TransientError):
            status, text = await self._request("POST", f"{root}/get_engine_type/", {})
            return "engine_type" in text or (status == 401 and "bearer token" in text)  # noqa: PLR2004 - Unauthorized
        return False

    async def _request(self, method: str, url: str, body: object) -> tuple[int, str]:
        """Returns status and text of a reply that it makes no sense to repeat the request for."""
        import aiohttp  # noqa: PLC0415 - only where a judge is asked

        settings = self.settings
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
            raise TransientError(f"no reply in {timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TransientError(f"{type(error).__name__}: {self._quote(str(error))}") from error
        text = reply.decode("utf-8", "replace")
        # 408 to 500 are what the openai SDK repeats, too; swift deploy says with 400 that its vLLM died.
        if status in (408, 409, 429) or status >= 500 or "EngineCore encountered" in text:  # noqa: PLR2004 - HTTP
            raise TransientError(f"status {status}: {self._quote(text)}", retry_after_seconds(retry_after))
        return status, text

    def _quote(self, text: str) -> str:
        """Returns the server's own words for an error, in one line and without the key."""
        return repr(text.replace(self.settings.api_key, "***")[:500])
