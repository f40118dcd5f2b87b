"""Formats as published."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eval_world import (
    Script,
    evaluate,
    hrbench_rows,
    perfect,
    serving,
    write_own,
    write_tsv,
)

from deepeyes.evaluation import bench as eval_bench
from deepeyes.evaluation import cli
from deepeyes.evaluation.errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path


class TestReaders:
    """Formats as published."""

    def test_vstar_lines_hold_the_same_questions_as_the_folders(self, vstar: Path) -> None:
        lines, folders = [], eval_bench.read_bench("vstar", vstar)
        for number, item in enumerate(folders.items):
            places = eval_bench.orders(item, "shuffle", 0, 0)[0]
            shown = [f"({letter}) {item.options[place]}" for letter, place in zip("ABCD", places, strict=False)]
            text = "\n".join([item.question, *shown, "Answer with the letter of the option."])
            label = "ABCD"[places.index(0)]
            line = {"image": f"{item.id}.png", "text": text, "category": item.category, "label": label}
            lines.append(json.dumps({**line, "question_id": number}))
        path = vstar / "test_questions.jsonl"
        path.write_text("\n".join([*lines, '{"image": "nowhere.png", "text": "?"}', "[]"]))
        bench = eval_bench.read_bench(str(path), None)
        path.unlink()

        def key(item: eval_bench.Item) -> tuple[object, ...]:
            return item.id, item.category, item.question, item.reference, sorted(item.options), item.load()

        assert [key(item) for item in bench.items] == [key(item) for item in folders.items]
        assert [item.options[item.right] for item in bench.items] == [item.reference for item in bench.items]
        assert [row.where for row in bench.bad] == ["test_questions.jsonl line 7", "test_questions.jsonl line 8"]

    @pytest.mark.parametrize("suffix", ["tsv", "parquet"])
    def test_hrbench_images_are_read_when_asked_for_in_any_order(self, tmp_path: Path, suffix: str) -> None:
        rows = hrbench_rows()
        rows[7]["image"] = rows[2]["index"]  # as VLMEvalKit shares an image
        rows[8]["image"] = "no base64!"
        path = tmp_path / f"hr_bench_8k.{suffix}"
        if suffix == "tsv":
            write_tsv(path, rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=6)
        bench = eval_bench.read_bench("hrbench8k", tmp_path)
        assert bench.cycled
        assert len(bench.items) == 20
        for place in (0, 1, 5, 6, 19, 3, 4, 12, 7):
            item = bench.items[place]
            assert item.load() == base64.b64decode(rows[2 if place == 7 else place]["image"])
            assert item.options == tuple(rows[place][letter] for letter in "ABCD")
            assert item.question == rows[place]["question"]
            assert item.reference == rows[place][rows[place]["answer"]]
        with pytest.raises(ValueError, match="no base64"):
            bench.items[8].load()
        groups = [item.group for item in bench.items]
        assert groups[:5] == groups[5:10] == groups[10:15]
        assert len(set(groups)) == 5

    def test_same_question_about_two_images_is_two_questions(self, tmp_path: Path) -> None:
        rows = [{**row, "index": str(at)} for at, row in enumerate(row for row in hrbench_rows() for _ in range(2))]
        bench = eval_bench.read_bench(str(write_tsv(tmp_path / "twins.tsv", rows)), None)
        assert len({item.group for item in bench.items}) == 10

    def test_bad_hrbench_rows_are_named(self, tmp_path: Path) -> None:
        rows = hrbench_rows(3)
        rows[0]["answer"], rows[1]["B"], rows[2]["question"] = "E", rows[1]["A"], " "
        rows[4]["index"] = rows[3]["index"]
        bench = eval_bench.read_bench(str(write_tsv(tmp_path / "some.tsv", rows)), None)
        assert len(bench.items) == 8
        assert [row.why[:24] for row in bench.bad] == [
            "the right option is 'E';",
            "options ('green', 'green",
            "question is ' '; expecte",
            "this id stood before; id",
        ]

    @pytest.mark.parametrize(
        ("cells", "why"),
        [
            ({"C": "", "answer": "D"}, None),
            ({"C": " ", "answer": "C"}, "the right option is 'C'; expected one of A, B, D"),
            ({"C": "nan"}, None),
            ({"question": "where\r?"}, "the line can't be read: new-line character"),
            ({"question": "caf\udce9?"}, "question is 'caf\\udce9?'; expected UTF-8"),
            ({"category": "caf\udce9"}, "category is 'caf\\udce9'; expected UTF-8"),
            ({"index": "\udce9"}, "index is '\\udce9'; expected UTF-8"),
        ],
    )
    def test_odd_hrbench_cell_is_read_or_reported(self, tmp_path: Path, cells: dict[str, str], why: str | None) -> None:
        rows = [{**row, "question": "which?"} for row in hrbench_rows(1)]
        rows[1] |= cells
        lines = ["\t".join(row.values()) for row in (dict(zip(rows[0], rows[0], strict=True)), *rows)]
        path = tmp_path / "some.tsv"
        path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
        bench = eval_bench.read_bench(str(path), None)
        assert str([row.where for row in bench.bad]).isascii()
        assert [row.why[: len(why or "")] for row in bench.bad] == ([] if why is None else [why])
        assert [item.load()[:4] for item in bench.items] == [b"\x89PNG"] * (4 if why is None else 3)
        if why is None:
            assert bench.items[1].reference == rows[1][rows[1]["answer"]]
            assert len(bench.items[1].options) == (4 if rows[1]["C"] else 3)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"extra_info": '{"question": "?"}'}, 'extra_info is \'{"question": "?"}\'; expected a struct'),
            ({"reward_model": "red"}, "reward_model is 'red'; expected a struct"),
            ({"prompt": ["<image>?"]}, "'str' object has no attribute 'get'"),
        ],
    )
    def test_own_rows_of_another_shape_are_reported(self, tmp_path: Path, change: dict[str, Any], why: str) -> None:
        rows = [{**row, **change} for row in pq.read_table(write_own(tmp_path / "own.parquet")).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "odd.parquet")
        with pytest.raises(BenchError, match=re.escape(why)):
            eval_bench.read_bench(str(tmp_path / "odd.parquet"), None)

    def test_vstar_lines_may_ask_twice_about_an_image(self, vstar: Path, tmp_path: Path) -> None:
        line = {"image": "direct_attributes/sa_0.png", "category": "all", "label": "A"}
        lines = [
            json.dumps({**line, "text": f"{text}?\n(A) one\n(B) two", "question_id": number}).encode()
            for text, number in (("first", 5), ("second", 6), ("second", 6), ("third", "\ud800"), ("fourth", None))
        ]
        path = tmp_path / "some.jsonl"
        path.write_bytes(b"\n".join([*lines, b'{"text": "caf\xe9"}']))
        bench = eval_bench.read_bench(str(path), vstar)
        image = "direct_attributes/sa_0"
        assert [(item.id, item.question) for item in bench.items] == [(image, "first?"), (f"{image} #6", "second?")]
        assert [row.where for row in bench.bad] == [
            "some.jsonl line 4",
            "some.jsonl line 6",
            f"{image} #6",
            image,
        ]

    def test_damaged_parquet_costs_the_rows_of_its_group(self, tmp_path: Path) -> None:
        path = tmp_path / "hr_bench_4k.parquet"
        pq.write_table(pa.Table.from_pylist(hrbench_rows()), path, row_group_size=6, use_dictionary=False)
        group = pq.ParquetFile(path).metadata.row_group(1)
        column = next(at for at in range(group.num_columns) if group.column(at).path_in_schema == "image")
        content = bytearray(path.read_bytes())
        start = group.column(column).data_page_offset
        content[start : start + 200] = b"\xff" * 200
        path.write_bytes(content)
        with serving(Script(perfect)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "hrbench4k", "--data", tmp_path)
        assert (status, report["all"]["answers"], report["all"]["accuracy"]) == (1, 14, 1)
        assert sorted(int(row["where"]) for row in report["bad_rows"]) == list(range(6, 12))
        group = pq.ParquetFile(path).metadata.row_group(1).column(0)
        content[group.data_page_offset : group.data_page_offset + 20] = b"\xff" * 20
        path.write_bytes(content)
        with pytest.raises(BenchError, match="is damaged; expected a whole parquet file"):
            eval_bench.read_bench(str(path), None)

    @pytest.mark.parametrize(
        ("bench", "content", "message"),
        [
            ("vstar", None, "--data was not given: expected the folder of V*Bench"),
            ("nothing.parquet", None, "no such file"),
            ("some.txt", b"x", "expected a .parquet, .tsv or .jsonl file"),
            ("some.tsv", b"a\tb\n1\t2\n", "no column answer, image, index, question"),
            ("some.tsv", b"a\tb\r1\t2\r", "the head can't be read: new-line character"),
            ("some.parquet", b"PAR0", "no readable parquet file"),
            ("some.jsonl", b"{}\n", "no field 'image'"),
        ],
    )
    def test_what_is_no_benchmark_is_refused(
        self, tmp_path: Path, bench: str, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if content is not None:
            (tmp_path / bench).write_bytes(content)
        name = bench if bench == "vstar" else str(tmp_path / bench)
        assert cli.main(["--bench", name, "--url", "http://127.0.0.1:9/v1"]) == 2
        assert message in capsys.readouterr().err

    def test_shuffle_follows_from_seed_and_id_alone(self) -> None:
        items = [eval_bench.Item(str(at), "", "", "", "", bytes, tuple("abcd")) for at in range(400)]
        first, again, other = (
            [eval_bench.orders(item, "shuffle", seed, 0)[0] for item in order]
            for seed, order in ((1, items), (1, items[::-1]), (2, items))
        )
        assert first == again[::-1] != other
        places = [order.index(0) for order in first]
        assert all(70 < places.count(place) < 130 for place in range(4))
