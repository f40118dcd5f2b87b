"""What `serve` costs beside the model's own time: the same turns through it, and in a bare loop around the openai SDK.

    python benchmarks/serving.py [REQUESTS]

The model is scripted, in a process of its own, and answers at once; so is the server. Every request asks about one
picture of a megapixel that both have seen before, in two turns with one crop. The bare loop is given what the server
makes only once (the view as a data URI) and cuts its crop with Pillow. All take turns, so that a busy machine slows
all; medians are compared. Besides, the CPU seconds of client and server together are counted, which other programs do
not change. It takes about a minute.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "serving")]

import numpy as np
import openai
import psutil
from PIL import Image
from serve_world import NAME, Asked, ask, call

from deepeyes.images.encoding import to_data_uri
from deepeyes.playing.prompts import own_prompt
from deepeyes.settings import Coordinates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TURNS = 2
BOX = (100, 100, 300, 300)
WARM_UP = 3
MODEL = """
import sys, time
sys.path[:0] = {paths!r}
from serve_world import Script, playing
from serving import policy
with playing(Script(policy, keep=False)) as script:
    print(script.url, flush=True)
    sys.stdin.read()
"""


def policy(asked: Asked) -> str:
    """Zooms once, then answers."""
    return f"<think>I look.</think>{call(*BOX)}" if asked.turn == 1 else "<answer>red</answer>"


def photograph() -> tuple[str, Image.Image]:
    """Makes a picture of a megapixel, soft as photographs are, as a JPEG data URI and decoded."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((1152, 896), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return uri, Image.open(buffer).convert("RGB")


@contextlib.contextmanager
def running(words: list[str], mark: str) -> Iterator[tuple[str, int]]:
    """Runs a program, and yields the last word of the first line that holds a mark, and its process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout  # noqa: S101 - for mypy
        try:
            yield next(line.split()[-1] for line in process.stdout if mark in line), process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def bare_loop(client: openai.OpenAI, view: str, image: Image.Image, *, stream: bool) -> Callable[[], None]:
    """Returns the loop that everybody writes: ask, cut, ask again."""
    prompt = own_prompt(Coordinates.PIXEL, tool=True)

    def turn(messages: list[Any]) -> str:
        reply: Any = client.chat.completions.create(model=NAME, messages=messages, max_tokens=2048, stream=stream)
        if stream:
            return "".join(chunk.choices[0].delta.content or "" for chunk in reply if chunk.choices)
        return str(reply.choices[0].message.content)

    def play() -> None:
        question = [
            {"type": "image_url", "image_url": {"url": view}},
            {"type": "text", "text": f"\nWhich colour?{prompt.instruction}"},
        ]
        messages: list[Any] = [{"role": "system", "content": prompt.system}, {"role": "user", "content": question}]
        said = turn(messages)
        crop = to_data_uri(image.crop(BOX))
        messages += [
            {"role": "assistant", "content": said},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": crop}}]},
        ]
        turn(messages)

    return play


def through_serve(client: openai.OpenAI, uri: str, *, stream: bool) -> Callable[[], None]:
    """Returns one request to the server."""

    def play() -> None:
        reply = client.chat.completions.create(model=NAME, messages=ask(uri, "Which colour?"), stream=stream)
        if stream:
            list(reply)

    return play


def measure(works: dict[str, Callable[[], None]], times: int, server: int) -> dict[str, tuple[float, float]]:
    """Measures works in turn.

    Returns:
        Of each, for one turn of the model: milliseconds that pass (median), and of CPU in this process and the server's
        (mean).
    """
    took: dict[str, list[float]] = {name: [] for name in works}
    used = dict.fromkeys(works, 0.0)

    def cpu() -> float:
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in (os.getpid(), server))

    for at in range(times + WARM_UP):
        for name, work in works.items():
            before, start = cpu(), time.perf_counter()
            work()
            if at >= WARM_UP:
                took[name].append(1000 * (time.perf_counter() - start) / TURNS)
                used[name] += 1000 * (cpu() - before) / TURNS / times
    return {name: (statistics.median(values), used[name]) for name, values in took.items()}


def main() -> None:
    """Prints the table."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    uri, image = photograph()
    view = to_data_uri(image.resize((868, 672)))
    model = MODEL.format(paths=[str(ROOT), str(ROOT / "tests" / "serving"), str(ROOT / "benchmarks")])
    serve = [sys.executable, "-m", "deepeyes.serving", "--port", "0", "--crop-source", "original", "--url"]
    with (
        running([sys.executable, "-c", model], "http") as (backend, _),
        running([*serve, backend], "endpoint ") as (url, server),
        openai.OpenAI(base_url=backend, api_key="x") as there,
        openai.OpenAI(base_url=url, api_key="x") as here,
    ):
        pairs = {
            ("bare loop", "serve"): False,
            ("bare loop, streaming", "serve, streaming"): True,
        }
        works: dict[str, Callable[[], None]] = {}
        for (bare, through), stream in pairs.items():
            works[bare] = bare_loop(there, view, image, stream=stream)
            works[through] = through_serve(here, uri, stream=stream)
        took = measure(works, times, server)
    print(f"{'a turn of the model':<24}{'ms':>8}{'more':>8}{'ratio':>8}{'CPU ms':>9}{'more':>8}")
    for bare, through in pairs:
        for name in (bare, through):
            (wall, cpu), (bare_wall, bare_cpu) = took[name], took[bare]
            more = f"{wall - bare_wall:>8.1f}{wall / bare_wall:>8.2f}"
            print(f"{name:<24}{wall:>8.1f}{more}{cpu:>9.1f}{cpu - bare_cpu:>8.1f}")


if __name__ == "__main__":
    main()
