"""The page of an evaluation, of two runs, and what a reader does with a page: sort, link, export, watch."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from eval_world import (
    Script,
    always_a,
    answer,
    evaluate,
    hrbench_rows,
    perfect,
    picture,
    serving,
    write_tsv,
    write_vstar,
)
from PIL import Image
from tab import Tab
from trace_maker import LOG, Generation, Prompt, flush, log, record

from deepeyes.report.chromium import find_browser
from deepeyes.report.page import write_report
from deepeyes.report.screenshots import chromium
from deepeyes.report.traces import ReportError
from deepeyes.traces import Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
RTL = "\N{RIGHT-TO-LEFT OVERRIDE}"
needs_chromium = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium is installed; `python -m deepeyes.report.chromium` brings one"
)


def data_of(page: Path) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script', page.read_text(), re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations of HR-Bench, with the tool and always A, one of V*Bench and one of POPE."""
    folder = tmp_path_factory.mktemp("runs")
    write_tsv(folder / "hr_bench_4k.tsv", hrbench_rows())
    write_vstar(folder / "vstar")
    image = base64.b64encode(picture("red", 40)).decode()
    rows = [
        {"index": "0", "question": "Is there a square?", "answer": "Yes", "category": "adversarial,popular,random"},
        {"index": "1", "question": "Is there a dog?", "answer": "No", "category": "random"},
    ]
    write_tsv(folder / "POPE.tsv", [{**row, "image": image} for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPEYES_JUDGE", "rule")
        with serving(Script(perfect)) as script:
            evaluate(folder / "zoom", script, "--bench", "hrbench4k", "--data", folder)
            evaluate(folder / "star", script, "--bench", "vstar", "--data", folder / "vstar")
            script.policy = always_a
            evaluate(folder / "plain", script, "--bench", "hrbench4k", "--data", folder, "--no-tool")
            script.policy = lambda _: answer("yes")
            evaluate(folder / "pope", script, "--bench", "pope", "--data", folder)
    return folder


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as browser:
        yield Tab(browser)


def training(folder: Path, steps: int = 2, **changes: Any) -> Path:
    tracer = Tracer(folder, "0")
    view = Image.linear_gradient("L").resize((140, 84)).convert("RGB")
    generations = [Generation("red", [(14, 21, 70, 63)]), Generation("red and green"), Generation("blue")]
    for step in range(steps):
        record(tracer, [Prompt(changes.get("question", f"Which colour? {step}"), "red", view, generations)], step)
    flush(tracer)
    log(folder, LOG, {**LOG, "reward": 1.5, "global_step/max_steps": "2/2"})
    return folder


class TestEvaluation:
    def test_orders_of_one_question_are_one_group_with_its_category_and_no_advantage(self, runs: Path) -> None:
        data = data_of(write_report(runs / "zoom"))
        assert [len(group["members"]) for group in data["groups"]] == [4] * 5
        assert {*(name for group in data["groups"] for name in group["categories"])} == {"single", "cross"}
        assert {one["advantage"] for one in data["trajectories"]} == {None}
        (run,) = data["evaluation"]["runs"]
        assert (run["blocks"]["all"]["accuracy"], run["blocks"]["all"]["chance"]) == (1, 0.25)
        assert any("protocol paper" in note for note in data["notes"])

    def test_target_boxes_of_the_benchmark_are_there(self, runs: Path) -> None:
        data = data_of(write_report(runs / "star"))
        assert data["trajectories"][0]["targets"] == [[0, 0, 1, 1]]
        assert data["trajectories"][0]["original_size"] == [320, 240]

    def test_training_is_not_shown_over_an_evaluation(self, runs: Path, tmp_path: Path) -> None:
        with pytest.raises(ReportError, match="shown over evaluations only"):
            write_report(runs / "zoom", tmp_path / "x.html", others=[training(tmp_path / "run")])
        with pytest.raises(ReportError, match="shown over trainings only"):
            write_report(tmp_path / "run", tmp_path / "x.html", others=[runs / "zoom"])

    @needs_chromium
    def test_page_has_accuracies_and_no_steps(self, runs: Path, tab: Tab) -> None:
        tab.open(write_report(runs / "star"))
        shown = tab.page.inner_text("body")
        assert "Accuracy by category" in shown
        assert "Step 1" not in shown
        assert "dvantage" not in shown
        assert tab.page.locator(".target").count() == 1
        assert tab.errors == []

    @needs_chromium
    def test_two_runs_have_their_names_and_a_phone_scrolls_the_table_alone(
        self, runs: Path, tab: Tab, tmp_path: Path
    ) -> None:
        page = write_report(runs / "plain", tmp_path / "two.html", others=[runs / "zoom"])
        tab.open(page, width=390)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert tab.page.locator("#accuracy td.run-cell").all_inner_texts()[:2] == ["A: plain", "B: zoom"]
        assert "A and B" not in tab.page.inner_text("#notes")

    @needs_chromium
    def test_pope_has_its_own_figures_and_a_filter_for_each_category(
        self, runs: Path, tab: Tab, tmp_path: Path
    ) -> None:
        tab.open(write_report(runs / "pope", tmp_path / "pope.html"))
        head, *lines = tab.page.locator("#accuracy tr").all_inner_texts()
        assert "F1 %\tPrecision %\tRecall %\tYes %" in head
        assert "66.7\t50.0\t100.0\t100.0" in next(line for line in lines if line.startswith("random"))
        options = tab.page.locator("#filter-source option").all_inner_texts()
        assert options == ["all", "adversarial (1)", "popular (1)", "random (2)"]
        tab.page.select_option("#filter-source", "popular")
        assert "1 of 2" in tab.page.inner_text("#count")
        assert tab.errors == []

    @needs_chromium
    def test_flips_between_two_runs_are_filtered(self, runs: Path, tab: Tab, tmp_path: Path) -> None:
        tab.open(write_report(runs / "plain", tmp_path / "two.html", others=[runs / "zoom"]))
        tab.page.select_option("#filter-flip", "B better")
        assert "40 of 40" in tab.page.inner_text("#count")
        tab.page.select_option("#filter-run", "B: zoom")
        assert "20 of 40" in tab.page.inner_text("#count")
        tab.click("#beside")
        assert tab.page.locator("[data-beside]").count() == 8


@needs_chromium
class TestReader:
    def test_sorting_puts_the_longest_first(self, tab: Tab, tmp_path: Path) -> None:
        tab.open(write_report(training(tmp_path)))
        tab.page.select_option("#sort", "-length")
        lengths = tab.evaluate("matching.map(t => trajectories[t].turns.join('').length)")
        assert lengths == sorted(lengths, reverse=True)
        tab.page.select_option("#sort", "zooms")
        assert tab.evaluate("matching.map(t => trajectories[t].num_zooms)") == [0, 0, 0, 0, 1, 1]

    def test_link_stays_when_the_run_grows(self, tab: Tab, tmp_path: Path) -> None:
        keys = [one["key"] for one in data_of(write_report(training(tmp_path / "run", 2)))["trajectories"]]
        grown = [one["key"] for one in data_of(write_report(training(tmp_path / "more", 4)))["trajectories"]]
        assert len(set(grown)) == 12
        assert set(keys) < set(grown)
        page = write_report(tmp_path / "more")
        tab.page.goto("about:blank")
        tab.page.goto(f"{page.as_uri()}#{keys[4]}")
        assert tab.evaluate("keys[selected]") == keys[4]

    def test_what_is_filtered_is_exported(self, tab: Tab, tmp_path: Path) -> None:
        tab.open(write_report(training(tmp_path)))
        tab.page.select_option("#filter-verdict", "wrong")
        with tab.page.expect_download() as download:
            tab.click("#export")
        rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert [row["verdict"]["correct"] for row in rows] == [False] * len(rows)
        assert len(rows) == tab.evaluate("matching.length")

    def test_text_is_copied(self, tab: Tab, tmp_path: Path) -> None:
        tab.open(write_report(training(tmp_path)))
        tab.click(".turn h3 button")
        tab.page.wait_for_function("document.querySelector('.turn h3 button').textContent !== 'copy'")
        assert tab.page.inner_text(".turn h3 button") == "copied"

    def test_long_words_wrap_and_direction_marks_stay_inside(self, tab: Tab, tmp_path: Path) -> None:
        question = f"Which {'w' * 3000} {RTL}?"
        tab.open(write_report(training(tmp_path, 1, question=question)))
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
        assert tab.evaluate("getComputedStyle(document.querySelector('#detail h2')).unicodeBidi") == "isolate"

    def test_missing_image_says_so(self, tab: Tab, tmp_path: Path) -> None:
        training(tmp_path, 1)
        for image in (tmp_path / "images").glob("*/*"):
            image.write_bytes(b"broken")
        tab.open(write_report(tmp_path))
        assert "the image can't be read" in tab.page.inner_text("#detail")

    def test_dark_mode_is_dark(self, tab: Tab, tmp_path: Path) -> None:
        page = write_report(training(tmp_path))
        tab.page.emulate_media(color_scheme="dark")
        tab.open(page)
        dark = Image.open(io.BytesIO(tab.screenshot())).convert("L").getpixel((5, 5))
        tab.page.emulate_media(color_scheme="light")
        assert dark < 60

    def test_curves_of_another_run_lie_over(self, tab: Tab, tmp_path: Path) -> None:
        page = write_report(training(tmp_path / "a"), others=[training(tmp_path / "b")])
        tab.open(page)
        assert tab.page.locator(".chart path.other").count() > 0
        assert "the curves of b lie over its own" in tab.page.inner_text("#notes")


def test_watch_writes_the_page_anew_when_the_run_has_written(tmp_path: Path) -> None:
    training(tmp_path, 1)
    command = [sys.executable, "-m", "deepeyes.report", str(tmp_path), "--watch", "1"]
    watching = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        page = Path(watching.stdout.readline().strip())
        first = data_of(page)
        assert (first["watch"], len(first["groups"])) == (1, 1)
        time.sleep(1.1)
        training(tmp_path, 3)
        deadline = time.monotonic() + 60
        while len(data_of(page)["groups"]) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        watching.terminate()
        watching.wait(30)
