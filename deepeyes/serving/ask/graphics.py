"""Pictures in a terminal: which protocol it speaks, and a picture in it.

Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/, https://iterm2.com/documentation-images.html and
https://vt100.net/docs/vt3xx-gp/chapter14.html. No kept library speaks all three.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import select
import sys
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

MAX_SIDE = 480  # pixels; larger pictures push the text out of sight
CHUNK = 4096  # bytes of base64 in one message to kitty
SIXEL_COLOURS = 255
REPLY_SECONDS = 0.3  # for a terminal to say what it can do; over ssh it takes a while


class Protocol(str, Enum):
    """How a terminal is sent pictures."""

    NONE = "none"
    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"


def find_protocol(env: Mapping[str, str], *, is_terminal: bool) -> Protocol:
    """Returns the protocol of the terminal that stderr is; `none` where it is none, or is behind tmux or screen."""
    program = env.get("TERM_PROGRAM", "")
    if not is_terminal or env.get("TMUX") or env.get("TERM", "").startswith(("screen", "tmux", "dumb")):
        return Protocol.NONE
    if env.get("KITTY_WINDOW_ID") or "kitty" in env.get("TERM", "") or program.lower() == "ghostty":
        return Protocol.KITTY
    if program in ("iTerm.app", "WezTerm") or env.get("LC_TERMINAL") == "iTerm2":
        return Protocol.ITERM2
    return Protocol.SIXEL if _says_sixel() else Protocol.NONE


def _says_sixel() -> bool:
    """Asks the terminal for its device attributes, of which the number 4 is sixel."""
    if not sys.stdin.isatty():
        return False
    import termios  # noqa: PLC0415 - not on every system
    import tty  # noqa: PLC0415 - likewise

    reply = b""
    with contextlib.suppress(OSError, termios.error):
        before = termios.tcgetattr(0)
        try:
            tty.setcbreak(0)
            os.write(2, b"\x1b[c")
            while not reply.endswith(b"c") and select.select([0], [], [], REPLY_SECONDS)[0]:
                reply += os.read(0, 64)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
    return bool(re.search(rb"\x1b\[\?[\d;]*\b4\b[\d;]*c", reply))


def draw(image: Image.Image, protocol: Protocol) -> str:
    """Returns what a terminal must be sent to show a picture; nothing for `none`."""
    if protocol is Protocol.NONE:
        return ""
    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    if protocol is Protocol.SIXEL:
        return _sixel(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    if protocol is Protocol.ITERM2:
        return f"\x1b]1337;File=inline=1;size={buffer.tell()}:{data}\x07"
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    more = [int(at < len(chunks) - 1) for at in range(len(chunks))]
    heads = ["f=100,a=T,q=2,"] + [""] * (len(chunks) - 1)
    return "".join(f"\x1b_G{head}m={m};{chunk}\x1b\\" for head, m, chunk in zip(heads, more, chunks, strict=True))


def _sixel(image: Image.Image) -> str:
    """Encodes a picture in bands of six rows, colour by colour."""
    flat = image.quantize(SIXEL_COLOURS)
    palette = flat.getpalette() or []
    width, height = flat.size
    pixels = flat.tobytes()
    parts = [f'\x1bPq"1;1;{width};{height}']
    for colour in range(len(palette) // 3):
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * colour : 3 * colour + 3])
        parts.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        rows = [pixels[y * width : (y + 1) * width] for y in range(top, min(top + 6, height))]
        for colour in sorted(set().union(*rows)):
            masks = (sum((row[x] == colour) << bit for bit, row in enumerate(rows)) for x in range(width))
            parts.append(f"#{colour}{_packed(''.join(chr(63 + mask) for mask in masks))}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def _packed(text: str) -> str:
    """Writes a character that is repeated as its number and itself."""
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", text)
