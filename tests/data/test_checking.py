"""Every kind of bad row is found among good ones, and files are told apart."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_maker import (
    BASE64_AS_BYTES,
    ROOT,
    TOOLS,
    VSTAR,
    findings,
    images_in,
    make_row,
    picture,
    save,
    save_any,
    user,
    with_alpha,
)

from deepeyes.data.cli import main
from deepeyes.dataset.official import OFFICIAL, Official
from deepeyes.dataset.rows import conversation_problems, mend

if TYPE_CHECKING:
    from pathlib import Path

REAL_ROWS = ROOT.parent / "shared" / "data" / "vstar_sample.parquet"
BAD_ROWS = {
    "no messages": ({"prompt": None}, r"no list of messages"),
    "content in parts": ({"prompt": [{"role": "user", "content": [{"type": "text"}]}]}, r"no list of messages"),
    "ends with assistant": (
        {"prompt": [*user("<image>\nq"), {"role": "assistant", "content": "a"}]},
        r"the roles are not .*'user assistant'",
    ),
    "unknown role": ({"prompt": [{"role": "human", "content": "<image>"}]}, r"the roles are not .*'human'"),
    "two tags": ({"prompt": user("<image><image> What?")}, r"`<image>` stands 2 in user turns"),
    "tag in system": (
        {"prompt": [{"role": "system", "content": "<image>"}, *user("What?")]},
        r"`<image>` stands 1 in system turns",
    ),
    "no image": ({"images": []}, r"images holds 0 images"),
    "three tags for two images": (
        {"images": [{"bytes": picture(1)}, {"bytes": picture(2)}], "prompt": user("<image><image><image>q")},
        r"images holds 2 images, and `<image>` stands 3 in user turns",
    ),
    "second image broken": (
        {
            "images": [{"bytes": picture(1), "path": None}, {"bytes": b"GIF89a?", "path": None}],
            "prompt": user("<image><image> What?"),
        },
        r"does not decode",
    ),
    "second image without bytes": (
        {
            "images": [{"bytes": picture(1), "path": None}, {"bytes": None, "path": None}],
            "prompt": user("<image><image> What?"),
        },
        r"images\[1\] has neither bytes nor a path",
    ),
    "empty image": ({"images": [{"bytes": b"", "path": None}]}, r"(empty: 0 bytes|neither bytes nor a path)"),
    "not an image": ({"images": [{"bytes": b"GIF89a?", "path": None}]}, r"does not decode"),
    "image in base64 as bytes": ({"images": [BASE64_AS_BYTES]}, r"base64 stands where a path would"),
    "no base64": ({"images": ["a" * 5001]}, r"not in ROOT_IMAGE_DIR .*'a{70,80}"),
    "long name": ({"images": ["a." * 200]}, r"not in ROOT_IMAGE_DIR .*'(a\.){35,40}a?"),
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
    "empty reference": ({"reward_model": {"ground_truth": " "}}, r"reward_model.ground_truth is empty or no text.*' '"),
    "no reference": ({"reward_model": None}, r"reward_model.ground_truth is empty or no text.*None"),
    "no question": ({"extra_info": {"index": "1"}}, r"extra_info.question is empty or no text.*None"),
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
            assert len(reasons) == 1, (name, reasons)
            told = f"{reasons[0]}: {'; '.join(found['examples'].get(reasons[0], []))}"
            assert re.search(reason, told), (name, told)
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
        assert conversation_problems(messages) == []

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
        assert mend(text) == text

    def test_only_the_required_property_is_mended(self) -> None:
        assert mend(TOOLS) == TOOLS.replace('["bbox"]', '["bbox_2d"]')
        assert mend('"required":["bbox"]') == '"required":["bbox"]'  # where there is no bbox_2d, it may be right


class TestSnapshot:
    def test_another_file_under_an_official_name_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = save(tmp_path / VSTAR, [make_row(n) for n in range(2)])
        assert main([str(path), "--workers", "1"]) == 1
        assert "differs: 2 rows" in capsys.readouterr().out

    def test_published_file_is_recognised_by_size_hash_and_rows(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = save(tmp_path / VSTAR, [make_row(n) for n in range(2)])
        content = path.read_bytes()
        facts = Official(VSTAR, 2, len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(OFFICIAL, VSTAR, facts)
        assert findings(capsys, path)["snapshot"] == "as published"
        place = content.index(b"a line, 1") + 8
        path.write_bytes(content[:place] + b"7" + content[place + 1 :])
        assert findings(capsys, path)["snapshot"].startswith("differs: 2 rows")

    def test_official_files_are_the_47k_of_the_paper(self) -> None:
        assert sum(file.rows for file in OFFICIAL.values()) == 47_052
        assert [file.sha256[:8] for file in OFFICIAL.values()] == ["42992bf5", "96fc256e", "660cea5f"]


class TestRealRows:
    @pytest.mark.skipif(not REAL_ROWS.is_file(), reason="the sample of the official rows is not on this machine")
    def test_sample_passes_and_survives_writing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = findings(capsys, REAL_ROWS)
        assert (found["rows"], found["problems"], found["sources"]) == (6, {}, {"vstar": 6})
        assert main([str(REAL_ROWS), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        assert images_in(tmp_path / "out" / REAL_ROWS.name) == images_in(REAL_ROWS)
