"""What 8K pictures cost the evaluation with 16 questions in flight: bounded by bytes, against bounded by count alone.

    python benchmarks/evaluation.py [QUESTIONS]

Every question has its own JPEG of 7680 x 4320 pixels, made on the spot, and is played under `--protocol paper`: a view
of 16384 tokens, a crop of the original, an answer. The endpoint is scripted, in a process of its own, reads no picture,
and answers after a second, so that as many questions are in flight as are let in. Each side runs in a process of its
own; what is told is its wall time, its CPU time, and the peak of its memory, Python and the libraries included. It
takes about two minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 7680, 4320
THINKS = 1.0  # seconds that the endpoint takes for a reply
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1000, 800, 1400, 1100]}}</tool_call>'
ANSWER = "<think>it shows</think><answer>A</answer>"
SIDES = ("bytes", "count")
"""What bounds the questions in flight: the evaluation as it is, or its count alone, and the allocator as it comes."""


class Endpoint(BaseHTTPRequestHandler):
    """Zooms in the first turn, and answers in the second."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Lists one model."""
        self._send({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    def do_POST(self) -> None:
        """Replies to a chat."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(THINKS)
        said = ANSWER if b'"role":"assistant"' in body.replace(b'": "', b'":"')[-20_000_000:] else CALL
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self._send({"id": "1", "object": "chat.completion", "created": 1, "model": "scripted", "choices": [choice]})

    def _send(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def serve() -> None:
    """Serves until the standard input ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


def write_bench(folder: Path, questions: int) -> None:
    """Writes questions in the layout of V*Bench, each with its own picture: smooth shapes and the noise of a camera."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (68, 120, 3), np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    noise = random.integers(0, 12, (HEIGHT, WIDTH, 3), np.uint8)
    scene = np.minimum(np.asarray(coarse), 243) + noise
    with (folder / "test_questions.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(questions):
            Image.fromarray(np.roll(scene, 411 * number, axis=1)).save(folder / f"{number}.jpg", quality=90)
            row = {"image": f"{number}.jpg", "text": "What is there?\n(A) a sign\n(B) a tree", "label": "A"}
            lines.write(json.dumps(row) + "\n")


def play(side: str, folder: Path, port: int) -> None:
    """Plays all questions in this process, and prints what it took."""
    from deepeyes.evaluation import cli, running, session  # noqa: PLC0415 - only here, whose memory is measured
    from deepeyes.playing import pictures  # noqa: PLC0415 - likewise

    if side == "count":
        running.IN_FLIGHT_BYTES = pictures.DECODED_BYTES = 1 << 50
        session.give_back_large_blocks = lambda: False
    words = ["--bench", "vstar", "--data", str(folder), "--url", f"http://127.0.0.1:{port}/v1", "--skip-view-check"]
    begun = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        status = cli.main([*words, "--out", str(folder / side), "--concurrency", "16", "--judge", "none"])
    found = {
        "seconds": time.perf_counter() - begun,
        "CPU seconds": sum(os.times()[:2]),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    report = json.loads((folder / side / "report.json").read_text(encoding="utf-8"))
    if status or report["all"]["zooms"] != report["all"]["answers"]:
        sys.exit(f"the run ended with {status}, {report['all']}")
    print(json.dumps(found))


def main() -> None:
    """Prints the table."""
    questions = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bench(folder, questions)
        size = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / questions
        print(f"{questions} questions, each with {WIDTH} x {HEIGHT} pixels in {size / 1e6:.1f} MB of JPEG")
        program, pipes = [sys.executable, __file__], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([*program, "serve"], **pipes, text=True) as server:
            assert server.stdout is not None  # noqa: S101 - for mypy: it is a pipe
            port, found = server.stdout.readline().strip(), {}
            for side in SIDES:
                run = [*program, "play", side, name, port]
                done = subprocess.run(run, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr[-2000:])
                found[side] = json.loads(done.stdout)
            assert server.stdin is not None  # noqa: S101 - for mypy: it is a pipe
            server.stdin.close()
    print(f"{'in flight, bounded by':<24} {'bytes':>9} {'count':>9} {'ratio':>8}")
    for part, value in found["bytes"].items():
        print(f"{part:<24} {value:9.1f} {found['count'][part]:9.1f} {found['count'][part] / value:6.2f} x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["play"]:
        play(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
