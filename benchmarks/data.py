"""The data check against `datasets.load_dataset` with decoding: rows a second and peak memory, on the same file.

    python benchmarks/data.py --size 2        # gigabytes; the file is made in a temporary folder and deleted

Both decode every image of a file in the official schema: JPEGs of one megapixel, all different. `load_dataset` copies
the file into its cache first, which is part of its price. Each runs in a process of its own; the peak is the sum over
that process and its children.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NAME = "generated.parquet"
GROUP = 200  # rows a row group
LOAD = """
import sys
from datasets import Image, Sequence, load_dataset

def main():
    rows = load_dataset("parquet", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
    rows = rows.cast_column("images", Sequence(Image()))
    for row in rows:
        row["images"][0].load()

main()
"""


class Cost(NamedTuple):
    """What a run took: by the clock, of all processors together, and at the most."""

    seconds: float
    processor: float
    megabytes: float


def make_file(path: Path, gigabytes: float) -> int:
    """Writes a file of about `gigabytes` and returns its rows."""
    sys.path.insert(0, str(ROOT))
    from deepeyes.dataset.official import SCHEMA  # noqa: PLC0415 - the line above puts it on the path

    chance = random.Random(0)  # noqa: S311 - pixels of a test picture
    small = Image.frombytes("RGB", (96, 96), chance.randbytes(96 * 96 * 3))
    base = small.resize((1152, 896), Image.Resampling.BICUBIC)
    written = rows = 0
    with pq.ParquetWriter(path, SCHEMA, compression="NONE", use_dictionary=False) as writer:
        while written < gigabytes * 1e9:
            batch = []
            for _ in range(GROUP):
                buffer, patch = io.BytesIO(), Image.frombytes("RGB", (16, 16), chance.randbytes(16 * 16 * 3))
                base.paste(patch.resize((160, 160)), (16 * (rows % 60), 16 * (rows % 45)))
                base.save(buffer, "JPEG", quality=92)
                question = f"What is in picture {rows}?"
                batch.append(
                    {
                        "data_source": "vstar",
                        "prompt": [{"role": "user", "content": f"<image>\n{question}"}],
                        "images": [{"bytes": buffer.getvalue(), "path": f"{rows}.jpg"}],
                        "env_name": "",
                        "reward_model": {"ground_truth": "noise", "style": "model"},
                        "extra_info": {"index": str(rows), "question": question, "answer": "noise", "split": "train"},
                    }
                )
                written += len(buffer.getvalue())
                rows += 1
            writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
    return rows


def measure(command: list[str]) -> Cost:
    """Runs a command and watches the memory of it and its children."""
    start, before, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, memory(psutil.Process(child.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = child.wait()
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f"{command[:3]} ended with status {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, processor, peak / 1e6)


def memory(process: psutil.Process) -> int:
    """Returns the bytes that a process and its children have to themselves (file pages that Linux can drop are out)."""
    try:
        return sum(one.memory_full_info().uss for one in [process, *process.children(recursive=True)])
    except psutil.Error:  # one has ended meanwhile
        return 0


def main() -> None:
    """Makes the file, runs both, prints a table with the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=float, default=0.2, help="gigabytes (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, NAME)
        rows = make_file(path, options.size)
        groups = pq.ParquetFile(path).num_row_groups
        print(f"{rows:,} rows, {path.stat().st_size / 1e9:.2f} GB, {groups} row groups, {os.cpu_count()} cores\n")
        costs = {
            "deepeyes.sh data": measure([sys.executable, "-m", "deepeyes.data", str(path)]),
            "load_dataset": measure([sys.executable, "-c", LOAD, str(path), str(Path(directory, "cache"))]),
        }
    print(f"{'':18}{'seconds':>9}{'rows/s':>9}{'CPU s':>9}{'peak MB':>9}")
    for name, cost in costs.items():
        print(f"{name:18}{cost.seconds:9.1f}{rows / cost.seconds:9.0f}{cost.processor:9.1f}{cost.megabytes:9.0f}")
    ours, theirs = costs.values()
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    print(f"{'ratio':18}{'':9}{ratios[0]:8.1f}x{ratios[1]:8.1f}x{ratios[2]:8.1f}x")


if __name__ == "__main__":
    main()
