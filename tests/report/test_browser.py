"""The report page in a real Chromium: it opens, filters, draws boxes in place, and shows hostile text as text."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import ExifTags, Image
from tab import Tab
from trace_maker import HOSTILE, LOG, Generation, Prompt, flush, log, record, record_crowd

from deepeyes.report.chromium import find_browser
from deepeyes.report.page import make_page, write_report
from deepeyes.report.screenshots import chromium
from deepeyes.report.traces import read_traces
from deepeyes.traces import Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trace_maker import Box

pytest.importorskip("playwright", reason="Playwright is not installed; `bash deepeyes.sh setup` brings it")
pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium is installed; `python -m deepeyes.report.chromium` brings one"
)

ROOT = Path(__file__).resolve().parents[2]
GREY = (100, 100, 100)
PINK, BLUE = (230, 0, 126), (10, 108, 255)  # of the first and the second box
LEFT: Box = (40, 60, 100, 140)
RIGHT: Box = (150, 30, 260, 90)
ATTACK = HOSTILE.replace("alert(1)", "document.title = 'attacked'").replace("alert(2)", "document.title='attacked'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with chromium() as made:
        yield Tab(made)


@pytest.fixture(autouse=True)
def clean(browser: Tab) -> Iterator[None]:
    """Every test ends with no error in the console and no request but for pages themselves."""
    browser.errors.clear()
    browser.requests.clear()
    yield
    assert browser.errors == []
    assert browser.requests
    assert all(re.fullmatch(r"file://.*\.html", address) for address in browser.requests)


def pattern() -> Image.Image:
    """A picture of 280 x 168 pixels, grey, with the boxes' insides in green and yellow."""
    image = Image.new("RGB", (280, 168), GREY)
    image.paste((0, 160, 0), LEFT)
    image.paste((200, 200, 0), RIGHT)
    return image


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 steps with one group of each kind, in this order: a mixed one, mathematics, a hostile one."""
    folder = tmp_path_factory.mktemp("run")
    tracer = Tracer(folder / "traces", "0")
    mixed = [
        Generation("red", [LEFT, RIGHT]),
        Generation("red"),
        Generation("blue", [None]),
        Generation("blue</answer>"),
    ]
    maths = Generation("\\boxed{7}")
    for step in range(2):
        prompts = [
            Prompt("Which colour?", "red", pattern(), mixed),
            Prompt("What is 3 + 4?", "7", pattern(), [maths] * 2, source="thinklite_eureka"),
            Prompt(ATTACK, ATTACK, pattern(), [Generation(ATTACK, [LEFT], ATTACK)] * 2, source="chart"),
        ]
        record(tracer, prompts, step)
    flush(tracer)
    log(folder, LOG, {**LOG, "reward": 1.5, "global_step/max_steps": "2/2"})
    write_report(folder)
    return folder / "report.html"


def pixels(browser: Tab) -> Image.Image:
    browser.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    return Image.open(io.BytesIO(browser.screenshot())).convert("RGB")


def settle(browser: Tab) -> None:
    """Waits until events that follow from what was done, such as scrolling, have been handled."""
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def choose(browser: Tab, name: str, value: str) -> None:
    """Sets a filter as a user does."""
    browser.evaluate(
        f"(() => {{ const filter = document.getElementById('filter-{name}'); filter.value = {json.dumps(value)};"
        "filter.dispatchEvent(new Event('change')); })()"
    )


def listed(browser: Tab) -> list[int]:
    found: list[int] = browser.evaluate("[...document.querySelectorAll('#list .chip')].map(chip => +chip.dataset.t)")
    return found


def plain(text: str) -> str:
    """Returns what the page says in the signs of a keyboard."""
    return text.replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{MINUS SIGN}", "-")


def text(browser: Tab, selector: str) -> str:
    return plain(browser.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))


def key_of(browser: Tab, place: int) -> str:
    found: str = browser.evaluate(f"JSON.parse(document.getElementById('data').textContent).trajectories[{place}].key")
    return found


class TestOpens:
    @pytest.mark.parametrize("width", [1280, 1920])
    def test_all_parts_are_there_and_fit(self, browser: Tab, run: Path, width: int) -> None:
        browser.open(run, width)
        assert "16 trajectories in 6 groups" in text(browser, "#title")
        names = browser.evaluate("[...document.querySelectorAll('.chart b')].map(name => name.innerText)")
        assert names == ["Reward", "Accuracy", "Tool use", "Tool reward", "Format errors", "Turns"]
        assert text(browser, "#detail h2") == "Which colour?"
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def test_trajectory_is_shown_whole(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        assert text(browser, "#reference") == "red"
        shown = text(browser, "#detail")
        assert "[40, 60, 100, 140]" in shown
        assert "[150, 30, 260, 90]" in shown
        sum_ = " ".join(text(browser, ".sum").split())
        assert sum_ == "0.8 x 1 accuracy + 0.2 x 0 format + 1.2 x 1 tool = 2.0 reward"
        order = browser.evaluate("[...document.querySelectorAll('.turn h3, .crop')].map(part => part.tagName)")
        assert order == ["H3", "H3", "H3", "FIGURE", "H3", "FIGURE", "H3"]  # the prompt's two, then turns and crops
        tags = browser.evaluate("[...document.querySelectorAll('.turn > .text .tag')].map(tag => tag.innerText)")
        assert tags[-4:] == ["<think>", "</think>", "<answer>", "</answer>"]

    def test_curves_hold_what_was_logged(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        assert text(browser, ".chart .last") == "1.5"
        heights = browser.evaluate(
            "[...document.querySelectorAll('.chart circle')].slice(0, 2).map(c => +c.getAttribute('cy'))"
        )
        assert heights[0] > heights[1]  # 0.5, then 1.5
        browser.click("#curves summary")
        settle(browser)
        assert "loss" in text(browser, "#curves details")

    def test_log_alone_is_shown(self, browser: Tab, tmp_path: Path) -> None:
        log(tmp_path, LOG)
        browser.open(write_report(tmp_path))
        assert "No trajectories were recorded" in text(browser, "#list")
        assert text(browser, ".chart .last") == "0.5"


def area_of(browser: Tab, selector: str, place: int = 0) -> list[float]:
    """Returns where an element is on the screen: left, top, right and bottom in pixels."""
    element = f"document.querySelectorAll({json.dumps(selector)})[{place}]"
    area: list[float] = browser.evaluate(f"(r => [r.x, r.y, r.right, r.bottom])({element}.getBoundingClientRect())")
    return area


class TestBoxes:
    def edges(self, browser: Tab, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Finds the inner edges of a drawn box on the screen, by its colour alone, as (x1, y1, x2, y2)."""
        screen = pixels(browser)
        left, top, right, bottom = map(round, area_of(browser, ".view"))
        places = [
            (x, y)
            for x in range(max(0, left - 4), min(screen.width, right + 4))
            for y in range(max(0, top - 4), min(screen.height, bottom + 4))
            if screen.getpixel((x, y)) == colour
        ]
        columns = {x for x, count in Counter(x for x, _ in places).items() if count > 60}
        rows = {y for y, count in Counter(y for _, y in places).items() if count > 60}
        assert columns
        assert rows
        middle_x, middle_y = (min(columns) + max(columns)) / 2, (min(rows) + max(rows)) / 2
        x1 = max(x for x in columns if x < middle_x) + 1
        y1 = max(y for y in rows if y < middle_y) + 1
        x2, y2 = min(x for x in columns if x > middle_x), min(y for y in rows if y > middle_y)
        return x1 - left, y1 - top, x2 - left, y2 - top

    @staticmethod
    def corners(browser: Tab, number: int, inset: int) -> list[tuple[int, int]]:
        """Pixels just inside the corners of a box on the screen."""
        x1, y1, x2, y2 = map(round, area_of(browser, ".box", number))
        return [(x, y) for y in (y1 + inset, y2 - 1 - inset) for x in (x1 + inset, x2 - 1 - inset)]

    @pytest.mark.parametrize("width", [1280, 1920])
    @pytest.mark.parametrize("factor", [1, 3])  # the picture is recorded as the view, or as a larger original
    def test_boxes_are_drawn_in_the_right_place(self, browser: Tab, tmp_path: Path, width: int, factor: int) -> None:
        image = pattern().resize((280 * factor, 168 * factor), Image.Resampling.NEAREST)
        tracer = Tracer(tmp_path, "0")
        record(tracer, [Prompt("?", "red", image, [Generation("red", [LEFT, RIGHT])], view_size=(280, 168))], 0)
        flush(tracer)
        browser.open(write_report(tmp_path), width, 1000)
        browser.evaluate("document.querySelector('.view').scrollIntoView({block: 'center'})")
        shown = browser.evaluate("document.querySelector('.view img').getBoundingClientRect().width")
        for box, colour in ((LEFT, PINK), (RIGHT, BLUE)):
            expected = [edge * shown / 280 for edge in box]
            assert self.edges(browser, colour) == pytest.approx(expected, abs=1.5)

    def test_box_holds_just_what_the_crop_shows(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        browser.evaluate("document.querySelector('.view').scrollIntoView({block: 'center'})")
        screen = pixels(browser)
        for number, colour in enumerate(((0, 160, 0), (200, 200, 0))):
            for place in self.corners(browser, number, inset=3):
                assert screen.getpixel(place) == pytest.approx(colour, abs=6)

    @pytest.mark.parametrize("orientation", [3, 6])  # by half a turn, by a quarter
    def test_camera_s_orientation_is_ignored_as_the_model_s_loader_does(
        self, browser: Tab, tmp_path: Path, orientation: int
    ) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        photo = tmp_path / "photo.jpg"
        pattern().save(photo, exif=exif, quality=95)
        tracer = Tracer(tmp_path, "0")
        record(tracer, [Prompt("?", "red", pattern(), [Generation("red", [LEFT, RIGHT])], file=photo)], 0)
        flush(tracer)
        page = write_report(tmp_path)
        assert "data:image/jpeg" in page.read_text(encoding="utf-8")  # as it was
        browser.open(page)
        browser.evaluate("document.querySelector('.view').scrollIntoView({block: 'center'})")
        screen = pixels(browser)
        for number, colour in enumerate(((0, 160, 0), (200, 200, 0))):
            for place in self.corners(browser, number, inset=6):
                assert screen.getpixel(place) == pytest.approx(colour, abs=12)

    def test_crops_are_shown_at_their_turns(self, browser: Tab, run: Path) -> None:
        browser.open(run, 1280, 1600)
        for number, colour in enumerate(((0, 160, 0), (200, 200, 0))):
            x1, y1, x2, y2 = area_of(browser, ".crop img", number)
            assert pixels(browser).getpixel((round((x1 + x2) / 2), round((y1 + y2) / 2))) == pytest.approx(
                colour, abs=6
            )


class TestFilters:
    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("step", "2", [8, 9, 10, 11, 12, 13, 14, 15]),
            ("source", "thinklite_eureka", [4, 5, 12, 13]),
            ("zoom", "zoomed", [0, 6, 7, 8, 14, 15]),
            ("zoom", "every call refused", [2, 10]),
            ("zoom", "no call", [1, 3, 4, 5, 9, 11, 12, 13]),
            ("format", "error", [3, 11]),
            ("judge", "rule", [2, 3, 10, 11]),
            ("verdict", "wrong", [2, 3, 10, 11]),
        ],
    )
    def test_one_filter(self, browser: Tab, run: Path, name: str, value: str, expected: list[int]) -> None:
        browser.open(run)
        choose(browser, name, value)
        assert listed(browser) == expected
        assert text(browser, "#count") == f"{len(expected)} of 16 trajectories"

    def test_verdict_that_was_not_recorded_is_neither_right_nor_wrong(self, browser: Tab, tmp_path: Path) -> None:
        table = {"step": ["1"], "prompt": ["Which?"], "completion": ["<answer>red</answer>"], "DeepEyesReward": [2.0]}
        (tmp_path / "completions.jsonl").write_text(json.dumps(table) + "\n")
        browser.open(write_report(tmp_path))
        assert listed(browser) == [0]
        assert browser.evaluate("document.getElementById('filter-verdict').disabled")
        assert text(browser, "#detail .pill") == "not recorded"
        assert text(browser, "tbody td:nth-child(2)") == "red"
        browser.click("#beside")
        assert text(browser, "[data-beside] .pill") == "not recorded"
        assert not browser.evaluate("document.querySelectorAll('main :is(.right, .wrong, article .tag-wrong)').length")

    def test_what_never_trained_is_named_and_can_be_set_aside(self, browser: Tab, run: Path, tmp_path: Path) -> None:
        browser.open(run)
        assert browser.evaluate("document.getElementById('filter-trained')") is None
        lines = [json.loads(line) for line in (run.parent / "traces/trajectories-0.jsonl").read_text().splitlines()]
        reasons = {"Which colour?": "evaluation", "What is 3 + 4?": "dynamic_sample"}
        marked = [{**line, "untrained": reasons.get(line["question"]), "images": []} for line in lines]
        (tmp_path / "trajectories-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in marked))
        browser.open(write_report(tmp_path))
        for value, expected in (("evaluation", 8), ("dropped", 4), ("yes", 4)):
            choose(browser, "trained", value)
            assert len(listed(browser)) == expected
            assert (value in text(browser, ".group .head")) == (value != "yes")
            note = text(browser, ".untrained") if value != "yes" else ""
            assert ("it trained nothing" in note) == (value != "yes")
            assert ("none" in text(browser, "tbody td:nth-child(5)")) == (value != "yes")

    def test_filters_add_up_and_go_away(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        choose(browser, "verdict", "wrong")
        choose(browser, "step", "1")
        choose(browser, "zoom", "every call refused")
        assert listed(browser) == [2]
        assert "Call refused: empty_box" in text(browser, "#detail")  # the first match is shown
        choose(browser, "source", "chart")
        assert listed(browser) == []
        assert "Nothing matches" in text(browser, "#list")
        for name in ("verdict", "step", "zoom", "source"):
            choose(browser, name, "")
        assert listed(browser) == list(range(16))

    def test_text_is_searched(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        browser.evaluate("document.getElementById('filter-text').value = 'BOXED{7'")
        browser.evaluate("document.getElementById('filter-text').dispatchEvent(new Event('input'))")
        assert listed(browser) == [4, 5, 12, 13]

    def test_keys_and_clicks_move(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        browser.press("j")
        assert browser.evaluate("location.hash") == f"#{key_of(browser, 1)}"
        browser.press("k")
        assert browser.evaluate("location.hash") == f"#{key_of(browser, 0)}"
        browser.click(".chip[data-t='4']")
        assert text(browser, "#detail h2") == "What is 3 + 4?"
        assert "1.2 x 1" in text(browser, ".sum")
        browser.click("tr[data-t='5']")
        assert browser.evaluate("location.hash") == f"#{key_of(browser, 5)}"

    def test_click_on_a_curve_shows_its_step(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        _, top, right, bottom = area_of(browser, ".chart svg")
        click = f"new MouseEvent('click', {{clientX: {right - 8}, clientY: {(top + bottom) / 2}}})"
        browser.evaluate(f"document.querySelector('.chart svg').dispatchEvent({click})")
        assert listed(browser) == list(range(8, 16))


class TestGroup:
    def test_generations_stand_side_by_side_with_their_advantages(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        browser.click("#beside")
        cards = browser.evaluate("[...document.querySelectorAll('[data-beside]')].map(card => card.innerText)")
        tops = browser.evaluate(
            "[...document.querySelectorAll('[data-beside]')].map(card => card.getBoundingClientRect().y)"
        )
        assert len(set(tops)) == 1
        rewards = [2.0, 0.8, 0.0, -0.2]
        mean = sum(rewards) / 4
        deviation = (sum((reward - mean) ** 2 for reward in rewards) / 3) ** 0.5
        for card, reward in zip(map(plain, cards), rewards, strict=True):
            assert f"advantage {round((reward - mean) / (deviation + 1e-4), 2):g}" in card
            assert f"{reward:.1f}" in card
        assert "(reward - mean) / (standard deviation + 0.0001)" in text(browser, "#detail")

    def test_table_lists_them_too(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        rows = browser.evaluate("[...document.querySelectorAll('tbody tr')].map(row => row.innerText.split('\\t'))")
        rows = [[plain(cell).strip() for cell in row] for row in rows]
        assert [row[3] for row in rows] == ["2.0", "0.8", "0.0", "-0.2 !"]
        assert rows[0][4] == "1.35"


class TestHostileText:
    def test_it_is_shown_as_text(self, browser: Tab, run: Path) -> None:
        browser.open(run)
        choose(browser, "source", "chart")
        assert browser.evaluate("document.title") == f"{run.parent.name} - DeepEyes report"
        assert browser.evaluate("document.querySelector('#detail h2').textContent").startswith(
            "</script><script>document"
        )
        assert "onerror=document.title" in text(browser, ".card > .turn:last-child .text")
        browser.click("#beside")
        assert "onerror=document.title" in text(browser, "[data-beside]")
        counts = browser.evaluate(
            "[document.scripts.length, document.querySelectorAll('article script, article b > *, img[onerror]').length]"
        )
        assert counts == [2 + browser.evaluate("document.querySelectorAll('[id^=image-]').length"), 0]

    def test_script_that_got_in_would_not_run(self, browser: Tab, run: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        attack = "<script>document.title = 'attacked'</script><img src='http://127.0.0.1:9/x'></body>"
        page.write_text(run.read_text(encoding="utf-8").replace("</body>", attack), encoding="utf-8")
        browser.open(page)
        assert browser.evaluate("document.title") != "attacked"
        assert len(browser.errors) == 2
        assert all("Content Security Policy" in error for error in browser.errors)
        browser.errors.clear()
        del browser.requests[1:]  # the picture's, which Chromium counts although it is refused


def test_screenshots_show_a_trajectory_and_then_its_group(browser: Tab, run: Path, tmp_path: Path) -> None:
    browser.open(run)
    command = [sys.executable, "-m", "deepeyes.report", run.parent, "--out", tmp_path / "page.html"]
    command += ["--screenshots", tmp_path / "docs"]  # as a program: Playwright runs once in a process
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    pictures = [Path(line) for line in done.stdout.splitlines()[1:]]
    assert [picture.name for picture in pictures] == ["report.png", "report-group.png"]
    single, group = (Image.open(picture).convert("RGB") for picture in pictures)
    assert single.size == group.size == (1440, 1080)
    colours = {colour: count for count, colour in single.getcolors(1 << 24) or []}
    assert colours[PINK] > 300  # the box of a trajectory that zoomed
    assert single.tobytes() != group.tobytes()


@pytest.fixture(scope="module")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Pages of 1,000 and of 2,000 trajectories in groups of 8, every image and text another."""
    folder = tmp_path_factory.mktemp("crowd")
    record_crowd(folder, 250)
    records = read_traces(folder)
    pages = {number: folder / f"{number}.html" for number in (1000, 2000)}
    for number, page in pages.items():
        page.write_text(make_page("large", [], records[:number], []), encoding="utf-8")
    return pages


class TestTwoThousandTrajectories:
    def test_they_open_scroll_and_filter(self, browser: Tab, crowds: dict[int, Path]) -> None:
        browser.open(crowds[2000])
        assert "2,000 trajectories" in text(browser, "#title")
        assert browser.evaluate("document.querySelectorAll('[id^=image-]').length") == 250 + 2000
        assert 0 < len(listed(browser)) < 1000  # the rest is drawn as one scrolls
        browser.evaluate("document.getElementById('list').scrollTop = 1e6")
        settle(browser)
        assert len(listed(browser)) > 480
        choose(browser, "step", "250")
        assert listed(browser) == list(range(1992, 2000))

    def test_no_more_is_drawn_than_of_half_as_many(self, browser: Tab, crowds: dict[int, Path]) -> None:
        """What makes the page fast; how fast it is, benchmarks/report.py tells."""
        found = []
        for page in crowds.values():
            browser.open(page)
            counts = [self.drawn(browser)]
            choose(browser, "zoom", "zoomed")
            counts.append(self.drawn(browser))
            browser.press("j")
            counts.append(self.drawn(browser))
            browser.click("#beside")
            counts.append(self.drawn(browser))
            found.append(counts)
        assert found[0] == found[1]
        assert [images for _, images in found[0]] == [2, 2, 2, 16]  # a view and a crop a trajectory

    @staticmethod
    def drawn(browser: Tab) -> list[int]:
        """Counts what the browser lays out, filters' options aside, and its images."""
        found: list[int] = browser.evaluate(
            "[document.querySelectorAll('body *:not(script, option)').length, document.images.length]"
        )
        return found
