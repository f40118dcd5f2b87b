"""Runs scripted trajectories through swift's own loops, behind a server or in a trainer."""

from __future__ import annotations

import asyncio
import io
from typing import Any

from PIL import Image
from swift.infer_engine import RequestConfig
from swift.rollout.agent_loop import run_multi_turn
from swift_fakes import Engine

from deepeyes.images.encoding import image_bytes
from deepeyes_plugin import DeepEyesScheduler


class Lab:
    """Runs trajectories behind a server or in a trainer, each from the scheduler's making to the output."""

    def __init__(self, template: Any, way: str) -> None:
        self.template = template
        self.way = way
        self.engine = Engine([], template)

    def scheduler(self, turns: list[str], max_turns: int = 6, *, encode: bool = True) -> DeepEyesScheduler:
        self.engine = Engine(turns, self.template, encode=encode)
        if self.way == "server":
            return DeepEyesScheduler(infer_engine=self.engine, max_turns=max_turns)
        return DeepEyesScheduler(max_turns=max_turns, tokenizer=self.template.tokenizer, template=self.template)

    def run(self, requests: list[Any], turns: list[str], **options: Any) -> list[Any]:
        scheduler = self.scheduler(turns, **options)
        if self.way == "server":

            async def serve() -> list[Any]:
                return await asyncio.gather(*[scheduler.run(one, RequestConfig()) for one in requests])

            return asyncio.run(serve())
        asyncio.run(scheduler.on_trajectory_start(requests))
        first = self.engine.rollout(requests)
        return run_multi_turn(requests, first, scheduler, self.engine.rollout, RequestConfig(), 6)  # type: ignore[no-any-return]


def users(output: Any) -> list[str]:
    return [message["content"] for message in output.messages if message["role"] == "user"]


def decoded(image: str) -> Image.Image:
    return Image.open(io.BytesIO(image_bytes(image)))
