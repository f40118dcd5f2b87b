"""Benchmarks as published: each layout is read, and what is asked of it scored."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eval_world import (
    Script,
    Seen,
    answer,
    call,
    evaluate,
    hrbench_rows,
    perfect,
    picture,
    serving,
    write_own,
    write_tsv,
    write_vstar,
)

from deepeyes.evaluation import cli
from deepeyes.evaluation.bench import KNOWN, Kind, read_bench
from deepeyes.evaluation.errors import BenchError

IMAGE = picture("red", 40)
CELL = base64.b64encode(IMAGE).decode()
ROW = {"index": "7", "question": "Which colour?", "image": CELL, "category": "single"}
LETTERS = {"A": "red", "B": "green", "answer": "A"}


def vstar_rows(folder: Path) -> list[dict[str, Any]]:
    """The questions of V*Bench's folders, as the lines and the parquet of lmms-lab have them."""
    rows = []
    for number, item in enumerate(read_bench("vstar", folder).items):
        lines = [f"({letter}) {option}" for letter, option in zip("ABCD", item.options[::-1], strict=False)]
        text = "\n".join([item.question, *lines, "Answer with the option's letter from the given choices directly."])
        label = "ABCD"[len(item.options) - 1]
        rows.append({"text": text, "label": label, "question_id": str(number), "category": item.category, "item": item})
    return rows


class TestVstar:
    def test_parquet_of_lmms_lab_and_tsv_of_vlmevalkit_hold_the_questions_of_the_folders(self, tmp_path: Path) -> None:
        folder = write_vstar(tmp_path / "vstar")
        rows = vstar_rows(folder)
        (tmp_path / "lmms" / "data").mkdir(parents=True)
        table = [{**row, "image": {"bytes": row["item"].load().encode(), "path": None}} for row in rows]
        for row in table:
            row["image"]["bytes"] = Path(row.pop("item").load()).read_bytes()
        pq.write_table(pa.Table.from_pylist(table), tmp_path / "lmms" / "data" / "test-00000-of-00001.parquet")
        tsv = []
        for number, row in enumerate(rows):
            options = dict(zip("ABCD", row["item"].options, strict=False))
            cells = {"A": "", "B": "", "C": "", "D": "", **options}
            image = base64.b64encode(Path(row["item"].load()).read_bytes()).decode()
            tsv.append({"index": str(number), "question": row["item"].question, **cells, "answer": "A", "image": image})
            tsv[-1]["category"] = row["category"]
        write_tsv(tmp_path / "VStarBench.tsv", tsv)

        def keys(data: Path) -> list[tuple[Any, ...]]:
            items = read_bench("vstar", data).items
            return [(item.question, sorted(item.options), item.reference, item.category) for item in items]

        folders = keys(folder)
        assert keys(tmp_path / "lmms") == keys(tmp_path / "VStarBench.tsv") == folders
        with serving(Script(perfect)) as script:
            reports = []
            for name, data in (("a", folder), ("b", tmp_path / "lmms"), ("c", tmp_path / "VStarBench.tsv")):
                status, report = evaluate(tmp_path / name, script, "--bench", "vstar", "--data", data)
                reports.append((status, report["all"]["accuracy"], report["all"]["questions"]))
        assert reports == [(0, 1, 6)] * 3
        for other in ("b", "c"):
            assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / other)]) == 0

    def test_layouts_are_compared_question_by_question(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_vstar(tmp_path / "vstar", colours=4, sides=0)
        table = []
        for row in vstar_rows(folder):
            content = Path(row.pop("item").load()).read_bytes()
            table.append({**row, "image": {"bytes": content}})
        pq.write_table(pa.Table.from_pylist(table), tmp_path / "test-0.parquet")
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "a", script, "--bench", "vstar", "--data", folder)
            script.policy = lambda _: answer("none of them")
            evaluate(tmp_path / "b", script, "--bench", "vstar", "--data", tmp_path / "test-0.parquet")
        capsys.readouterr()
        assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)["all"]
        assert (figures["questions"], figures["first"], figures["worse"]) == (4, 1, 4)
        assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
        assert f"A is {tmp_path / 'a'}\nB is {tmp_path / 'b'}\n" in capsys.readouterr().out

    def test_files_of_macos_are_passed_over_and_targets_are_read(self, tmp_path: Path) -> None:
        folder = write_vstar(tmp_path / "vstar")
        (folder / "direct_attributes" / "._sa_0.json").write_bytes(b"\0\5\26\7")
        (folder / "direct_attributes" / "._sa_0.png").write_bytes(b"\0\5\26\7")
        bench = read_bench("vstar", folder)
        assert (len(bench.items), bench.bad) == (6, [])
        assert bench.items[0].targets == ((0, 0, 1, 1),)


class TestChoices:
    @pytest.mark.parametrize(
        ("cells", "options", "reference"),
        [
            (LETTERS, ("red", "green"), "red"),
            ({**LETTERS, "A": "3", "B": "4", "answer": "B"}, ("3", "4"), "4"),
            ({"multi-choice options": "['(A) red', '(B) green', '(C) The image does not show it']", "answer": "B"},
             ("red", "green", "The image does not show it"), "green"),
            ({"options": '["A. red", "B. green"]', "answer": "(A)"}, ("red", "green"), "red"),
        ],
    )  # fmt: skip
    def test_options_in_columns_or_in_a_list_are_read(
        self, tmp_path: Path, cells: dict[str, str], options: tuple[str, ...], reference: str
    ) -> None:
        path = write_tsv(tmp_path / "mme_realworld_lite.tsv", [{**ROW, **cells}])
        (item,) = read_bench("mme-realworld-lite", tmp_path).items
        assert (item.options, item.reference, item.load()) == (options, reference, IMAGE)
        assert read_bench(str(path), None).items[0].options == options

    def test_parquet_may_hold_numbers_lists_and_images_in_bytes(self, tmp_path: Path) -> None:
        row = {
            "index": 7,
            "question": "How many?",
            "bytes": CELL,
            "multi-choice options": ["(A) 1", "(B) 2"],
            "answer": "B",
        }
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "mme_realworld.parquet")
        (item,) = read_bench("mme-realworld-lite", tmp_path).items
        assert (item.id, item.reference, item.load()) == ("7", "2", IMAGE)
        numeric = {"index": 1, "question": "How many?", "image": CELL, "A": 3, "B": 4.0, "C": 2.5, "answer": "C"}
        pq.write_table(pa.Table.from_pylist([numeric]), tmp_path / "numeric.parquet")
        assert read_bench(str(tmp_path / "numeric.parquet"), None).items[0].options == ("3", "4", "2.5")

    def test_treebench_brings_its_boxes(self, tmp_path: Path) -> None:
        row = {
            **ROW,
            **LETTERS,
            "category": "Perception/Attributes",
            "target_instances": "[[1, 2, 30, 40], [5, 6, 7, 8]]",
        }
        write_tsv(tmp_path / "TreeBench.tsv", [row])
        (item,) = read_bench("treebench", tmp_path).items
        assert (item.category, item.targets) == ("Perception/Attributes", ((1, 2, 30, 40), (5, 6, 7, 8)))

    def test_question_that_a_file_repeats_is_counted_once(self, tmp_path: Path) -> None:
        rows = hrbench_rows(2)
        rows += [{**rows[0], "index": "99"}]
        write_tsv(tmp_path / "hr_bench_4k.tsv", rows)
        with serving(Script(perfect)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "hrbench4k", "--data", tmp_path)
        assert (status, report["all"]["answers"], report["repeated"]) == (0, 8, 1)


class TestFree:
    def test_pope_is_read_as_yes_or_no(self, tmp_path: Path) -> None:
        rows = [
            {**ROW, "index": str(at), "question": f"Is there a {what}?", "answer": said}
            for at, (what, said) in enumerate([("square", "Yes"), ("dog", "No")])
        ]
        write_tsv(tmp_path / "POPE.tsv", rows)
        with serving(Script(lambda seen: answer("Yes, there is." if "square" in seen.question else "yes"))) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "pope", "--data", tmp_path)
        assert (status, report["all"]["accuracy"], report["all"]["by_rule"]["answers"]) == (0, 0.5, 2)
        assert "Answer with yes or no." in script.seen[0].question
        assert report["all"]["yes_no"] == {"precision": 0.5, "recall": 1, "f1": 2 / 3, "yes": 1}

    def test_pope_counts_a_question_in_each_of_its_categories(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        every = "adversarial,popular,random"
        cells = [("square", "Yes", every), ("dog", "No", "random"), ("cat", "No", "popular"), ("bus", "No", "random")]
        said = {"square": "Yes", "dog": "Yes", "cat": "No", "bus": "Hard to say"}
        whole = [
            {**ROW, "index": str(at), "question": f"Is there a {what}?", "answer": reply, "category": category}
            for at, (what, reply, category) in enumerate(cells)
        ]
        write_tsv(tmp_path / "POPE.tsv", whole)
        split = [
            {"question_id": str(at), "question": f"Is there a {what}?", "answer": reply.casefold(), "category": name}
            for at, (what, reply, category) in enumerate(cells)
            for name in category.split(",")
        ]
        table = pa.Table.from_pylist([{**row, "image": {"bytes": IMAGE, "path": None}} for row in split])
        pq.write_table(table, tmp_path / "test-0.parquet")
        policy = Script(lambda seen: answer(next(reply for what, reply in said.items() if what in seen.question)))
        with serving(policy) as script:
            reports = [
                evaluate(tmp_path / file.stem, script, "--bench", "pope", "--data", file)[1]
                for file in (tmp_path / "POPE.tsv", tmp_path / "test-0.parquet")
            ]
        for report in reports:
            found = {name: (block["accuracy"], block["yes_no"]) for name, block in report["categories"].items()}
            right = {"precision": 1, "recall": 1, "f1": 1}
            assert found["adversarial"] == (1, {**right, "yes": 1})
            assert found["popular"] == (1, {**right, "yes": 0.5})
            assert found["random"] == (1 / 3, {"precision": 0.5, "recall": 1, "f1": 2 / 3, "yes": 2 / 3})
            assert report["all"]["accuracy"] == 4 / 6
            assert report["all"]["yes_no"] == {"precision": 0.75, "recall": 1, "f1": 6 / 7, "yes": 4 / 6}
            assert report["repeated"] == 0
        assert [report["all"]["answers"] for report in reports] == [4, 6]
        assert "random        66.7         50.0     100.0   66.7" in capsys.readouterr().out
        assert cli.main(["compare", str(tmp_path / "POPE"), str(tmp_path / "POPE")]) == 0
        assert "adversarial          1" in capsys.readouterr().out

    @pytest.mark.parametrize("family", ["qwen2.5-vl", "qwen3-vl"])
    def test_refcoco_is_right_from_half_an_overlap_in_the_frame_of_the_model(self, tmp_path: Path, family: str) -> None:
        rows = [
            {"index": "1", "question": "the square", "image": CELL, "width": "320", "height": "240", "split": "val",
             "bbox_x1": "40", "bbox_y1": "100", "bbox_x2": "84", "bbox_y2": "144"},
            {"index": "2", "question": "the square", "image": CELL, "width": "320", "height": "240", "split": "testA",
             "bbox_x1": "200", "bbox_y1": "10", "bbox_x2": "300", "bbox_y2": "60"},
        ]  # fmt: skip
        write_tsv(tmp_path / "RefCOCO.tsv", rows)

        def points(seen: Any) -> str:
            box = seen.square(seen.images[0])
            width, height = (1000, 1000) if family == "qwen3-vl" else seen.images[0].size
            sides = seen.images[0].size
            return answer(str([round(box[at] * (width, height)[at % 2] / sides[at % 2]) for at in range(4)]))

        with serving(Script(points, patch=16 if family == "qwen3-vl" else 14)) as script:
            arguments = ("--bench", "refcoco", "--data", tmp_path, "--family", family)
            status, report = evaluate(tmp_path / "run", script, *arguments)
        assert status == 0
        assert {name: block["accuracy"] for name, block in report["categories"].items()} == {"val": 1, "testA": 0}
        assert report["categories"]["val"]["iou"] > 0.8

    def test_mathvista_visualprobe_and_zoombench_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "math").mkdir()
        maths = {**ROW, "question": "Hint: ...\nChoices: (A) 3 (B) 4", "answer": "4", "answer_option": "B"}
        write_tsv(
            tmp_path / "math" / "MathVista_MINI.tsv", [{**maths, "question_type": "multi_choice", "task": "geometry"}]
        )
        (item,) = read_bench("mathvista", tmp_path / "math").items
        assert (item.kind, item.reference, item.category) == (Kind.OPEN, "B. 4", "geometry")
        probe = tmp_path / "VisualProbe_Hard"
        probe.mkdir()
        (probe / "1.png").write_bytes(IMAGE)
        rows = [{"images": ["VisualProbe_Hard/1.png"], "problem": "<image>\nWhich colour?", "solution": "red"}]
        (probe / "val.json").write_text(json.dumps([*rows, {"images": ["none.png"], "problem": "?", "solution": "?"}]))
        bench = read_bench("visualprobe", probe)
        assert [(item.question, item.reference, item.category) for item in bench.items] == [
            ("Which colour?", "red", "hard")
        ]
        assert "no image" in bench.bad[0].why
        images = {"image": {"bytes": IMAGE}, "crop_image": {"bytes": b"x"}}
        zoom = [
            {"id": "1", "query": "Which?\n(A) red\n(B) green", "response": "B", **images},
            {"id": "2", "query": "<image>\nWhat is written?", "response": "EXIT", **images},
        ]
        pq.write_table(pa.Table.from_pylist(zoom), tmp_path / "zoombench.parquet")
        items = read_bench("zoombench", tmp_path / "zoombench.parquet").items
        assert [(item.kind, item.question, item.reference) for item in items] == [
            (Kind.CHOICE, "Which?", "green"),
            (Kind.OPEN, "What is written?", "EXIT"),
        ]
        assert items[1].load() == IMAGE


class TestOwnRows:
    @pytest.mark.parametrize("turns", ["prompt", "messages"])
    def test_lines_are_read_like_the_parquet_with_prompt_or_messages(self, tmp_path: Path, turns: str) -> None:
        rows = pq.read_table(write_own(tmp_path / "own.parquet")).to_pylist()[:6]
        lines = []
        for at, row in enumerate(rows):
            (tmp_path / f"{at}.png").write_bytes(row["images"][0]["bytes"])
            lines.append({**row, "images": [f"{at}.png"], turns: row["prompt"]})
            if turns == "messages":
                del lines[-1]["prompt"]
        path = tmp_path / "own.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        bench = read_bench(str(path), None)
        assert [item.reference for item in bench.items] == [row["reward_model"]["ground_truth"] for row in rows]
        with serving(Script(lambda _: answer("red"))) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", path)
        assert (status, report["all"]["answers"], report["protocol"]) == (0, 6, "training")
        assert script.seen[0].texts[0] == "own system turn"

    @pytest.mark.parametrize("turns", ["prompt", "messages"])
    @pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
    def test_rows_with_several_images_are_played_and_a_call_chooses_one(
        self, tmp_path: Path, suffix: str, turns: str
    ) -> None:
        rows = []
        for at, colour in enumerate(["red", "blue"]):
            row = pq.read_table(write_own(tmp_path / "one.parquet")).to_pylist()[at]
            user = "<image>\n<image>\nWhich colour does the second have? Answer in <answer></answer>."
            prompt = [{"role": "system", "content": "use image_zoom_in_tool"}, {"role": "user", "content": user}]
            images = [picture("white", 20), picture(colour, 200)]
            reward_model = {"ground_truth": colour, "style": "model"}
            row |= {"images": [{"bytes": image, "path": None} for image in images], "reward_model": reward_model}
            rows.append({**{name: cell for name, cell in row.items() if name != "prompt"}, turns: prompt})
            for number, image in enumerate(images):
                (tmp_path / f"{at}-{number}.png").write_bytes(image)
        path = tmp_path / f"own{suffix}"
        bad = {**rows[0], "images": rows[0]["images"][:1]}
        if suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([*rows, bad]), path)
        else:
            lines = [{**row, "images": [f"{at}-0.png", f"{at}-1.png"]} for at, row in enumerate(rows)]
            path.write_text("\n".join(map(json.dumps, [*lines, {**lines[0], "images": ["0-0.png"]}])))

        def zooms(seen: Seen) -> str:
            if seen.turn == 1:
                box = list(seen.square(seen.images[1]))
                return call(box).replace('"bbox_2d"', '"img_idx": 1, "bbox_2d"')
            return answer(seen.colour(seen.images[-1]))

        with serving(Script(zooms)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", path)
            asked = len(script.seen)
            assert evaluate(tmp_path / "run", script, "--bench", path)[1]["all"] == report["all"]
        assert (status, report["all"]["accuracy"], report["all"]["answers"], asked) == (1, 1, 2, 4)
        assert "1 images, and 2 <image> in the user turns" in str(report["bad_rows"])
        record = json.loads((tmp_path / "run" / "answers.jsonl").read_text().splitlines()[0])
        assert (record["zooms"][0]["image"], len(record["images"])) == (1, 3)

    def test_turns_of_an_earlier_round_are_kept_and_the_reference_answer_is_not(self, tmp_path: Path) -> None:
        row = pq.read_table(write_own(tmp_path / "one.parquet")).to_pylist()[0]
        row["prompt"] = [
            {"role": "user", "content": "<image>\nIs there a square?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Which colour? Answer in <answer></answer>."},
            {"role": "assistant", "content": "<answer>red</answer>"},
        ]
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "own.parquet")
        with serving(Script(lambda _: answer("red"))) as script:
            evaluate(tmp_path / "run", script, "--bench", tmp_path / "own.parquet")
        assert [turn["role"] for turn in script.seen[0].body["messages"]] == ["user", "assistant", "user"]


class TestHelp:
    def test_help_and_an_unknown_name_list_what_is_read(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["--help"])
        told = capsys.readouterr().out
        assert all(name in told for name in KNOWN)
        with pytest.raises(BenchError, match="no benchmark of that name") as caught:
            read_bench("vstarr", None)
        assert all(name in str(caught.value) for name in KNOWN)
        with pytest.raises(BenchError, match=r"expected RefCOCO\.tsv"):
            read_bench("refcoco", None)
