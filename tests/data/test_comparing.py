"""Rows that repeat or contradict others, and pictures that a benchmark holds."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from row_maker import make_row, save

from deepeyes.data.cli import main
from deepeyes.data.comparing import MAX_BITS
from deepeyes.dataset.pictures import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def scene(seed: int) -> Image.Image:
    """A picture with areas and shapes of many sizes, as photographs have them."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    picture = coarse.resize((640, 480), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(30):
        x, y, side = (int(chance.integers(low, high)) for low, high in ((0, 600), (0, 440), (5, 90)))
        draw.rectangle((x, y, x + side, y + side), fill=tuple(int(part) for part in chance.integers(0, 256, 3)))
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def bits(one: Image.Image, other: Image.Image) -> int:
    hashes = [np.frombuffer(fingerprint_of(picture), np.uint8) for picture in (one, other)]
    return int(np.unpackbits(hashes[0] ^ hashes[1]).sum())


def found_in(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    main([*map(str, arguments), "--json", "--workers", "1"])
    files: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["files"]
    return files


def row_of(picture: Image.Image, number: int = 0, **changes: Any) -> dict[str, Any]:
    return make_row(number, images=[{"bytes": encoded(picture), "path": None}], **changes)


class TestRepeats:
    def row(self, question: str, reference: str, seed: int = 1) -> dict[str, Any]:
        extra = {"question": question, "answer": "", "index": "", "split": ""}
        return row_of(scene(seed), extra_info=extra, reward_model={"ground_truth": reference, "style": ""})

    def notes(self, capsys: pytest.CaptureFixture[str], path: Path, word: str) -> list[list[int]]:
        return [
            [row for text, rows in file["notes"].items() if word in text for row in rows]
            for file in found_in(capsys, *sorted(path.glob("*.parquet")))
        ]

    def test_exact_repeats_are_told_from_the_second_on_and_over_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(tmp_path / "a.parquet", [self.row("q", "red"), self.row("p", "red"), self.row("q", " Red.")])
        save(tmp_path / "b.parquet", [self.row("q", "red", 2), self.row("q", "red")])
        assert self.notes(capsys, tmp_path, "of an earlier row") == [[2], [1]]
        assert self.notes(capsys, tmp_path, "another reference") == [[], []]

    def test_contradictions_are_told_of_every_side(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save(tmp_path / "a.parquet", [self.row("q", "red"), self.row("q", "blue", 2), self.row("p", "blue")])
        save(tmp_path / "b.parquet", [self.row("q", "blue")])
        assert self.notes(capsys, tmp_path, "another reference") == [[0], [0]]
        assert self.notes(capsys, tmp_path, "of an earlier row") == [[], []]


SHAPES: dict[str, Callable[[Path, Image.Image], Path]] = {}


def shape(make: Callable[[Path, Image.Image], Path]) -> Callable[[Path, Image.Image], Path]:
    SHAPES[make.__name__] = make
    return make


@shape
def folder(directory: Path, picture: Image.Image) -> Path:
    (directory / "direct_attributes").mkdir(parents=True)
    (directory / "direct_attributes" / "sa_1.jpg").write_bytes(encoded(picture, "JPEG"))
    (directory / "direct_attributes" / "sa_1.json").write_text(json.dumps({"question": "What?"}, indent=2))
    return directory


@shape
def tsv(directory: Path, picture: Image.Image) -> Path:
    path = directory.with_suffix(".tsv")
    text = base64.b64encode(encoded(picture, "JPEG")).decode()
    path.write_text(f"index\tquestion\timage\n0\tWhat?\t{text}\n1\tWhat?\t0\n", encoding="utf-8")
    return path


@shape
def table_of_texts(directory: Path, picture: Image.Image) -> Path:
    path = directory.with_suffix(".parquet")
    pq.write_table(pa.table({"image": [base64.b64encode(encoded(picture, "JPEG")).decode()]}), path)
    return path


@shape
def table_of_rows(directory: Path, picture: Image.Image) -> Path:
    return save(directory.with_suffix(".parquet"), [row_of(picture)])


class TestAgainst:
    @pytest.mark.parametrize("name", SHAPES)
    def test_picture_of_a_benchmark_is_dropped_though_it_was_scaled_and_encoded_anew(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        benchmark = SHAPES[name](tmp_path / "bench", scene(3).resize((1280, 960)))
        path = save(tmp_path / "rows.parquet", [row_of(scene(seed), seed) for seed in range(6)])
        (file,) = found_in(capsys, path, "--against", benchmark)
        assert file["problems"] == {f"{benchmark.name} holds this picture (--against)": [3]}
        assert main([str(path), "--against", str(benchmark), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        assert pq.read_table(tmp_path / "out" / "rows.parquet").num_rows == 5

    def test_second_picture_of_a_row_counts_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        benchmark = folder(tmp_path / "bench", scene(3))
        images = [{"bytes": encoded(scene(seed)), "path": None} for seed in (1, 3)]
        path = save(tmp_path / "rows.parquet", [row_of(scene(2)), make_row(1, images=images)])
        (file,) = found_in(capsys, path, "--against", benchmark)
        assert list(file["problems"].values()) == [[1]]

    def test_place_without_a_picture_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = save(tmp_path / "rows.parquet", [make_row()])
        (tmp_path / "empty").mkdir()
        for place, told in ((tmp_path / "empty", "holds no picture"), (tmp_path / "gone", "no such file or folder")):
            assert main([str(path), "--against", str(place), "--workers", "1"]) == 2
            assert told in capsys.readouterr().err

    @pytest.mark.parametrize("seed", range(20))
    def test_threshold_lies_between_the_same_picture_and_another(self, seed: int) -> None:
        picture = scene(seed)
        small = Image.open(io.BytesIO(encoded(picture.resize((320, 240)), "JPEG", quality=50)))
        assert bits(picture, small) <= MAX_BITS
        assert bits(picture, scene(seed + 100)) > 2 * MAX_BITS
