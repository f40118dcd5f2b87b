"""Shows an answer in a terminal as it comes: thoughts dim, crops as pictures or as boxes, the answer on stdout.

What is not the answer goes to stderr, so that `$(bash deepeyes.sh ask ...)` holds the answer alone.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, TextIO

from PIL import Image
from rich.console import Console

from deepeyes.serving.ask.graphics import Protocol, draw
from deepeyes.serving.events import Ended, Kind, Text, Zoomed

if TYPE_CHECKING:
    from deepeyes.serving.events import Event

LIMITS = {
    "max_turns": "out of turns, without an answer; --max-turns allows more",
    "max_tokens": "cut at the limit of tokens; --max-tokens allows more",
    "content_filter": "cut by the content filter of the model's endpoint",
}


def plain(text: str) -> str:
    """Returns text that can't steer a terminal: no escape sequence, no control character."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


class Show:
    """Shows one answer.

    Attributes:
        complete: Whether an answer came to its end.
    """

    def __init__(self, out: TextIO, err: TextIO, protocol: Protocol) -> None:
        """Makes what shows an answer.

        Args:
            out: Where the answer goes.
            err: Where all else goes.
            protocol: How this terminal is sent pictures.
        """
        self._out, self._err, self._protocol = Console(file=out), Console(file=err), protocol
        self.complete = False
        self._open_line = False

    def add(self, event: Event) -> None:
        """Shows what happened."""
        if isinstance(event, Text) and event.kind is Kind.REASONING:
            self._say(self._err, plain(event.text), "dim")
        elif isinstance(event, Text) and event.kind is Kind.CONTENT:
            self._end_line()
            self._out.print(plain(event.text), style="bold", end="", markup=False, highlight=False, soft_wrap=True)
        elif isinstance(event, Zoomed):
            self._end_line()
            self._zoom(event)
        elif isinstance(event, Ended):
            self._out.print()
            self.complete = event.finish_reason == "stop"
            if event.stopped in LIMITS:
                self._say(self._err, f"ask: {LIMITS[event.stopped]}\n", "red")

    def _say(self, console: Console, text: str, style: str) -> None:
        console.print(text, style=style, end="", markup=False, highlight=False, soft_wrap=True)
        self._open_line = bool(text) and not text.endswith("\n")

    def _end_line(self) -> None:
        if self._open_line:
            self._err.print()
            self._open_line = False

    def _zoom(self, event: Zoomed) -> None:
        zoom = event.zoom
        if event.crop is None:
            self._say(self._err, f"  no crop: {plain(event.told or '')}\n", "yellow")
            return
        label = f" {plain(zoom['label'])}" if zoom.get("label") else ""
        crop = Image.open(io.BytesIO(base64.b64decode(event.crop.partition(",")[2])))
        size = f"{crop.width} x {crop.height} pixels"
        self._say(self._err, f"  crop{label}: box {zoom['box']} of the view, {size}\n", "cyan")
        if picture := draw(crop, self._protocol):
            self._err.file.write(f"{picture}\n")
            self._err.file.flush()
