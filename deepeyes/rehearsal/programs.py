"""Programs that run for the rehearsal, how much memory they take, and that nothing of them stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

POLL_SECONDS = 0.5
STOP_SECONDS = 20.0
"""How long a program may take to end on Ctrl-C."""
GPU_QUERY = ("nvidia-smi", "--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
GPU_EVERY = 2.0  # seconds; nvidia-smi takes a tenth of one


@dataclass
class Program:
    """A program with all that it starts.

    Attributes:
        name: What it is called in the table.
        log: Its output.
        process: It.
        peak: Most memory of all its processes together, in gigabytes.
        seen: Processes that it ever had.
    """

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    peak: float = 0.0
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> None:
        """Measures the memory of its processes."""
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.process.pid)
            for process in (root, *root.children(recursive=True)):
                self.seen.setdefault(process.pid, process)
        total = 0
        for process in self.seen.values():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.peak = max(self.peak, total / 1e9)

    def stop(self) -> None:
        """Ends it and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in self.seen.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()

    def tail(self, lines: int) -> list[str]:
        """Returns the end of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]


def start(name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Program:
    """Starts a program in a session of its own."""
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own scripts
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    return Program(name, log, process)


@dataclass
class GpuMemory:
    """The most that each GPU was ever seen to hold.

    Attributes:
        used: GPU -> gigabytes, those of other programs included.
        total: GPU -> gigabytes.
    """

    used: dict[int, float] = field(default_factory=dict)
    total: dict[int, float] = field(default_factory=dict)
    _looked: float = -GPU_EVERY

    def look(self) -> None:
        """Asks nvidia-smi, where there is one."""
        if time.monotonic() - self._looked < GPU_EVERY:
            return
        self._looked = time.monotonic()
        try:
            lines = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603 - our own words
            for line in lines.splitlines():
                index, used, total = (int(part) for part in line.split(","))
                self.used[index] = max(self.used.get(index, 0.0), used / 1024)
                self.total[index] = total / 1024
        except (OSError, ValueError, subprocess.SubprocessError):
            return


def wait_for(program: Program, beside: Sequence[Program], gpus: GpuMemory) -> Program | None:
    """Waits until a program ends, and measures it and those beside it meanwhile.

    Returns:
        The program that failed: it, or one beside it that ended before it; None where all is well.
    """
    while program.process.poll() is None:
        for one in (program, *beside):
            one.look()
        gpus.look()
        for other in beside:
            if other.process.poll() is not None:
                program.stop()
                return other
        time.sleep(POLL_SECONDS)
    return program if program.process.returncode else None
