"""A tab of a real Chromium, for the tests of pages: it acts, and notes requests and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, ConsoleMessage


class Tab:
    """One page at a time.

    Attributes:
        errors: What the console reported as an error, and uncaught exceptions.
        requests: Addresses asked for, `data:` ones aside.
        page: Playwright's page.
    """

    def __init__(self, browser: Browser) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto("about:blank")
        self.page.goto(page.resolve().as_uri())
        self.requests[:] = [address for address in self.requests if not address.startswith("data:")]

    def evaluate(self, script: str) -> Any:
        return self.page.evaluate(script)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def click(self, selector: str) -> None:
        self.page.locator(selector).first.click()

    def screenshot(self) -> bytes:
        return self.page.screenshot()
