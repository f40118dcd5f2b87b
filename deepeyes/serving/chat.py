"""Requests being answered: their pictures, their answers side by side, their time, and how many there are at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from cachetools import LRUCache
from PIL import Image

from deepeyes.playing.check import check_view
from deepeyes.playing.endpoint import EndpointError, RefusedError
from deepeyes.serving.conversation import open_conversation
from deepeyes.serving.errors import ApiError, backend_failed, refused, too_slow
from deepeyes.serving.events import Viewed
from deepeyes.serving.pictures import read_picture
from deepeyes.serving.trajectory import Trajectory

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from deepeyes.playing.pictures import Picture, Viewer
    from deepeyes.playing.prompts import Prompt
    from deepeyes.serving.backend import Backend
    from deepeyes.serving.events import Event
    from deepeyes.serving.fetching import Fetcher
    from deepeyes.serving.limits import Limits
    from deepeyes.serving.protocol import ChatRequest
    from deepeyes.settings import Settings

T = TypeVar("T")

SEEN_BYTES = 256 << 20  # of pictures that are kept by their data URI, so that the same one is not decoded again
CHECKED = (4000, 3000)  # pixels of a picture that fills every view
BUSY_SECONDS = 2  # after which a client that was turned away may come back


class Chat:
    """Answers requests.

    Attributes:
        backend: The model.
        limits: What a request may cost.
        under_way: Requests being answered now.
    """

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        backend: Backend,
        viewer_of: Callable[[str], Viewer],
        prompt_of: Callable[[Viewer], Prompt],
        fetcher: Fetcher,
        limits: Limits,
        settings: Settings,
        raw: bool = False,
        blank_crops: bool = False,
    ) -> None:
        """Makes what answers.

        Args:
            backend: The model.
            viewer_of: Makes what makes views and crops, from the name of the model, once that is known.
            prompt_of: Returns the system turn and the instruction of training.
            fetcher: Gets images from URLs.
            limits: What a request may cost.
            settings: Rules of the turns.
            raw: Whether the content of an answer is the text as the model wrote it.
            blank_crops: Whether crops are painted grey, as a control.
        """
        self.backend, self.limits = backend, limits
        self._viewer_of, self._prompt_of, self._fetcher = viewer_of, prompt_of, fetcher
        self._viewer: Viewer | None = None
        self._settings, self._raw, self._blank_crops = settings, raw, blank_crops
        self._seen: LRUCache[str, Picture] = LRUCache(
            SEEN_BYTES,
            lambda picture: 2 * picture.nbytes,  # the URI is as large as what it holds
        )
        self.under_way = 0

    async def close(self) -> None:
        """Closes all connections."""
        await self._fetcher.close()
        await self.backend.close()

    async def know_model(self) -> None:
        """Looks the model's name up where that could not be done at the start.

        Raises:
            ApiError: Its endpoint does not answer.
        """
        if not self.backend.model:
            try:
                await self.backend.find_model()
            except EndpointError as error:
                raise backend_failed(str(error)) from error

    async def check_view(self) -> str | None:
        """Asks the endpoint whether it shows a view as it is; returns what a user should know, or None.

        Where it scales the view again, boxes would be out of place in silence.
        """
        viewer = self._look()
        picture = await viewer.look(Image.new("RGB", CHECKED, "grey"))
        question = [{"role": "user", "content": "<image>\nWhich colour?"}]
        try:
            return (await check_view(self.backend, viewer, question, picture, tool=True)).note
        except (EndpointError, RefusedError) as error:
            return str(error)

    def _look(self) -> Viewer:
        if self._viewer is None:
            self._viewer = self._viewer_of(self.backend.model)
        return self._viewer

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Answers one request, and yields what happens as it happens.

        Whoever stops listening stops the turns. Whoever listens slowly does not: what happened waits in memory, and
        the model's endpoint and the place among the requests under way are free as soon as the last turn is written.

        Raises:
            ApiError: There is no answer; the message says why.
        """
        await self.know_model()
        if request.model not in (None, "", self.backend.model):
            message = f"the model {request.model!r} does not exist; this server has {self.backend.model!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        if self.under_way >= self.limits.requests:
            message = f"{self.under_way} requests are under way, which is the limit (--max-requests); try again soon"
            raise ApiError(429, message, kind="requests", code="rate_limit_exceeded", retry_after=BUSY_SECONDS)
        happened: asyncio.Queue[Event | None] = asyncio.Queue()
        task = asyncio.create_task(self._play(request, happened))
        try:
            while (event := await happened.get()) is not None:
                yield event
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _play(self, request: ChatRequest, happened: asyncio.Queue[Event | None]) -> None:
        """Plays all answers to a request into a queue, and ends it with None."""
        self.under_way += 1
        seconds = self.limits.seconds
        try:
            await asyncio.wait_for(self._play_choices(request, happened), seconds)
        except asyncio.TimeoutError:
            raise too_slow(seconds) from None
        except EndpointError as error:
            raise backend_failed(str(error)) from error
        finally:
            self.under_way -= 1
            happened.put_nowait(None)

    async def _play_choices(self, request: ChatRequest, happened: asyncio.Queue[Event | None]) -> None:
        pictures = await _all([self._picture(url, at) for at, url in enumerate(request.image_urls)])
        happened.put_nowait(
            Viewed(tuple(picture.size for picture in pictures), tuple(picture.original for picture in pictures))
        )
        viewer = self._look()
        opening = open_conversation(request, self._prompt_of(viewer))
        trajectories = [
            Trajectory(
                choice=choice,
                request=request,
                opening=opening,
                backend=self.backend,
                limits=self.limits,
                settings=self._settings,
                raw=self._raw,
                blank_crops=self._blank_crops,
                emit=happened.put_nowait,
            )
            for choice in range(request.n)
        ]
        await _all([trajectory.play(viewer, pictures) for trajectory in trajectories])

    async def _picture(self, url: str, at: int) -> Picture:
        if (seen := self._seen.get(url)) is not None:
            return seen
        param = f"image {at}"
        content = await read_picture(url, param, self.limits, self._fetcher)
        try:
            picture = await self._look().look(content)
        except (OSError, ValueError, SyntaxError) as error:
            raise refused(f"not an image that can be read: {error}"[:300], param, "invalid_image") from error
        if url.startswith("data:") and 2 * picture.nbytes <= SEEN_BYTES:
            self._seen[url] = picture
        return picture


async def _all(works: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """Waits for all; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
