"""A model behind `swift deploy` for the time of one question."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_SECONDS = 1800.0  # a large model is read from a slow disk
STOP_SECONDS = 30.0
POLL_SECONDS = 0.5
TAIL = 3000  # characters of the log that a failure quotes
TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Of config.json, under which swift knows several models; each is the plain one of that name."""


class DeployError(RuntimeError):
    """`swift deploy` could not be started; the message ends with what it said."""


def model_type(folder: Path) -> str:
    """Returns the `model_type` of a checkpoint's config.json.

    Raises:
        DeployError: The folder holds no checkpoint.
    """
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DeployError(
            f"--model {folder}: no config.json with a model_type ({error}); expected a checkpoint"
        ) from error


def command_of(folder: Path, port: int, extra: Sequence[str]) -> list[str]:
    """Returns the command that serves a checkpoint.

    Args:
        folder: The checkpoint.
        port: On 127.0.0.1.
        extra: Further arguments of swift; what they name is not set here.
    """
    beside = Path(sys.executable).with_name("swift")
    swift = os.environ.get("SWIFT") or (str(beside) if beside.exists() else shutil.which("swift") or "swift")
    words = [swift, "deploy", "--model", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    defaults = {"--served_model_name": folder.resolve().name, "--verbose": "false"}
    if importlib.util.find_spec("vllm"):
        defaults["--infer_backend"] = "vllm"
    kind = model_type(folder)
    if kind in TYPES and not (folder / "args.json").exists():
        defaults |= {"--model_type": kind, "--template": kind}
    for name, value in defaults.items():
        if name not in extra:
            words += [name, value]
    return [*words, *extra]


@contextlib.contextmanager
def deployed(folder: Path, max_pixels: int, extra: Sequence[str]) -> Iterator[str]:
    """Runs `swift deploy` for the time of a context, and yields its base URL.

    Args:
        folder: The checkpoint.
        max_pixels: Of a view; the server must not scale it again.
        extra: Further arguments of swift.

    Raises:
        DeployError: It ended before it answered, or does not answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = command_of(folder, port, extra)
    env = {**os.environ, "MAX_PIXELS": str(max_pixels)}
    with tempfile.TemporaryFile("w+") as log, _interrupted_by(signal.SIGTERM, signal.SIGHUP):
        process = subprocess.Popen(  # noqa: S603 - our own words
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, start_new_session=True
        )
        try:
            _await(process, f"http://127.0.0.1:{port}/v1", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(process)


@contextlib.contextmanager
def _interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Has signals do what Ctrl-C does at that time, so that a closed terminal leaves no server behind.

    In a running event loop that is not an exception in whatever runs just then: asyncio cancels the task. What a script
    starts in the background is deaf to Ctrl-C, and must not be to these.
    """
    before = {number: signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in signals}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await(process: subprocess.Popen[bytes], url: str, log: object) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/models", timeout=5):  # noqa: S310 - our own
            return
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            what = f"ended with status {ended}" if ended is not None else f"did not answer in {START_SECONDS:g} s"
            log.seek(0)  # type: ignore[attr-defined]  # a file
            raise DeployError(f"swift deploy {what}:\n{log.read()[-TAIL:]}")  # type: ignore[attr-defined]  # likewise
        time.sleep(POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server with all that it started."""
    try:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:  # who presses Ctrl-C again does not want to wait
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
