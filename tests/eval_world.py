"""A benchmark that can be seen, and scripted endpoints that see it."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from qwen_vl_utils import fetch_image

from deepeyes.evaluation import cli
from deepeyes.evaluation.bench.vstar import FOLDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 210), "white": (250, 250, 250)}
GREY = (128, 128, 128)
SIZE = (320, 240)
MODEL = {"id": "org/scripted-7b", "object": "model"}


def picture(colour: str, x: int) -> bytes:
    """A square of 44 pixels on grey, as PNG."""
    image = Image.new("RGB", SIZE, GREY)
    image.paste(COLOURS[colour], (x, 100, x + 44, 144))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def colour_question(at: int) -> tuple[str, list[str], bytes]:
    """A question of four options, the right one first."""
    names = list(COLOURS)
    right = names[at % 4]
    return (
        "What is the color of the square?",
        [right, *[name for name in names if name != right]],
        picture(right, 20 + 9 * at % 250),
    )


def write_vstar(folder: Path, colours: int = 4, sides: int = 2) -> Path:
    for kind in FOLDERS:
        (folder / kind).mkdir(parents=True)
    for at in range(colours + sides):
        kind = "direct_attributes" if at < colours else "relative_position"
        question, options, image = colour_question(at)
        if at >= colours:
            side = "left" if at % 2 else "right"
            question = "Is the square on the left or right side of the picture?"
            options = [f"It is on the {side} side.", f"It is on the {'right' if at % 2 else 'left'} side."]
            image = picture("red", 30 if at % 2 else 250)
        (folder / kind / f"sa_{at}.png").write_bytes(image)
        note = {"target_object": ["square"], "bbox": [[0, 0, 1, 1]], "question": question, "options": options}
        (folder / kind / f"sa_{at}.json").write_text(json.dumps(note))
    return folder


def hrbench_rows(questions: int = 5) -> list[dict[str, str]]:
    """Every question four times, its options turned on by one each time."""
    rows = []
    for cycle in range(4):
        for at in range(questions):
            question, options, image = colour_question(at)
            turned = options[cycle:] + options[:cycle]
            row = {
                "index": str(len(rows)),
                "question": question + '\n"Look\tclosely."',
                "category": ("single", "cross")[at % 2],
            }
            row |= dict(zip("ABCD", turned, strict=True))
            row |= {"answer": "ABCD"[turned.index(options[0])], "cycle_category": str(cycle)}
            rows.append({**row, "image": base64.b64encode(image).decode()})
    return rows


def write_tsv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass
class Seen:
    """A request as a scripted model sees it: its turns as text, and its images."""

    texts: list[str]
    images: list[Image.Image]
    body: dict[str, Any]

    @property
    def question(self) -> str:
        return self.texts[1]

    @property
    def turn(self) -> int:
        return sum(turn["role"] == "assistant" for turn in self.body["messages"]) + 1

    def letter(self, option: str) -> str:
        return re.search(rf"^\(?([A-Z])[).] {re.escape(option)}$", self.question, re.MULTILINE)[1]  # type: ignore[index]

    def square(self, image: Image.Image) -> tuple[int, int, int, int]:
        """Where the picture is not grey."""
        rows, columns = np.nonzero(np.abs(np.asarray(image).astype(int) - GREY[0]).max(axis=2) > 20)
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    def right(self) -> str:
        """The letter of the right option, read from the last image (a colour) or the first (a side)."""
        if "side of the picture" in self.question:
            left = self.square(self.images[0])[0] < self.images[0].width / 2
            return self.letter(f"It is on the {'left' if left else 'right'} side.")
        image = self.images[-1]
        middle = np.asarray(image)[image.height // 2, image.width // 2]
        if len(self.images) == 1:
            x1, y1, x2, y2 = self.square(image)
            middle = np.asarray(image)[(y1 + y2) // 2, (x1 + x2) // 2]
        return self.letter(nearest(middle))

    def colour(self, image: Image.Image) -> str:
        """The colour in the middle of a picture."""
        return nearest(np.asarray(image)[image.height // 2, image.width // 2])


def nearest(pixel: Any) -> str:
    return min(COLOURS, key=lambda name: int(np.abs(np.array(COLOURS[name]) - pixel).sum()))


def call(box: object) -> str:
    return (
        f'<think>look</think><tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}}}}}</tool_call>'
    )


def answer(text: str) -> str:
    return f"<think>it shows</think><answer>{text}</answer>"


def perfect(seen: Seen) -> str:
    return answer(seen.right()) if seen.turn > 1 else call(list(seen.square(seen.images[0])))


def always_a(_seen: Seen) -> str:
    return answer("A")


@dataclass
class Script:
    """An endpoint: its model, the patch size and the fewest tokens of an image there, and what it was asked.

    `check` replies where the view is checked, and `models` is what it lists.
    """

    policy: Callable[[Seen], Any]
    patch: int = 14
    least: int = 0
    check: Callable[[Seen], Any] = lambda _: "x"
    models: list[dict[str, str]] = field(default_factory=lambda: [MODEL])
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        texts, images = [], []
        for turn in body["messages"]:
            parts = (
                turn["content"] if isinstance(turn["content"], list) else [{"type": "text", "text": turn["content"]}]
            )
            text = ""
            for part in parts:
                if part["type"] == "text":
                    text += part["text"]
                else:
                    data = base64.b64decode(part["image_url"]["url"].partition("base64,")[2])
                    images.append(Image.open(io.BytesIO(data)).convert("RGB"))
                    text += f"[image {len(images)}]"
            texts.append(text)
        seen = Seen(texts, images, body)
        side = 2 * self.patch
        pixels = [max(self.least, round(image.width / side) * round(image.height / side)) + 2 for image in images]
        usage = {
            "prompt_tokens": sum(len(re.sub(r"\[image \d\]", "", text)) for text in texts) + sum(pixels),
            "completion_tokens": 7,
        }
        if 1 in (body.get("max_tokens"), body.get("max_completion_tokens")):  # the check of the view
            said: Any = self.check(seen)
        else:
            self.seen.append(seen)
            said = self.policy(seen)
        if not isinstance(said, str):
            return said
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage["total_tokens"] = sum(usage.values())
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }


@contextmanager
def serving(script: Any) -> Iterator[Any]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(200, {"object": "list", "data": getattr(script, "models", [MODEL])})

        def do_POST(self) -> None:
            self.send(*script.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_own(path: Path) -> Path:
    rows = []
    for at in range(7):
        question, options, image = colour_question(at)
        rows.append(
            {
                "data_source": "vstar" if at < 6 else "mystery",
                "prompt": [
                    {"role": "system", "content": "own system turn"},
                    {"role": "user", "content": f"<image>\n{question}\nAnswer in <answer></answer>, my way."},
                ],
                "images": [{"bytes": image, "path": f"{at}.png"}],
                "env_name": "visual_toolbox_v2",
                "reward_model": {"ground_truth": f"The square is {options[0]}.", "style": "model"},
                "extra_info": {"question": question, "answer": options[0], "index": str(at)},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def view_of(path: Path) -> Image.Image:
    return fetch_image({"image": Image.open(path), "max_pixels": 602112})


def evaluate(out: Path, script: Script, *arguments: object) -> tuple[int, dict[str, Any]]:
    """Runs the command line and returns its status and its report."""
    words = ["--url", script.url, "--out", out, "--retries", "1", *arguments]
    status = cli.main([str(word) for word in words])
    path = out / "report.json"
    return status, json.loads(path.read_text()) if path.is_file() else {}
