"""The page in a real Chromium: a picture is dropped, a call is streamed, hostile text is text."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from serve_world import Asked, Script, Turn, call, playing, serving

from deepeyes.report.chromium import find_browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium is installed; `python -m deepeyes.report.chromium` brings one"
)

ROOT = Path(__file__).resolve().parents[2]
expect.set_options(timeout=60_000)  # milliseconds; a picture of 12 megapixels takes some on a busy machine
SIZE = (1120, 840)
BOX = (280, 210, 560, 420)
PINK, GREEN = (230, 0, 126), (0, 160, 0)  # of the first box, and of what is in it
ATTACK = "<script>document.title='attacked'</script><img src=x onerror=\"document.title='attacked'\"> \u202e </p>"
DROP = """([selector, bytes, type]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "picture.png", {type}));
  const target = document.querySelector(selector);
  const event = selector === "#question" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
                                         : new DragEvent("drop", {dataTransfer: data, bubbles: true});
  target.dispatchEvent(event);
}"""


def picture() -> bytes:
    image = Image.new("RGB", SIZE, (100, 100, 100))
    image.paste(GREEN, BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def policy(asked: Asked) -> Turn:
    if "again" in asked.texts[-1]:
        return Turn("<answer>blue</answer>")
    if asked.turn == 1:
        width, height = asked.images[0].size
        box = [side * whole / of for side, whole, of in zip(BOX, (width, height) * 2, SIZE * 2, strict=True)]
        return Turn(f"<think>I look {ATTACK}</think>{call(*box, label=ATTACK)}", pace=0.005)
    if asked.turn == 2:
        return Turn(call(5, 5, 5, 5))
    return Turn(f"<answer>red {ATTACK}</answer>")


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with playing(Script(policy)) as made:
        yield made


@pytest.fixture(scope="module")
def url(script: Script) -> Iterator[str]:
    with serving(script.url, "--retries", "0") as made:
        yield made.removesuffix("v1")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Page]:
    """A page of its own, which ends with no fault in the console and nothing asked of another host."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
    faults: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    try:
        yield page
        assert page.title() == "DeepEyes"
        assert [fault for fault in faults if "status of" not in fault] == []
        assert all(place.startswith((url, "data:", "blob:")) for place in asked)
    finally:
        page.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Page]:
    with opened(browser, url) as made:
        yield made


def put(page: Page, selector: str) -> None:
    """Drops a picture, or pastes it into the question."""
    page.evaluate(DROP, [selector, list(picture()), "image/png"])
    expect(page.locator("#chosen img")).to_have_count(1)


def ask(page: Page, question: str) -> None:
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")


class TestTalk:
    @pytest.mark.parametrize("selector", ["#composer", "#question"])
    def test_picture_that_is_dropped_or_pasted_is_asked_about(self, page: Page, selector: str) -> None:
        put(page, selector)
        ask(page, "Which colour?")
        expect(page.locator(".answer")).to_contain_text("red <script>")
        expect(page.locator(".crop")).to_have_count(2)
        expect(page.locator(".crop").first).to_contain_text("1")
        expect(page.locator(".crop").last).to_contain_text("Error: the box holds no part of the image")

    def test_box_lies_on_the_picture_where_the_crop_is_from(self, page: Page) -> None:
        put(page, "#composer")
        ask(page, "Which colour?")
        expect(page.locator(".answer")).to_be_visible()
        shown = page.locator(".picture img").bounding_box()
        box = page.locator("rect").bounding_box()
        for found, side, whole, start in zip(
            (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]),
            BOX, (*SIZE, *SIZE), ("x", "y", "x", "y"), strict=True,
        ):  # fmt: skip
            size = shown["width" if start == "x" else "height"]
            assert found == pytest.approx(shown[start] + side / whole * size, abs=3)
        page.locator(".picture").scroll_into_view_if_needed()
        pixels = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        at = page.locator("rect").bounding_box()
        assert pixels.getpixel((round(at["x"]), round(at["y"] + at["height"] / 2))) == PINK
        assert pixels.getpixel((round(at["x"] + at["width"] / 2), round(at["y"] + at["height"] / 2))) == GREEN

    def test_thoughts_and_box_are_there_before_the_answer(self, page: Page, script: Script) -> None:
        script.policy = lambda asked: policy(asked) if asked.turn == 1 else Turn(hang=True)
        try:
            put(page, "#composer")
            ask(page, "Which colour?")
            expect(page.locator(".thought")).to_contain_text("I look")
            expect(page.locator("rect")).to_have_count(1)
            expect(page.locator(".answer")).to_have_count(0)
            page.keyboard.press("Escape")
            expect(page.locator(".meta")).to_have_text("stopped")
        finally:
            script.policy = policy

    def test_further_question_keeps_the_talk_and_a_new_picture_begins_another(self, page: Page, script: Script) -> None:
        put(page, "#composer")
        ask(page, "Which colour?")
        expect(page.locator(".answer")).to_have_count(1)
        ask(page, "And again?")
        expect(page.locator(".answer")).to_have_count(2)
        assert script.asked[-1].texts[2].startswith("red ")
        page.get_by_role("button", name="New picture").click()
        put(page, "#composer")
        ask(page, "Third, again?")
        expect(page.locator(".answer")).to_have_count(1)
        page.get_by_role("button", name="Which colour?").click()
        expect(page.locator(".answer")).to_have_count(2)

    def test_example_is_asked_with_one_click(self, page: Page, script: Script) -> None:
        page.get_by_role("button", name="Stripes").click()
        expect(page.locator(".answer")).to_be_visible()
        assert "stripes" in script.asked[-1].texts[1]

    def test_everything_can_be_reached_by_keyboard(self, page: Page) -> None:
        reached = set()
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert {"file", "question", "ask", "Stripes", "Dots"} <= reached

    def test_fault_is_shown_in_its_words(self, page: Page, script: Script) -> None:
        script.policy = lambda _: Turn("out of memory <b>", status=500)
        try:
            put(page, "#composer")
            ask(page, "Which colour?")
            expect(page.locator(".fault")).to_contain_text("out of memory <b>")
        finally:
            script.policy = policy

    def test_question_without_a_picture_asks_for_one(self, page: Page) -> None:
        ask(page, "Which colour?")
        expect(page.locator(".fault")).to_have_text("Choose a picture first.")
        expect(page.locator("#question")).to_have_value("Which colour?")


class TestRecord:
    def test_page_of_one_answer_draws_what_happened(self, browser: Any, script: Script, tmp_path: Path) -> None:
        photo, page_file = tmp_path / "photo.png", tmp_path / "answer.html"
        photo.write_bytes(picture())
        words = [photo, f"Which? {ATTACK}", "--url", script.url, "--page", page_file]
        subprocess.run([sys.executable, "-m", "deepeyes.serving.ask", *words], cwd=ROOT, check=True)
        with opened(browser, page_file.as_uri()) as page:
            expect(page.locator(".answer")).to_contain_text("red <script>")
            expect(page.locator(".asked")).to_contain_text("<img src=x")
            expect(page.locator("rect")).to_have_count(1)
            expect(page.locator("#composer")).to_be_hidden()
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


class TestPhone:
    def test_nothing_sticks_out_on_a_phone(self, browser: Any, url: str) -> None:
        with opened(browser, url) as page:
            page.set_viewport_size({"width": 360, "height": 740})
            put(page, "#composer")
            ask(page, "W" * 300)
            expect(page.locator(".answer")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            heights = page.evaluate(
                "[...document.querySelectorAll('button, .button')].filter(b => b.offsetParent).map(b => b.offsetHeight)"
            )
            assert min(heights) >= 32


class TestLanguage:
    def test_page_is_in_chinese_for_a_chinese_browser(self, browser: Any, url: str) -> None:
        with opened(browser, url, locale="zh-CN") as page:
            expect(page.locator("#ask")).to_have_text("提问")
            assert not re.search(r"\bAsk\b", page.locator("body").inner_text())


class TestKey:
    def test_key_is_asked_for_and_sent(self, browser: Any, script: Script) -> None:
        with serving(script.url, api_key="secret") as url, opened(browser, url.removesuffix("v1")) as page:
            put(page, "#composer")
            ask(page, "Which colour?")
            expect(page.locator(".fault")).to_contain_text("asks for a key")
            page.locator("#key").fill("secret")
            ask(page, "Which colour?")
            expect(page.locator(".answer")).to_be_visible()
