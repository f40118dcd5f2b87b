"""What the scripts start: commands of swift, read back from their dry runs; and modules of the package (no swift)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).resolve().parents[1]
SCRIPT_TIMEOUT = 30.0  # seconds for a dry run of a script


class PlanError(Exception):
    """A script refuses the settings; the message is its own."""


@dataclass(frozen=True)
class Command:
    """A command of swift as a script would run it.

    Attributes:
        environment: What the script sets for it.
        options: Option without dashes -> its values; the last one counts, as in swift.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        """Returns the first value of an option."""
        return (*self.options.get(name, ()), default)[0]

    def number(self, name: str, default: int) -> int:
        """Returns an option that is a whole number."""
        return int(self.get(name) or default)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that it sees; none where it runs on the CPU."""
        return tuple(int(part) for part in self.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if part)

    @property
    def on_npus(self) -> bool:
        """Whether it runs on Ascend NPUs."""
        return "ASCEND_RT_VISIBLE_DEVICES" in self.environment


def parse_command(words: Sequence[str]) -> Command:
    """Reads `env NAME=VALUE ... swift COMMAND --option value ...`, or a command line without the first part."""
    environment: dict[str, str] = {}
    options: dict[str, tuple[str, ...]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            options[name] = (value,) if value else ()
        elif name is not None:
            options[name] = (*options[name], word)
        elif "=" in word:
            variable, _, value = word.partition("=")
            environment[variable] = value
    return Command(environment, options)


def module_command(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of this checkout as a program, whatever the working directory is."""
    return [sys.executable, str(HERE / "scripts" / "run_module.py"), module, *arguments]


def dry_run(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[Command, ...]:
    """Returns the commands that a script would run.

    Args:
        script: Its name.
        arguments: Its command line.
        environment: Settings in place of those of this process.

    Raises:
        PlanError: The script refuses its settings.
    """
    swift = Path(sys.executable).with_name("swift")
    own = {"SWIFT": str(swift)} if "SWIFT" not in os.environ and swift.exists() else {}
    done = subprocess.run(  # noqa: S603 - our own scripts
        ["bash", str(HERE / script), *arguments, "--dry-run"],  # noqa: S607 - bash is on PATH, or nothing runs
        capture_output=True,
        text=True,
        env={**os.environ, **own, **(environment or {})},
        timeout=SCRIPT_TIMEOUT,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PlanError(last.removeprefix("deepeyes: "))
    return tuple(parse_command(shlex.split(line)) for line in done.stdout.splitlines() if line.strip())
