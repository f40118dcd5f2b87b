"""What a zoom costs: the scheduler against decoding, scaling, cropping and encoding anew at every call.

Trajectories run through swift's own `MultiTurnScheduler.run`, with an engine that answers at once, so that what is
measured is the tool and nothing else.

    python benchmarks/zoom.py
"""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MAX_PIXELS"] = str(1280 * 28 * 28)  # a million, as Qwen's own examples have it

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image, ImageDraw, ImageFilter
from qwen_vl_utils import fetch_image
from swift.infer_engine import RequestConfig
from swift.rollout import MultiTurnScheduler
from swift.template.vision_utils import load_image
from swift_fakes import Engine, call, load_template, request

import deepeyes_plugin as plugin
from deepeyes import tiny_model
from deepeyes.images.store import IMAGE_STORE_BYTES

ANSWER = "<answer>red</answer>"
BOXES = ((100, 100, 420, 360), (300, 200, 640, 560), (20, 500, 280, 760))


def photo(width: int, height: int, seed: int) -> str:
    """A picture with the detail of a photograph, as base64 of a JPEG."""
    coarse = [Image.effect_noise((width // 8, height // 8), 70).resize((width, height)) for _ in range(3)]
    image = Image.blend(Image.merge("RGB", coarse), Image.effect_noise((width, height), 40).convert("RGB"), 0.2)
    draw = ImageDraw.Draw(image)
    for place in range(60):
        x, y = (place * 977 + seed * 131) % width, (place * 613 + seed * 71) % height
        colour = (place * 41 % 256, place * 67 % 256, place * 97 % 256)
        draw.rectangle((x, y, x + width // 9, y + height // 11), fill=colour)
    buffer = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(1)).save(buffer, "JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()


def naive(source: str, box: tuple[int, ...]) -> str:
    """Does a zoom as one would without thinking of cost."""
    crop = fetch_image({"image": load_image(source)}).crop(box)
    buffer = io.BytesIO()
    crop.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


async def watch(stalls: list[float]) -> None:
    """Notes by how much the event loop is late, every millisecond."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        stalls.append(time.perf_counter() - start - 0.001)


async def idle_stall(seconds: float) -> float:
    """Returns the longest stall of an event loop with nothing to do: what the machine itself adds."""
    stalls: list[float] = []
    watcher = asyncio.create_task(watch(stalls))
    await asyncio.sleep(seconds)
    watcher.cancel()
    return max(stalls)


class BareScheduler(MultiTurnScheduler):  # type: ignore[misc]  # swift ships no types
    """Goes through the same turns and does nothing in them: what swift itself costs."""

    def check_finished(self, _request: Any, choice: Any, _turn: int) -> bool:
        """Ends with the answer."""
        return bool(choice.message.content == ANSWER)

    def step(self, request: Any, _choice: Any, _turn: int) -> dict[str, Any]:
        """Appends a user turn without an image."""
        request.messages.append({"role": "user", "content": "Go on."})
        return {"infer_request": request, "rollout_infos": {"num_zooms": 0}}


def run(
    template: Any, images: list[str], zooms: int, at_once: int = 256, kind: Any = plugin.DeepEyesScheduler
) -> SimpleNamespace:
    """Runs one trajectory for each image; equal images share a view.

    Returns:
        `seconds`, `work` (of all processors, in seconds), `stall` (the longest of the event loop, in seconds),
        `held` (bytes in the store at the end), `zooms` (crops delivered).
    """
    turns = [*(call(*BOXES[place % len(BOXES)]) for place in range(zooms)), ANSWER]
    scheduler = kind(infer_engine=Engine(turns, template, encode=False), max_turns=zooms + 1)
    requests = [request(image) for image in images]
    stalls: list[float] = []

    async def everything() -> int:
        watcher = asyncio.create_task(watch(stalls))
        gate = asyncio.Semaphore(at_once)

        async def one(request: Any) -> int:
            async with gate:
                output = await scheduler.run(request, RequestConfig())
                return int(output.rollout_infos.get("num_zooms", 0))

        delivered = sum(await asyncio.gather(*map(one, requests)))
        watcher.cancel()
        return delivered

    start, work = time.perf_counter(), time.process_time()
    delivered = asyncio.run(everything())
    seconds, work = time.perf_counter() - start, time.process_time() - work
    held = 0 if kind is BareScheduler else scheduler._processor.store.nbytes  # noqa: SLF001 - what is measured
    return SimpleNamespace(seconds=seconds, work=work, stall=max(stalls), held=held, zooms=delivered)


def encodings(image: Image.Image) -> None:
    """Prints what lossless encodings of a view cost, against the PNG that swift would make."""
    baseline = 0.0
    for kind, options in (
        ("PNG", {}),
        ("PNG", {"compress_level": 1}),
        ("BMP", {}),
        ("WEBP", {"lossless": True, "quality": 0, "method": 0}),
    ):
        start = time.perf_counter()
        for _ in range(5):
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
        seconds = (time.perf_counter() - start) / 5
        start = time.perf_counter()
        for _ in range(5):
            Image.open(io.BytesIO(buffer.getvalue())).load()
        loading = (time.perf_counter() - start) / 5
        baseline = baseline or seconds
        text = len(base64.b64encode(buffer.getvalue()))
        name = f"{kind} {options}" if options else kind
        print(
            f"  {name:57} {text / 1e6:5.2f} MB, {seconds * 1e3:6.1f} ms to write ({baseline / seconds:5.1f} x PNG), "
            f"{loading * 1e3:5.1f} ms to read"
        )


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as directory:
        template = load_template(tiny_model.build(Path(directory)))
    image = photo(4000, 3000, 0)
    print(f"{os.cpu_count()} processors; MAX_PIXELS {os.environ['MAX_PIXELS']}; image 4000 x 3000, JPEG")
    run(template, [photo(400, 300, 0)], 1)  # imports what is imported late
    gc.collect()
    gc.freeze()  # or a full collection would walk all of swift's modules, a third of a second, and count as a stall

    boxes = [box for _ in range(16) for box in BOXES]
    start, work = time.perf_counter(), time.process_time()
    for box in boxes:
        naive(image, box)
    slow, work = time.perf_counter() - start, time.process_time() - work
    fast = min((run(template, [image] * 16, 3) for _ in range(3)), key=lambda result: result.seconds)
    print(f"16 generations x 3 zooms: naive {slow:.2f} s, scheduler {fast.seconds:.2f} s: {slow / fast.seconds:.0f} x")
    print(f"  processor time: naive {work:.2f} s, scheduler {fast.work:.2f} s: {work / fast.work:.0f} x")
    print(f"  longest stall of the event loop: naive {slow:.2f} s, scheduler {fast.stall * 1e3:.0f} ms")
    idle = asyncio.run(idle_stall(fast.seconds))
    print(f"  (one with nothing to do, on this machine and as long: {idle * 1e3:.0f} ms)")

    work = {}
    for zooms in (16, 64, 128):
        ours, bare = (
            min(run(template, [image] * 16, zooms, kind=kind).work for _ in range(3))
            for kind in (plugin.DeepEyesScheduler, BareScheduler)
        )
        work[zooms] = ours - bare  # swift's own turns take longer the more there were before
    early, late = (work[64] - work[16]) / (64 - 16), (work[128] - work[64]) / (128 - 64)
    print(
        f"processor time of a zoom, without swift's own: {early / 16 * 1e3:.1f} ms up to the 64th of a trajectory, "
        f"{late / 16 * 1e3:.1f} ms up to the 128th: {late / early:.2f} x (1 is linear)"
    )

    photos = [photo(1600, 1200, seed) for seed in range(200)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crowd = run(template, [photos[place % 200] for place in range(1000)], 2, at_once=1000)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        f"1,000 trajectories on 200 images, 2 zooms each: {crowd.seconds:.1f} s, {crowd.zooms} crops, store "
        f"{crowd.held / 1e6:.0f} MB = {crowd.held / IMAGE_STORE_BYTES:.0%} of its budget; memory grew by "
        f"{grown / 1e6:.0f} MB; longest stall {crowd.stall * 1e3:.0f} ms"
    )

    print("lossless encodings of a view:")
    encodings(fetch_image({"image": load_image(image)}))


if __name__ == "__main__":
    main()
