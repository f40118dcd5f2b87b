"""What was played: a line a trajectory on disk, three bits a trajectory in memory.

47,000 rows of 16 trajectories are 750,000 lines. They are read once, line by line, into bits, so that the memory of a
run does not grow with what it has played.
"""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_SAMPLES = 64  # bits of a word
PLAYS_NAME = "plays.jsonl"
AS_TRAINED, PLAIN = 0, 1
"""How a row is played: with its own prompt, as training does, or with a prompt that knows no tool."""


class Play(NamedTuple):
    """A trajectory that is over.

    Attributes:
        row: Number over all files.
        mode: `AS_TRAINED` or `PLAIN`.
        sample: Number among those of the row and mode, from 0.
        right: Whether the answer is right.
        crops: Crops that reached the model.
    """

    row: int
    mode: int
    sample: int
    right: bool
    crops: int


class Counts(NamedTuple):
    """How often rows were played; arrays, one entry a row.

    Attributes:
        played: As trained.
        right: Of these.
        right_with_crop: Of these, those in which a crop reached the model.
        plain: Without the tool.
        plain_right: Of these.
    """

    played: NDArray[np.uint8]
    right: NDArray[np.uint8]
    right_with_crop: NDArray[np.uint8]
    plain: NDArray[np.uint8]
    plain_right: NDArray[np.uint8]


class Ledger:
    """The trajectories of a run, on disk and in bits."""

    def __init__(self, directory: Path, rows: int) -> None:
        """Opens the file of plays, takes away a line that a killed process left half written, and reads the rest.

        Raises:
            DataFileError: Another process works in this directory, or the file is of other rows.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / PLAYS_NAME
        self._bits = np.zeros((3, 2, rows), np.uint64)  # done, right, with a crop
        self._file = self.path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise DataFileError(f"{directory}: another process plays here; give this one its own --out") from error
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            self._set(Play(*json.loads(line)), rows)
        self._file.truncate(whole)

    def _set(self, play: Play, rows: int) -> None:
        if not 0 <= play.row < rows:
            raise DataFileError(f"{self.path} holds row {play.row} of {rows}; give other files their own --out")
        bit = np.uint64(1 << play.sample)
        for place, value in enumerate((True, play.right, play.crops > 0)):
            if value:
                self._bits[place, play.mode, play.row] |= bit

    def holds(self, row: int, mode: int, sample: int) -> bool:
        """Tells whether a trajectory is over."""
        return bool(int(self._bits[0, mode, row]) >> sample & 1)

    def add(self, play: Play) -> None:
        """Appends a trajectory."""
        self._set(play, self._bits.shape[2])
        self._file.write(json.dumps([play.row, play.mode, play.sample, int(play.right), play.crops]).encode() + b"\n")
        self._file.flush()

    def counts(self) -> Counts:
        """Counts the trajectories of each row."""
        done, right, crop = self._bits

        def count(bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
            octets = np.ascontiguousarray(bits).view(np.uint8).reshape(-1, 8)
            counted: NDArray[np.uint8] = np.unpackbits(octets, axis=1).sum(axis=1, dtype=np.uint8)
            return counted

        trained, plain = AS_TRAINED, PLAIN
        with_crop = right[trained] & crop[trained]
        return Counts(*map(count, (done[trained], right[trained], with_crop, done[plain], right[plain])))

    def close(self) -> None:
        """Closes the file, and lets others write."""
        self._file.close()
