"""Many requests at once in front of a model that fails: none is lost, none is mixed up, and memory stays flat.

    python tests/serving/soak.py SECONDS AT_ONCE

The server is a process of its own. Every request carries a number of its own and a picture of one of many colours; a
right answer names both. The colours come again, so that what the server keeps of pictures is full early, and memory
that still grows is a leak. One call in five of the model fails: with a status, in the middle, or because there are too
many.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import httpx  # noqa: E402 - the path comes first
import psutil  # noqa: E402 - likewise
from serve_world import Asked, Script, Turn, ask, call, plain_picture, playing  # noqa: E402 - likewise

FAULTS = 0.2  # of the model's turns
MEGABYTE = 1 << 20
COLOURS = 64


def colour_of(number: int) -> tuple[int, int, int]:
    return 4 * (number % COLOURS), 255 - 3 * (number % COLOURS), 77


def policy(asked: Asked) -> Turn | str:
    """Fails, zooms once, then answers with what the request holds."""
    fault = random.random() / FAULTS  # noqa: S311 - no secret
    if fault < 1:
        faults = (Turn("overloaded", status=500), Turn("<think>x</think>", cut=True), Turn("slow down", status=429))
        return faults[int(fault * len(faults))]
    if asked.turn == 1:
        return f"<think>I look.</think>{call(20, 20, 200, 200)}"
    number = asked.texts[1].partition("number ")[2].partition("?")[0]
    seen = asked.images[-1].convert("RGB").getpixel((5, 5))
    return f"<answer>{number} {list(seen)}</answer>"


async def one(client: httpx.AsyncClient, number: int, counts: Counter[str]) -> None:
    """Asks once, whole or as a stream, and counts how it ended."""
    picture = await asyncio.to_thread(plain_picture, f"#{bytes(colour_of(number)).hex()}", (280, 280))
    body = {"messages": ask(picture, f"Is this number {number}?"), "stream": bool(number % 2)}
    response = await client.post("/chat/completions", json=body)
    said, failed = read(response)
    if failed:
        counts[failed] += 1
    else:
        counts["right" if said == f"{number} {list(colour_of(number))}" else f"MIXED UP: {said[:60]}"] += 1


def read(response: httpx.Response) -> tuple[str, str | None]:
    """Returns the answer, and the kind of fault where there is none."""
    if response.status_code != 200:
        return "", f"status {response.status_code}" if "error" in response.json() else "no error body"
    if "text/event-stream" not in response.headers["content-type"]:
        return response.json()["choices"][0]["message"]["content"], None
    text, finished = "", False
    for line in response.text.split("\n\n"):
        if not line or line.endswith("[DONE]"):
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            return "", "error in the stream"
        text += chunk["choices"][0]["delta"].get("content") or ""
        finished |= bool(chunk["choices"][0]["finish_reason"])
    return text, None if finished else "LOST: a stream without an end"


async def load(url: str, seconds: float, at_once: int, pid: int) -> dict[str, Any]:
    """Keeps so many requests under way for so long, and returns what was counted."""
    counts: Counter[str] = Counter()
    numbers = iter(range(1 << 30))
    server, memory = psutil.Process(pid), []
    end = time.monotonic() + seconds

    async def worker(client: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            counts["sent"] += 1
            try:
                await one(client, next(numbers), counts)
            except httpx.HTTPError as error:
                counts[f"LOST: {type(error).__name__}"] += 1

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(seconds / 20)
            memory.append(server.memory_info().rss // MEGABYTE)

    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(watch(), *[worker(client) for _ in range(at_once)])
        left = (await client.get(f"{url[:-3]}/health")).json()["under_way"]
    return {"counts": dict(counts), "memory": memory, "under_way_at_the_end": left}


def soak(seconds: float, at_once: int) -> dict[str, Any]:
    """Runs everything; returns what was counted."""
    with playing(Script(policy, keep=False)) as script:
        words = [sys.executable, "-m", "deepeyes.serving", "--url", script.url, "--port", "0", "--retries", "1"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(words, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            try:
                url = next(line.rpartition("endpoint ")[2].strip() for line in process.stderr if "endpoint " in line)
                return asyncio.run(load(url, seconds, at_once, process.pid))
            finally:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=30)


if __name__ == "__main__":
    print(json.dumps(soak(float(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201 - a program
