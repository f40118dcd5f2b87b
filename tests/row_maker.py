"""Rows in the official schema, good and bad, the files that hold them, and the check of them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from deepeyes.data.cli import main
from deepeyes.dataset.official import OFFICIAL, SCHEMA

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parent.parent
VSTAR, CHART, THINKLITE = OFFICIAL
TOOLS = (
    '<tools>\n{"function":{"name":"image_zoom_in_tool","parameters":{"properties":{"bbox_2d":{}},'
    '"required":["bbox"]}}}\n</tools>'
)


def picture(seed: int, size: tuple[int, int] = (60, 40), kind: str = "PNG") -> bytes:
    image = Image.new("RGB", size, (seed * 37 % 256, seed * 59 % 256, 90))
    ImageDraw.Draw(image).line((0, 0, seed % 40, 39), fill="white")
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


BASE64_AS_BYTES = {"bytes": base64.b64encode(picture(1)).decode(), "path": None}


def make_row(number: int = 0, source: str = "vstar", **changes: Any) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [
            {"content": f"You are a helpful assistant.\n{TOOLS}", "role": "system"},
            {"content": f"<image>\nWhat is shown in {number}?\nThink first. <answer>...</answer>", "role": "user"},
        ],
        "images": [{"bytes": picture(number), "path": f"{number}.png"}],
        "ability": "vl_chart",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": f"a line, {number}", "style": "model"},
        "extra_info": {
            "answer": f"a line, {number}",
            "index": str(number),
            "question": f"What is shown in {number}?",
            "split": "train",
        },
        **changes,
    }


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def with_alpha(image: bytes, alpha: int) -> bytes:
    """Returns the picture as PNG with a fourth channel."""
    buffer, opened = io.BytesIO(), Image.open(io.BytesIO(image))
    opened.putalpha(alpha)
    opened.save(buffer, "PNG")
    return buffer.getvalue()


def save(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = SCHEMA) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def save_any(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Saves rows as they are, even where a column holds texts and lists: as JSON, with the images in files."""
    for number, row in enumerate(rows):
        for place, image in enumerate(row["images"] or []):
            if image == BASE64_AS_BYTES or isinstance(image, str):
                continue
            if image.get("bytes"):
                file = path.parent / f"{number}-{place}.bin"
                file.write_bytes(image["bytes"])
                row["images"][place] = str(file)
            else:
                row["images"][place] = image["path"]
    return save(path.with_suffix(".jsonl"), rows)


def three_files(directory: Path, rows: int = 12) -> list[Path]:
    """Makes the three official files with types that differ where pandas would make them differ."""
    number, nothing = pa.int64(), pa.null()
    changed = SCHEMA.set(
        6,
        pa.field(
            "extra_info",
            pa.struct({"split": pa.string(), "index": number, "question": pa.string(), "answer": pa.string()}),
        ),
    )
    chart = save(
        directory / CHART,
        [
            {**row, "extra_info": {**row["extra_info"], "index": 100 + n}}
            for n, row in enumerate(make_rows(rows, "chart"))
        ],
        changed,
    )
    images = pa.list_(pa.struct({"bytes": pa.large_binary(), "path": nothing}))
    bare = SCHEMA.set(2, pa.field("images", images)).set(4, pa.field("env_name", nothing))
    features = {"info": {"features": {"images": {"feature": {"_type": "Image"}, "_type": "List"}}}}
    thinklite = save(
        directory / THINKLITE,
        [
            {**row, "env_name": None, "images": [{"bytes": row["images"][0]["bytes"]}], "prompt": user("<image>q")}
            for row in make_rows(rows, "thinklite_eureka")
        ],
        bare.with_metadata({"huggingface": json.dumps(features)}),
    )
    return [save(directory / VSTAR, make_rows(rows, "vstar")), chart, thinklite]


def make_rows(count: int, source: str) -> list[dict[str, Any]]:
    """Makes rows of which every third shares the image of another file's row."""
    start = {"vstar": 0, "chart": 100, "thinklite_eureka": 200}[source]
    rows = [make_row(start + n, source) for n in range(count)]
    for n in range(0, count, 3):
        rows[n]["images"] = [{"bytes": picture(n, kind="PNG" if start else "BMP"), "path": "shared"}]
    return rows


def images_in(*paths: Path) -> list[str]:
    """Hashes of the image bytes of all rows, in order of the hash."""
    return sorted(
        hashlib.sha256(row["images"][0]["bytes"]).hexdigest()
        for path in paths
        for row in pq.read_table(path).to_pylist()
    )


def run_program(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deepeyes.data", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=240,
        check=False,
    )


def findings(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Runs the check in this process and returns the findings of its one file."""
    main([*map(str, arguments), "--json", "--workers", "1"])
    (file,) = json.loads(capsys.readouterr().out)["files"]
    found: dict[str, Any] = file
    return found
