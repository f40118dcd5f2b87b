"""Two ranks that train by the script, wherever they are, next to a judge that can be cut off."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from PIL import Image
from servers import KIND, ROOT, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).parent
REFERENCE = "red"
PLAYED = (("crimson", "crimson", "scarlet", "azure"), ("crimson", "azure", "late one", "late two"))
"""Of rank 0 and rank 1: two trajectories in the first step, two in the second. Right are crimson and scarlet."""
PATIENCE = 8
"""Seconds that an outage of the judge may last."""
END_SECONDS = 1200
"""For both ranks to end, on a busy machine; idle, a run takes half a minute."""


@dataclass(frozen=True)
class Place:
    """Where a process runs.

    Attributes:
        prefix: What stands before a command to run it there.
        address: How the others reach it; of the judge, with `{net}` for the rank that asks, from 1.
        settings: Variables of its own.
    """

    prefix: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Ended:
    """Both ranks after a run.

    Attributes:
        status: Exit status a rank.
        said: Output a rank.
        seconds: From the start to the end of the second.
    """

    status: tuple[int, int]
    said: tuple[str, str]
    seconds: float


def write_rows(folder: Path) -> Path:
    """Writes two rows of the official schema."""
    buffer = io.BytesIO()
    Image.effect_mandelbrot((112, 84), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(buffer, "PNG")
    (folder / "picture.png").write_bytes(buffer.getvalue())
    rows = [
        {
            "prompt": [{"role": "user", "content": f"<image>What colour is flag {number}?"}],
            "images": [str(folder / "picture.png")],
            "data_source": "vstar",
            "env_name": "visual_toolbox_v2",
            "reward_model": {"ground_truth": REFERENCE, "style": "model"},
            "extra_info": {"question": "What colour is the flag?", "index": str(number), "answer": REFERENCE},
        }
        for number in range(8)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@contextlib.contextmanager
def judge(place: Place, port: int, log: Path, cut: str = "") -> Iterator[None]:
    """Serves as the judge of both ranks."""
    command = [*place.prefix, sys.executable, HERE / "judge_program.py", place.address, str(port), log]
    process = subprocess.Popen([*command, cut] if cut else command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process with all that it started: torchrun gives each rank a session of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def train(
    folder: Path, model: Path, places: Sequence[Place], judge_url: str, *options: object, **settings: object
) -> Ended:
    """Runs `deepeyes.sh train` on two nodes of one process each, and waits until both have ended."""
    port, start = free_port(), time.monotonic()
    (folder / "hashes").mkdir(exist_ok=True)
    shared = {
        "LAYOUT": "cpu",
        "NNODES": 2,
        "MASTER_ADDR": places[0].address,
        "MASTER_PORT": port,
        "MODEL": model,
        "DATASET": folder / "rows.jsonl",
        "OUTPUT_DIR": folder / "output",
        "PROMPTS_PER_STEP": 1,
        "NUM_GENERATIONS": 4,
        "PER_DEVICE_BATCH": 2,
        "MAX_TURNS": 2,
        "MAX_COMPLETION_LENGTH": 8,
        "LEARNING_RATE": "1e-3",
        "DOCTOR": "false",
        "REPORT_TO": "none",
        "DEEPEYES_JUDGE": "server",
        "DEEPEYES_JUDGE_TIMEOUT": 2,
        "DEEPEYES_JUDGE_PATIENCE": PATIENCE,
        "DEEPEYES_TRACE_DIR": folder / "traces",
        "PLAYED": json.dumps(PLAYED),
        "HASHES": folder / "hashes",
        "OMP_NUM_THREADS": 1,
        **settings,
    }
    plugins = ("--external_plugins", ROOT / "deepeyes_plugin.py", HERE / "played.py")
    words = ["bash", ROOT / "deepeyes.sh", "train", *KIND, "--check_model", "false", *plugins, "--save_steps", 1]
    words += ["--dataset_num_proc", 1, "--dataloader_num_workers", 0, "--dataset_shuffle", "false", *options]
    processes = []
    for rank, place in enumerate(places):
        own = {
            **shared,
            **dict(place.settings),
            "NODE_RANK": rank,
            "DEEPEYES_JUDGE_URLS": judge_url.format(rank=rank, net=rank + 1),
        }
        log = (folder / f"rank{rank}.log").open("w")
        command = [*place.prefix, *map(str, words)]
        env = environment(**own)
        processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env))
    try:
        for process in processes:
            process.wait(max(1.0, start + END_SECONDS - time.monotonic()))
    finally:
        for process in processes:
            end(process)
    said = tuple((folder / f"rank{rank}.log").read_text(errors="replace") for rank in range(2))
    status = tuple(process.returncode for process in processes)
    return Ended((status[0], status[1]), (said[0], said[1]), time.monotonic() - start)


@dataclass(frozen=True)
class Story:
    """A run that the judge's end stops, and the one that goes on.

    Attributes:
        folder: What they wrote.
        asked: Rank and answer of each question, before the second run.
        stopped: How the first ended.
        resumed: How the second ended.
    """

    folder: Path
    asked: list[list[str]]
    stopped: Ended
    resumed: Ended

    def lines(self, pattern: str) -> list[dict[str, Any]]:
        """Reads JSON lines of the first run."""
        files = sorted(self.folder.glob(pattern))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@dataclass(frozen=True)
class Cable:
    """How the judge loses the host of rank 1.

    Attributes:
        cut: The command that does it; empty: the judge hangs up on it.
        mend: Undoes it.
    """

    cut: str = ""
    mend: Callable[[], None] = lambda: None


def tell(folder: Path, model: Path, places: Sequence[Place], judge_place: Place, cable: Cable) -> Story:
    """Trains one step, loses the judge of rank 1 in the second, and goes on with a judge."""
    write_rows(folder)
    port, log = free_port(), folder / "asked.jsonl"
    url = f"http://{judge_place.address}:{port}/rank{{rank}}/v1"
    serving = Place(judge_place.prefix, "0.0.0.0")  # noqa: S104 - a test's own network
    with judge(serving, port, log, cable.cut):
        stopped = train(folder, model, places, url, "--max_steps", 3)
    asked = [json.loads(line) for line in log.read_text().splitlines()]
    cable.mend()
    (checkpoint,) = folder.glob("output/*/checkpoint-1")
    played = json.dumps([["crimson"], ["scarlet"]])
    with judge(serving, port, folder / "asked-later.jsonl"):
        options = ("--max_steps", 2, "--resume_from_checkpoint", checkpoint)
        later = {"OUTPUT_DIR": folder / "resumed", "PLAYED": played, "DEEPEYES_TRACE_DIR": ""}
        resumed = train(folder, model, places, url, *options, **later)
    return Story(folder, asked, stopped, resumed)
