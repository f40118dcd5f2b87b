"""The pictures of the README, taken of a page in a real Chromium, by Playwright."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepeyes.report.chromium import CACHE, find_browser
from deepeyes.report.traces import ReportError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WIDTH, HEIGHT = 1440, 1080
FLAGS = [
    "--no-sandbox",  # it does not start as root; the only pages are our own
    "--no-zygote",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",  # so that a test can read colours from pixels
]
SHOWCASE = """() => {
  const {groups, trajectories} = JSON.parse(document.getElementById("data").textContent);
  const good = t => trajectories[t].num_zooms && trajectories[t].verdict.correct;
  const mixed = groups.filter(group => group.members.some(good) && !group.members.every(good));
  if (mixed.length) location.hash = trajectories[mixed[Math.floor(0.8 * mixed.length)].members.find(good)].key;
}"""
"""Selects what a picture shows best: of a late group in which generations differ, one that zoomed and was right."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Starts the Chromium that is installed, or the one in .cache/, and yields it as Playwright's `Browser`.

    Raises:
        ReportError: Playwright or a Chromium is missing; the message says what brings it.
    """
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - for development only
    except ImportError as error:
        raise ReportError(
            "screenshots need Playwright, which is for development: `uv sync --group dev`, or `pip install playwright`"
        ) from error
    program = find_browser()
    if program is None:
        raise ReportError(
            "screenshots need a Chromium, and none is installed; `python -m deepeyes.report.chromium` brings one"
        )
    env: dict[str, str | float | bool] = dict(os.environ)
    if program == str(CACHE / "chromium"):
        env |= {"LD_LIBRARY_PATH": str(CACHE / "lib"), "FONTCONFIG_PATH": str(CACHE), "XDG_CACHE_HOME": str(CACHE)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS, env=env)
        try:
            yield browser
        finally:
            browser.close()


def write_screenshots(page: Path, folder: Path) -> list[Path]:
    """Takes two pictures of a page: a trajectory, and a group side by side.

    Raises:
        ReportError: See `chromium`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(page.resolve().as_uri())
        tab.evaluate(SHOWCASE)
        tab.evaluate("scrollTo(0, 0)")
        for name in ("report", "report-group"):
            tab.evaluate("Promise.all([...document.images].map(image => image.decode()))")
            taken.append(folder / f"{name}.png")
            tab.screenshot(path=taken[-1])
            tab.click("#beside")
    return taken
