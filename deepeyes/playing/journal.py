"""The journal of a run: what is finished stays, and a run that is started again goes on from there.

A finished trajectory is a line of `answers.jsonl`, and its images are files named by their content.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import threading
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

from deepeyes.playing.endpoint import EndpointError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_SIDE = 2048  # pixels of an image that is kept; a view of 16384 tokens would take 26 MB without loss


class Journal:
    """Finished trajectories, a line each; a line that a killed process left half written goes when it is opened."""

    def __init__(self, directory: Path) -> None:
        """Opens the journal of a directory, and makes both if need be.

        Raises:
            EndpointError: Another process works in this directory.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.path = directory / "answers.jsonl"
        self._file: IO[bytes] = self.path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise EndpointError(f"{directory}: another process is writing here; give this one its own --out") from error
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        self._file.truncate(whole)
        self.answers: dict[str, dict[str, Any]] = {}
        for line in text[:whole].splitlines():
            answer = json.loads(line)
            self.answers[answer["id"]] = answer

    def add(self, answer: dict[str, Any]) -> None:
        """Appends one finished trajectory, which has an `id`."""
        self._file.write(json.dumps(answer, default=str).encode() + b"\n")
        self._file.flush()
        self.answers[answer["id"]] = answer

    def close(self) -> None:
        """Closes the file, and lets others write."""
        self._file.close()


def save_images(directory: Path, uris: Sequence[str]) -> list[str]:
    """Writes images under names that follow from their content, each once, and returns the names.

    Those with more than `MAX_SIDE` pixels a side are kept smaller: they are for the eye.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    for uri in uris:
        kind, _, text = uri.partition(";base64,")
        content = base64.b64decode(text)
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()[:20]
        found = next(directory.glob(f"{digest}.*"), None)
        if found is None:
            suffix = kind.rpartition("/")[2]
            with Image.open(io.BytesIO(content)) as image:
                if max(image.size) > MAX_SIDE:
                    content, suffix = _smaller(image), "jpeg"
            found = directory / f"{digest}.{suffix}"
            temporary = directory / f".{found.name}.{threading.get_ident()}"
            temporary.write_bytes(content)
            temporary.replace(found)
        names.append(found.name)
    return names


def _smaller(image: Image.Image) -> bytes:
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
