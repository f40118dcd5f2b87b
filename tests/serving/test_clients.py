"""The openai SDK against the server, in front of a scripted model: whole replies and streams, sync and async."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest
from serve_world import (
    CARD,
    NAME,
    Asked,
    Script,
    Turn,
    ask,
    call,
    plain_picture,
    playing,
    png,
    read_stripes,
    serving,
    stripes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def zoom_once(asked: Asked) -> Turn | str:
    """Looks at the card, then reads what the crop shows."""
    if asked.turn == 1:
        width, height = asked.images[0].size
        box = [
            side * size / whole for side, size, whole in zip(CARD, (width, height) * 2, (4000, 3000) * 2, strict=True)
        ]
        return f"<think>It is small.</think>{call(*box, label='card')}"
    return f"<think>Now I see.</think><answer>{read_stripes(asked.images[-1])}</answer>"


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with playing(Script(zoom_once)) as script:
        yield script


@pytest.fixture(scope="module")
def url(script: Script) -> Iterator[str]:
    with serving(script.url) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    return {"upright": png(stripes(upright=True)), "level": png(stripes(upright=False))}


class TestSync:
    @pytest.mark.parametrize("way", ["upright", "level"])
    def test_stripes_of_two_pixels_are_read(self, client: openai.OpenAI, pictures: dict[str, str], way: str) -> None:
        reply = client.chat.completions.create(model=NAME, messages=ask(pictures[way]))
        assert reply.choices[0].message.content == way
        assert reply.choices[0].finish_reason == "stop"
        assert reply.choices[0].message.reasoning_content.startswith("It is small.\n<tool_call>")
        assert reply.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
            "prompt_tokens": 200,
            "completion_tokens": 20,
            "total_tokens": 220,
        }
        assert not hasattr(reply.choices[0], "deepeyes")

    def test_trace_tells_boxes_and_crops(self, client: openai.OpenAI, pictures: dict[str, str]) -> None:
        reply = client.chat.completions.create(
            model=NAME, messages=ask(pictures["level"]), extra_body={"deepeyes": {"trace": True}}
        )
        trace = reply.choices[0].deepeyes
        assert trace["stopped"] == "answer"
        assert trace["views"][0]["original"] == [4000, 3000]
        (zoom,) = trace["zooms"]
        assert (zoom["turn"], zoom["label"], zoom["error"]) == (1, "card", None)
        width, height = trace["views"][0]["size"]
        assert zoom["box"] == pytest.approx(
            [CARD[0] * width / 4000, CARD[1] * height / 3000, CARD[2] * width / 4000, CARD[3] * height / 3000], abs=1
        )
        assert zoom["crop"].startswith("data:image/")
        assert len(trace["turns"]) == 2

    def test_models_lists_the_one_model(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == [NAME]
        assert client.models.retrieve(NAME).id == NAME
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4")


class TestStream:
    def test_stream_says_what_the_whole_reply_says(self, client: openai.OpenAI, pictures: dict[str, str]) -> None:
        whole = client.chat.completions.create(model=NAME, messages=ask(pictures["level"])).choices[0]
        reasoning, content, reasons, usage = "", "", [], None
        for chunk in client.chat.completions.create(
            model=NAME, messages=ask(pictures["level"]), stream=True, stream_options={"include_usage": True}
        ):
            if not chunk.choices:
                usage = chunk.usage
                continue
            delta = chunk.choices[0].delta
            reasoning += getattr(delta, "reasoning_content", None) or ""
            content += delta.content or ""
            reasons.append(chunk.choices[0].finish_reason)
        assert (reasoning, content) == (whole.message.reasoning_content, whole.message.content)
        assert reasons[-1] == "stop"
        assert set(reasons[:-1]) == {None}
        assert usage.total_tokens == 220

    def test_helper_of_the_sdk_puts_a_stream_together(self, client: openai.OpenAI, pictures: dict[str, str]) -> None:
        with client.chat.completions.stream(model=NAME, messages=ask(pictures["level"])) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.content == "level"

    def test_boxes_come_while_the_model_plays(self, client: openai.OpenAI, pictures: dict[str, str]) -> None:
        told: list[Any] = []
        for chunk in client.chat.completions.create(
            model=NAME, messages=ask(pictures["level"]), stream=True, extra_body={"deepeyes": {"trace": True}}
        ):
            told += [next(iter(chunk.deepeyes))] if hasattr(chunk, "deepeyes") else []
        assert told[0] == "views"
        assert told.count("zoom") == 1
        assert told[told.index("zoom") - 1] == "turn"
        assert told[told.index("zoom") + 1] == "turn"
        assert told[-1] == "stopped"


class TestAsync:
    def test_answers_are_not_mixed_up(self, url: str, pictures: dict[str, str]) -> None:
        async def run() -> list[str | None]:
            async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
                ways = ["upright", "level"] * 6

                async def one(way: str) -> str | None:
                    reply = await client.chat.completions.create(model=NAME, messages=ask(pictures[way]))
                    return reply.choices[0].message.content

                return await asyncio.gather(*[one(way) for way in ways])

        assert asyncio.run(run()) == ["upright", "level"] * 6

    def test_async_stream(self, url: str) -> None:
        async def run() -> str:
            async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
                stream = await client.chat.completions.create(model=NAME, messages=ask(plain_picture()), stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        assert asyncio.run(run()) == "unknown"
