"""The data check: every kind of bad row is found, and what `--out` writes loads with swift and loses nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from deepeyes.data import check as data

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(data.__file__)
REAL_ROWS = PROGRAM.parent.parent.parent / "shared" / "data" / "vstar_sample.parquet"
VSTAR, CHART, THINKLITE = data.OFFICIAL
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


def save(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = data.SCHEMA) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def images_in(*paths: Path) -> list[str]:
    """Hashes of the image bytes of all rows, in order of the hash."""
    return sorted(
        hashlib.sha256(row["images"][0]["bytes"]).hexdigest()
        for path in paths
        for row in pq.read_table(path).to_pylist()
    )


def run_program(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
        check=False,
    )


def findings(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Runs the check in this process and returns the findings of its one file."""
    data.main([*map(str, arguments), "--json", "--workers", "1"])
    (file,) = json.loads(capsys.readouterr().out)["files"]
    found: dict[str, Any] = file
    return found


BASE64_AS_BYTES = {"bytes": base64.b64encode(picture(1)).decode(), "path": None}
BAD_ROWS = {
    "no messages": ({"prompt": None}, r"no list of messages"),
    "content in parts": ({"prompt": [{"role": "user", "content": [{"type": "text"}]}]}, r"no list of messages"),
    "ends with assistant": (
        {"prompt": [*user("<image>\nq"), {"role": "assistant", "content": "a"}]},
        r"the roles are 'user assistant'",
    ),
    "unknown role": ({"prompt": [{"role": "human", "content": "<image>"}]}, r"the roles are 'human'"),
    "no tag": ({"prompt": user("What is it?")}, r"`<image>` stands nowhere; expected once"),
    "two tags": ({"prompt": user("<image><image> What?")}, r"`<image>` stands 2 in user turns"),
    "tag in system": (
        {"prompt": [{"role": "system", "content": "<image>"}, *user("What?")]},
        r"`<image>` stands 1 in system turns",
    ),
    "no image": ({"images": []}, r"images holds 0 images"),
    "two images": ({"images": [{"bytes": picture(1)}, {"bytes": picture(2)}]}, r"images holds 2 images"),
    "empty image": ({"images": [{"bytes": b"", "path": None}]}, r"neither bytes nor a path"),
    "not an image": ({"images": [{"bytes": b"GIF89a?", "path": None}]}, r"does not decode"),
    "image in base64 as bytes": ({"images": [BASE64_AS_BYTES]}, r"base64 stands where a path would"),
    "no base64": ({"images": ["a" * 5001]}, r"not in ROOT_IMAGE_DIR .*: 'a{70,80}$"),
    "long name": ({"images": ["a." * 200]}, r"not in ROOT_IMAGE_DIR .*: '(a\.){35,40}a?$"),
    "long source": ({"data_source": "s" * 5000}, r"'s{80}\.\.\.' is not known"),
    "integer of 65 bits": ({"level": 2**64}, r"parquet can't hold .*too large"),
    "list of two types": ({"level": [1, "a"]}, r"parquet can't hold .*'a'"),
    "half a character": ({"level": "\ud800"}, r"parquet can't hold .*surrogates"),
    "nested deeply": ({"level": json.loads("[" * 40 + "]" * 40)}, r"no JSON object of 32 levels or fewer"),
    "cut image": ({"images": [{"bytes": picture(3, (300, 300), "JPEG")[:-900], "path": None}]}, r"does not decode"),
    "image file missing": ({"images": [{"bytes": None, "path": "no/such.png"}]}, r"not in ROOT_IMAGE_DIR \(not set\)"),
    "image address": ({"images": [{"bytes": None, "path": "https://example.com/a.png"}]}, r"a file on this machine"),
    "a thread of an image": ({"images": [{"bytes": picture(4, (4020, 20)), "path": None}]}, r"more than 200 times"),
    "unknown source": ({"data_source": "geo"}, r"'geo' is not known.*DEEPEYES_SOURCES=geo=visual"),
    "no source": ({"data_source": None}, r"data_source None is not known"),
    "empty reference": ({"reward_model": {"ground_truth": " "}}, r"reward_model.ground_truth is ' '"),
    "no reference": ({"reward_model": None}, r"reward_model.ground_truth is None"),
    "no question": ({"extra_info": {"index": "1"}}, r"extra_info.question is None"),
}


class TestRows:
    def test_all_kinds_of_bad_rows_are_found_among_good_ones(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
        cases = list(BAD_ROWS.items())
        changes: dict[str, Any]
        rows = [make_row(99)]
        for number, (_, (changes, _)) in enumerate(cases):
            rows += [make_row(number, **changes), make_row(100 + number)]
        found = findings(capsys, save_any(tmp_path / "rows.parquet", rows))
        assert found["rows"] == len(rows)
        for number, (name, (_, reason)) in enumerate(cases):
            reasons = [text for text, numbers in found["problems"].items() if 1 + 2 * number in numbers]
            assert len(reasons) == 1, name
            assert re.search(reason, reasons[0]), (name, reasons)
            assert len(reasons[0]) < 400, name
        assert {number for numbers in found["problems"].values() for number in numbers} == set(range(1, len(rows), 2))

    @pytest.mark.parametrize(
        "messages",
        [
            user("<image>\nWhat is it?"),
            user("What is it?\n<image>"),
            [
                {"role": "system", "content": "s"},
                *user("<image>q"),
                {"role": "assistant", "content": "a"},
                *user("why?"),
            ],
        ],
    )
    def test_sound_conversations_pass(self, messages: list[dict[str, str]]) -> None:
        assert data.message_problems(messages) == []

    @pytest.mark.parametrize("source", ["vstar", "chart", "thinklite_eureka"])
    def test_official_rows_pass(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
        found = findings(capsys, save(tmp_path / "a.parquet", [make_row(n, source) for n in range(3)]))
        assert (found["problems"], found["sources"], found["images"]) == ({}, {source: 3}, 3)

    def test_small_image_is_reported_and_kept(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [
            make_row(n, images=[{"bytes": picture(n, (side, 60)), "path": None}]) for n, side in enumerate((27, 28))
        ]
        found = findings(capsys, save(tmp_path / "a.parquet", rows))
        assert found["problems"] == {}
        assert [numbers for note, numbers in found["notes"].items() if "under 28" in note] == [[0]]

    def test_tool_that_the_prompt_hides_is_reported(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [make_row(0, prompt=user("<image>q")), make_row(1, prompt=user("<image>q"), env_name="")]
        found = findings(capsys, save(tmp_path / "a.parquet", rows))
        assert [numbers for note, numbers in found["notes"].items() if "env_name" in note] == [[0]]

    def test_pixels_that_are_equal_to_the_model_count_as_one_image(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images = [picture(5), picture(5, kind="BMP"), *(with_alpha(picture(5), alpha) for alpha in (255, 128))]
        rows = [make_row(n, images=[{"bytes": image, "path": None}]) for n, image in enumerate(images)]
        assert findings(capsys, save(tmp_path / "a.parquet", rows))["images"] == 1

    @given(st.text())
    def test_any_text_without_the_wrong_schema_is_left_alone(self, text: str) -> None:
        assert data.mend(text) == text

    def test_only_the_required_property_is_mended(self) -> None:
        assert data.mend(TOOLS) == TOOLS.replace('["bbox"]', '["bbox_2d"]')
        assert data.mend('"required":["bbox"]') == '"required":["bbox"]'  # where there is no bbox_2d, it may be right


def with_alpha(image: bytes, alpha: int) -> bytes:
    """Returns the picture as PNG with a fourth channel."""
    buffer, opened = io.BytesIO(), Image.open(io.BytesIO(image))
    opened.putalpha(alpha)
    opened.save(buffer, "PNG")
    return buffer.getvalue()


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


class TestFiles:
    def test_clean_file_ends_with_a_table_and_status_0(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [make_row(n) for n in range(40)]
        assert data.main([str(save(tmp_path / "a.parquet", rows))]) == 0
        out = capsys.readouterr().out
        assert re.search(r"a\.parquet +vstar +40 +40 +0 ", out)
        assert "40 rows (0-39): the tool schema requires `bbox`" in out
        assert "Rows to drop" not in out
        assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]

    def test_bad_rows_end_with_status_1_and_their_numbers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [make_row(n, source="vstar" if n in (0, 4) else "mine") for n in range(7)]
        assert data.main([str(save(tmp_path / "a.parquet", rows)), "--workers", "1"]) == 1
        assert "a.parquet, 5 rows (1-3, 5-6): data_source 'mine' is not known" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: path / "gone.parquet", r"gone\.parquet is no file"),
            (
                lambda path: save(path / "a.parquet", [{"images": [], "prompt": []}], None),
                "lacks the columns data_source",
            ),
            (lambda path: (path / "b.parquet", (path / "b.parquet").write_bytes(b"PAR1 not"))[0], "no whole parquet"),
            (lambda path: path, r"lacks data_0\.1\.2_visual.*--hub modelscope or huggingface"),
        ],
    )
    def test_what_is_no_data_ends_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, message: str
    ) -> None:
        assert data.main([str(make(tmp_path)), "--hub", "none"]) == 2
        captured = capsys.readouterr()
        assert re.search(message, captured.err)
        assert captured.err.count("\n") == 1

    def test_json_lines_with_a_broken_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = save_any(tmp_path / "a.jsonl", [make_row(n) for n in range(3)])
        path.write_text(path.read_text() + "{oops\n\n[1]\n" + "[" * 99_999 + "\n", encoding="utf-8")
        found = findings(capsys, path)
        assert (found["rows"], found["problems"]) == (
            6,
            {"the line is no JSON object of 32 levels or fewer": [3, 4, 5]},
        )

    def test_paths_are_found_as_swift_finds_them(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "1.png").write_bytes(picture(1))
        path = save(tmp_path / "a.jsonl", [make_row(1, images=["1.png"])])
        monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
        assert len(findings(capsys, path)["problems"]) == 1
        monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path / "pictures"))
        assert findings(capsys, path)["problems"] == {}

    def test_own_source_is_known_by_setting(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.parquet", [make_row(1, source="my_vqa")])
        done = run_program(path, DEEPEYES_SOURCES="my_vqa=visual")
        assert (done.returncode, done.stderr) == (0, "")
        assert run_program(path, DEEPEYES_SOURCES="my_vqa=vision").returncode == 2

    def test_large_row_group_is_read_in_bounded_memory(self, tmp_path: Path) -> None:
        image = picture(1, (500, 300), "BMP")  # 450 kB
        small, large = tmp_path / "small.parquet", tmp_path / "large.parquet"
        for path, rows in ((small, 20), (large, 250)):
            table = pa.Table.from_pylist([make_row(n, images=[{"bytes": image}]) for n in range(rows)], data.SCHEMA)
            pq.write_table(table, path, use_dictionary=False, compression="NONE", write_batch_size=16)
        assert pq.ParquetFile(large).num_row_groups == 1
        code = (
            "import resource, sys, data\n"
            "data.main([sys.argv[1], '--workers', '1'])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        peaks = [
            int(
                subprocess.run(
                    [
                        sys.executable,
                        "-c",
                        f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}",
                        path,
                    ],
                    capture_output=True,
                    text=True,
                    check=True,
                    env={**os.environ, "PYTHONPATH": str(PROGRAM.parent)},
                ).stdout.split()[-1]
            )
            for path in (small, large)
        ]
        assert large.stat().st_size > 110e6
        assert peaks[1] - peaks[0] < 60_000  # kB

    @pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
    def test_empty_file_is_a_finding(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
        assert data.main([str(save(tmp_path / name, [])), "--workers", "1"]) == 1
        assert f"{name}: own data; it holds no row" in capsys.readouterr().out

    def test_folder_with_own_data_alone_is_checked_without_a_download(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(tmp_path / "mine.parquet", [make_row()])
        assert data.main([str(tmp_path), "--workers", "1", "--hub", "none"]) == 0
        assert "holds own data, which is checked alone; name another folder for the official" in capsys.readouterr().err


class TestSnapshot:
    def test_another_file_under_an_official_name_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = save(tmp_path / VSTAR, [make_row(n) for n in range(2)])
        assert data.main([str(path), "--workers", "1"]) == 1
        assert "differs: 2 rows" in capsys.readouterr().out

    def test_published_file_is_recognised_by_size_hash_and_rows(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = save(tmp_path / VSTAR, [make_row(n) for n in range(2)])
        content = path.read_bytes()
        facts = data.Official(VSTAR, 2, len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(data.OFFICIAL, VSTAR, facts)
        assert findings(capsys, path)["snapshot"] == "as published"
        place = content.index(b"a line, 1") + 8
        path.write_bytes(content[:place] + b"7" + content[place + 1 :])
        assert findings(capsys, path)["snapshot"].startswith("differs: 2 rows")

    def test_official_files_are_the_47k_of_the_paper(self) -> None:
        assert sum(file.rows for file in data.OFFICIAL.values()) == 47_052
        assert [file.sha256[:8] for file in data.OFFICIAL.values()] == ["42992bf5", "96fc256e", "660cea5f"]


def three_files(directory: Path, rows: int = 12) -> list[Path]:
    """Makes the three official files with types that differ where pandas would make them differ."""
    number, nothing = pa.int64(), pa.null()
    changed = data.SCHEMA.set(
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
    bare = data.SCHEMA.set(2, pa.field("images", images)).set(4, pa.field("env_name", nothing))
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


class TestOut:
    @pytest.mark.slow  # swift alone takes half a minute to import on two cores
    def test_files_load_together_with_swift_and_lose_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from swift.dataset import load_dataset  # noqa: PLC0415 - takes long

        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        sources = three_files(tmp_path)
        columns = {"prompt": "messages"}
        with pytest.raises(ValueError, match="features can't be aligned"):
            load_dataset([str(path) for path in sources], columns=columns, remove_unused_columns=False)

        assert data.main([*map(str, sources), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        written = [tmp_path / "out" / path.name for path in sources]
        loaded, _ = load_dataset([str(path) for path in written], columns=columns, remove_unused_columns=False)
        assert len(loaded) == 36
        assert images_in(*written) == images_in(*sources)
        assert sorted(hashlib.sha256(row["images"][0]["bytes"]).hexdigest() for row in loaded) == images_in(*sources)
        assert {row["extra_info"]["index"] for row in loaded} >= {"0", "100", "200"}
        assert {row["data_source"] for row in loaded} == {"vstar", "chart", "thinklite_eureka"}
        assert {row["messages"][-1]["role"] for row in loaded} == {"user"}

    def test_rows_are_as_they_were_but_for_the_schema_of_the_tool(self, tmp_path: Path) -> None:
        sources = three_files(tmp_path)
        assert data.main([str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        for source in sources:
            before, after = pq.read_table(source).to_pylist(), pq.read_table(tmp_path / "out" / source.name).to_pylist()
            for row in before:
                row["prompt"][0]["content"] = row["prompt"][0]["content"].replace('["bbox"]', '["bbox_2d"]')
                row["extra_info"]["index"] = str(row["extra_info"]["index"])
            assert after == before

    def test_bad_rows_are_left_out_and_prepared_files_are_recognised(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [make_row(n, source="vstar" if n else "what") for n in range(4)]
        assert data.main([str(save(tmp_path / VSTAR, rows)), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        assert f"{VSTAR}: 3 rows" in capsys.readouterr().out
        assert data.main([str(tmp_path / "out"), "--hub", "none", "--workers", "1"]) == 0
        out = capsys.readouterr().out
        assert "written by --out" in out
        assert "Remarks" not in out

    def test_own_json_lines_become_a_file_of_their_own_kind(self, tmp_path: Path) -> None:
        rows = [make_row(n, level=n or "easy", more={"a": [1.5]}) for n in range(3)]
        for row in rows:
            row["messages"] = row.pop("prompt")
        path = save_any(tmp_path / "mine.jsonl", rows)
        assert data.main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        written = pq.read_table(tmp_path / "out" / "mine.parquet").to_pylist()
        assert [row["level"] for row in written] == ["easy", "1", "2"]
        assert [row["more"] for row in written] == [{"a": [1.5]}] * 3
        assert [row["images"][0]["bytes"] for row in written] == [picture(n) for n in range(3)]

    def test_nothing_is_overwritten(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = save(tmp_path / "a.parquet", [make_row()])
        before = path.read_bytes()
        assert data.main([str(path), "--out", str(tmp_path), "--workers", "1"]) == 2
        assert "already has a.parquet; name a new folder" in capsys.readouterr().err
        assert path.read_bytes() == before

    def test_failure_half_way_leaves_nothing_behind(self, tmp_path: Path) -> None:
        path = save_any(tmp_path / "a.jsonl", [make_row(n) for n in range(3)])
        with data.make_pool(1) as pool:
            report = data.check_file(path, pool, 1, str)
        (tmp_path / "2-0.bin").unlink()
        with pytest.raises(data.DataFileError, match="the image file is not in"):
            data.write([report], tmp_path / "out", 0, 0)
        assert list((tmp_path / "out").iterdir()) == []

    def test_types_that_do_not_go_together_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        files = [save(tmp_path / f"{n}.parquet", [make_row(extra=extra)], None) for n, extra in enumerate(("a", ["a"]))]
        assert data.main([*map(str, files), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert f"{files[1]}: column extra is list<element: string> here and string before" in capsys.readouterr().err

    def test_type_of_a_bad_row_is_passed_over_and_that_of_a_good_one_named_with_its_row(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def rows(third: Any) -> list[dict[str, Any]]:
            return [make_row(n, level=third if n == 2 else "easy") for n in range(3)]

        bad = [{**row, "extra_info": ["no object"]} if n == 2 else row for n, row in enumerate(rows(["a"]))]
        path = save_any(tmp_path / "bad.jsonl", bad)
        assert data.main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        assert pq.read_table(tmp_path / "out" / "bad.parquet").num_rows == 2
        path = save_any(tmp_path / "mixed.jsonl", rows(["a"]))
        assert data.main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert f"{path}, row 2: column level is list<item: string> here and string before" in capsys.readouterr().err

    def test_type_that_parquet_lacks_ends_with_one_line_and_leaves_nothing_behind(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = save_any(tmp_path / "a.jsonl", [make_row(meta={})])
        assert data.main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert re.match(r"data: a column can't be written as parquet: .*'meta'.*\n$", capsys.readouterr().err)
        assert list((tmp_path / "out").iterdir()) == []

    def test_base64_is_read_as_swift_reads_it_and_written_as_bytes(self, tmp_path: Path) -> None:
        images = [picture(1), picture(2, (300, 300), "BMP")]
        texts = [base64.b64encode(image).decode() for image in images]
        entries = [*texts, f"data:image/png;base64,{texts[0]}", {"bytes": None, "path": texts[0]}, f" {texts[0]}\n"]
        path = save(tmp_path / "a.jsonl", [make_row(n, images=[entry]) for n, entry in enumerate(entries)])
        assert data.main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        written = pq.read_table(tmp_path / "out" / "a.parquet").to_pylist()
        expected = [images[0], images[1], images[0], images[0], images[0]]
        assert [row["images"] for row in written] == [[{"bytes": image, "path": None}] for image in expected]

    @pytest.mark.parametrize(
        ("rows", "holdout", "message"),
        [
            ([make_row(n, source="what") for n in range(3)], 0, "there is no good row to write in"),
            ([], 0, "there is no good row to write in"),
            ([make_row(n) for n in range(6)], 100, "leaves no row to train on .* fewer than the 6 good rows"),
            (
                [make_row(n, images=[{"bytes": picture(1)}]) for n in range(6)],
                2,
                "finds no row: those that share an image stay together, and are more",
            ),
        ],
        ids=["all bad", "empty", "all held out", "one image"],
    )
    def test_file_that_would_be_empty_is_refused_and_nothing_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], holdout: int, message: str
    ) -> None:
        path = save(tmp_path / "a.parquet", rows)
        arguments = ["--out", str(tmp_path / "out"), "--holdout", str(holdout), "--workers", "1"]
        assert data.main([str(path), *arguments]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "out").exists()


EXTRA = {"answer": "a", "index": "1", "question": "q", "split": "train"}
LARGE = pa.large_list(pa.string())
# The rows of two files or three, what they are written as, and what is told of them.
JOINED: dict[str, tuple[list[list[dict[str, Any]]], str | None]] = {
    "equal": ([[{}], [{}]], None),
    "numbers and texts": (
        [[{}], [{"extra_info": {**EXTRA, "index": 1}}]],
        "extra_info.index is string in .*0.parquet and int64 in .*1.parquet",
    ),
    "fields in another order": ([[{}], [{"extra_info": dict(reversed(EXTRA.items()))}]], None),
    "one field more": ([[{}], [{"extra_info": {**EXTRA, "level": 1}}]], None),
    "one column more": ([[{}], [{"level": 1}]], None),
    "integers and floats": ([[{"level": 1}], [{"level": 1.5}]], "level is int64 .* double"),
    "nothing, then texts": ([[{"level": None}], [{"level": "a"}], [{"level": None}]], None),
    "nothing, texts, numbers": ([[{"level": None}], [{"level": "a"}], [{"level": 1}]], "level is string .* int64"),
    "nothing, then a struct": ([[{"level": None}], [{"level": {"a": 1}}]], "level is null .* struct"),
    "a struct, then nothing": ([[{"level": {"a": 1}}], [{"level": None}]], None),
    "no element, then texts": ([[{"level": []}], [{"level": ["a"]}]], None),
    "elements with another field": (
        [[{"level": [{"a": 1}]}], [{"level": [{"a": 1, "b": 1}]}]],
        "level is list<struct<a",
    ),
    "elements in another order": ([[{"level": [{"b": 1, "a": 1}]}], [{"level": [{"a": 1, "b": 1}]}]], None),
    "large lists": (
        [[{"level": ["a"]}], [{"level": ["a"], "type": LARGE}]],
        "level is list<string> .* large_list<string>",
    ),
    "large texts": ([[{"level": "a"}], [{"level": "a", "type": pa.large_string()}]], "level is string .* large_string"),
    "dictionaries": ([[{"level": "a"}], [{"level": "a", "type": pa.dictionary(pa.int32(), pa.string())}]], None),
    "lines": ([[{}], [{"jsonl": True}]], None),
    "lines with a date": ([[{}], [{"jsonl": True, "ability": "2020-01-01"}]], "ability is string .* timestamp"),
    "lines of two types": (
        [[{}], [{"jsonl": True}, {"extra_info": {**EXTRA, "index": 1}}]],
        "extra_info.index is string .* several types",
    ),
}


class TestConflict:
    @pytest.mark.parametrize("name", JOINED)
    def test_files_are_refused_that_datasets_refuses(self, tmp_path: Path, name: str) -> None:
        contents, message = JOINED[name]
        paths = []
        for number, changes in enumerate(contents):
            kind, lines = changes[0].pop("type", None), changes[0].pop("jsonl", False)
            rows = [{**make_row(), "extra_info": EXTRA, "images": ["a.png"], **change} for change in changes]
            plain = pa.Table.from_pylist(rows).schema if not lines else None
            schema = plain.set(plain.get_field_index("level"), pa.field("level", kind)) if plain and kind else plain
            paths.append(save(tmp_path / (f"{number}.jsonl" if lines else f"{number}.parquet"), rows, schema))
        loaded = [
            datasets.load_dataset(
                "json" if path.suffix == ".jsonl" else "parquet",
                data_files=str(path),
                split="train",
                cache_dir=str(tmp_path / "cache"),
            ).remove_columns(["prompt", "images"])
            for path in paths
        ]
        found = data.schema_conflict(paths)
        if message is None:
            assert found is None
            assert len(datasets.concatenate_datasets(loaded)) == len(paths)
        else:
            assert found
            assert re.search(message, found)
            with pytest.raises((ValueError, AttributeError)):  # for a column that was null before: no attribute items
                datasets.concatenate_datasets(loaded)

    def test_check_ends_with_the_command_that_mends_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = three_files(tmp_path)
        own = [path.rename(tmp_path / f"own {number}.parquet") for number, path in enumerate(paths)]
        assert data.main([*map(str, own), "--workers", "1"]) == 1
        out = capsys.readouterr().out
        assert "extra_info.index is string in " in out
        command = shlex.split(out.splitlines()[-1].partition("Write them alike: ")[2])
        assert command[:3] == ["bash", "deepeyes.sh", "data"]
        assert data.main([*command[3:-1], str(tmp_path / "out"), "--workers", "1"]) == 0
        assert data.schema_conflict(sorted((tmp_path / "out").iterdir())) is None

    def test_one_file_or_one_that_is_no_table_conflicts_with_nothing(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.parquet", [make_row()])
        broken = [tmp_path / "b.parquet", tmp_path / "c.jsonl", tmp_path / "gone.parquet"]
        for file in broken[:2]:
            file.write_text("{oops\n")
        assert data.schema_conflict([path]) is None
        assert data.schema_conflict([path, *broken]) is None


class TestHoldout:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_no_image_is_on_both_sides(self, tmp_path: Path, seed: int) -> None:
        sources = three_files(tmp_path, rows=30)
        out = tmp_path / "out"
        arguments = ["--out", str(out), "--holdout", "12", "--seed", str(seed), "--workers", "1"]
        assert data.main([*map(str, sources), *arguments]) == 1  # these official files are not the published ones
        held, kept = pq.read_table(out / data.HOLDOUT_NAME).to_pylist(), []
        for source in sources:
            kept += pq.read_table(out / source.name).to_pylist()
        assert (len(held), len(kept)) == (12, 78)
        pixels = [{Image.open(io.BytesIO(r["images"][0]["bytes"])).tobytes() for r in side} for side in (held, kept)]
        assert not pixels[0] & pixels[1]
        assert {row["data_source"] for row in held} == {"vstar", "chart", "thinklite_eureka"}
        assert images_in(*sources) == sorted(
            images_in(out / data.HOLDOUT_NAME) + images_in(*(out / s.name for s in sources))
        )

    def test_choice_depends_on_the_seed_alone(self) -> None:
        def report(digests: list[int]) -> data.FileReport:
            return data.FileReport(Path("a"), rows=len(digests), digests=[b"%d" % digest for digest in digests])

        one, again, other = (data.split([report(list(range(100)))], 10, seed) for seed in (0, 0, 1))
        assert one == again != other
        turned = data.split([report(list(range(99, -1, -1)))], 10, 0)
        assert {99 - row for _, row in turned} == {row for _, row in one}

    @given(st.lists(st.lists(st.integers(0, 9), max_size=30), min_size=1, max_size=3), st.integers(0, 40))
    def test_groups_stay_whole_and_the_count_is_no_more_than_asked(self, files: list[list[int]], count: int) -> None:
        reports = [data.FileReport(Path("a"), rows=len(file), digests=[b"%d" % d for d in file]) for file in files]
        chosen = data.split(reports, count, 0)
        inside = {files[file][row] for file, row in chosen}
        assert len(chosen) == sum(digest in inside for file in files for digest in file) <= count


class FakeHub(BaseHTTPRequestHandler):
    """Answers what the two clients ask for; the first transfer of the file breaks off half way."""

    protocol_version = "HTTP/1.1"
    content = b""
    seen: list[tuple[str, str | None]] = []  # noqa: RUF012 - set for each test

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        digest = hashlib.sha256(self.content).hexdigest()
        if "/resolve/" in url.path or "FilePath" in parse_qs(url.query):
            self.send_file(digest)
        elif url.path.startswith("/api/v1/") and url.path.endswith("/repo/tree"):
            file = {"Path": VSTAR, "Name": VSTAR, "Type": "blob", "Size": len(self.content), "Sha256": digest}
            self.send_json({"Code": 200, "Success": True, "Data": {"Files": [file], "TotalCount": 1}})
        elif "/tree/" in url.path:
            lfs = {"oid": digest, "size": len(self.content), "pointerSize": 130}
            self.send_json([{"type": "file", "path": VSTAR, "size": len(self.content), "oid": "b" * 40, "lfs": lfs}])
        elif "/revision/" in url.path:
            self.send_json({"id": data.HUBS["huggingface"], "sha": "a" * 40, "siblings": [{"rfilename": VSTAR}]})
        else:
            self.send_json({"Code": 200, "Success": True, "Data": {}})

    def send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, digest: str) -> None:
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        part = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        first = not self.seen
        self.seen.append((self.path, self.headers.get("Range")))
        self.wfile.write(part[: len(part) // 2] if first else part)
        self.close_connection = first


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    # The clients write pieces of 10 MB: half of the file must be more than that, or there is nothing to go on from.
    image = {"bytes": picture(1, (1000, 1000), "BMP"), "path": None}
    table = pa.Table.from_pylist([make_row(n, images=[image]) for n in range(10)], data.SCHEMA)
    pq.write_table(table, tmp_path / "served.parquet", use_dictionary=False, compression="NONE")
    FakeHub.content = (tmp_path / "served.parquet").read_bytes()
    FakeHub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class TestDownload:
    """The hubs' own clients, against a server on this machine."""

    @pytest.mark.parametrize("name", ["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])
    def test_missing_file_arrives_whole_though_the_transfer_breaks(self, tmp_path: Path, hub: str, name: str) -> None:
        directory = tmp_path / "data"
        directory.mkdir()
        for other in (CHART, THINKLITE):
            save(directory / other, [make_row(1)])
        save(directory / "mine.parquet", [make_row(1)])
        done = run_program(
            directory,
            "--hub",
            name,
            HF_ENDPOINT=hub,
            HF_HUB_OFFLINE="0",
            HF_HOME=str(tmp_path / "hf"),
            MODELSCOPE_ENDPOINT=hub,
            MODELSCOPE_CACHE=str(tmp_path / "ms"),
            NO_PROXY="127.0.0.1",
            no_proxy="127.0.0.1",
        )
        assert (directory / VSTAR).is_file(), done.stderr
        assert (directory / VSTAR).read_bytes() == FakeHub.content
        assert all(data.HUBS[name] in path for path, _ in FakeHub.seen)
        assert FakeHub.seen[0][1] in (None, "bytes=0-")
        start = int((FakeHub.seen[-1][1] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        assert start > 0, FakeHub.seen  # it went on where it had broken off
        assert all(f"{file}: " in done.stdout for file in (*data.OFFICIAL, "mine.parquet"))
        assert done.returncode == 1  # small files under official names are not the published ones

    @pytest.mark.parametrize(
        ("hub", "parts"),
        [
            ("modelscope", [f"{VSTAR}.incomplete", f"{VSTAR}_0_9", f"sub/{VSTAR}_10_19"]),
            ("huggingface", [f".cache/huggingface/download/x.{data.OFFICIAL[VSTAR].sha256}.incomplete"]),
        ],
    )
    def test_parts_that_the_client_goes_on_from_need_no_room(self, tmp_path: Path, hub: str, parts: list[str]) -> None:
        others = [f"out/{VSTAR}.part", f"{CHART}.incomplete", "x.00.1a2b3c4d.incomplete"]
        for part in (*parts, *others):
            (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part).write_bytes(b"0123456789")
        assert data.arrived(tmp_path, VSTAR, hub) == 10 * len(parts)

    def test_hub_out_of_reach_ends_with_one_line(self, tmp_path: Path) -> None:
        for other in (CHART, THINKLITE):
            save(tmp_path / other, [make_row(1)])
        part = tmp_path / ".cache" / "huggingface" / f"x.{data.OFFICIAL[VSTAR].sha256}.incomplete"
        part.parent.mkdir(parents=True)
        part.touch()
        os.truncate(part, data.OFFICIAL[VSTAR].size - 100_000_000)
        done = run_program(tmp_path, "--hub", "huggingface", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
        assert done.returncode == 2
        assert "downloading 1 files, 0.1 GB, from huggingface" in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert f"gave no {VSTAR}; is the hub in reach (HF_HUB_OFFLINE is set)?" in last
        assert last.endswith(f"Or put {VSTAR} into {tmp_path} yourself.")


class TestGuide:
    def test_example_passes_with_the_settings_of_the_guide(self) -> None:
        guide = PROGRAM.parent.parent / "docs" / "own_data.md"
        exports = dict(re.findall(r"^export (\w+)=(\S+)", guide.read_text(encoding="utf-8"), re.MULTILINE))
        assert set(exports) == {"DEEPEYES_SOURCES", "ROOT_IMAGE_DIR"}
        exports["ROOT_IMAGE_DIR"] = str(guide.parent.parent / exports["ROOT_IMAGE_DIR"])
        done = run_program(guide.with_name("own_data_example.jsonl"), "--json", "--workers", "1", **exports)
        (found,) = json.loads(done.stdout)["files"]
        assert (done.returncode, found["problems"], found["notes"]) == (0, {}, {})


class TestRealRows:
    @pytest.mark.skipif(not REAL_ROWS.is_file(), reason="the sample of the official rows is not on this machine")
    def test_sample_passes_and_survives_writing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = findings(capsys, REAL_ROWS)
        assert (found["rows"], found["problems"], found["sources"]) == (6, {}, {"vstar": 6})
        assert data.main([str(REAL_ROWS), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        assert images_in(tmp_path / "out" / REAL_ROWS.name) == images_in(REAL_ROWS)
