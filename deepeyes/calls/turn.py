"""Tool calls: which one a turn ends with, and what it says (pure)."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.answers import blocks, outside_think
from deepeyes.markers import inert
from deepeyes.settings import TOOL_NAME, Rules

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CALL_CHARS = 2000  # a real call has about 120; the bound keeps parsing of hostile text cheap
MAX_COORDINATE = 1e6  # far beyond any image, so that a larger number is no coordinate


class ZoomRefusedError(Exception):
    """A tool call that yields no crop. `code` is a key of `ZOOM_ERRORS`.

    Attributes:
        code: Stable name of the reason, kept in `rollout_infos["zooms"]`.
    """

    def __init__(self, code: str) -> None:
        """Makes a refusal for the reason `code`."""
        super().__init__(code)
        self.code = code


# What the model is told. Short, stable, and with nothing in it that the model wrote.
ZOOM_ERRORS = {
    "too_long": 'Error: the tool call is too long. Write only a JSON object with "name" and "arguments".',
    "bad_json": (
        "Error: the tool call is not valid JSON. Write "
        '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [x1, y1, x2, y2]}}.'
    ),
    "unknown_tool": "Error: there is no such tool. The only tool is image_zoom_in_tool.",
    "bad_box": 'Error: "bbox_2d" must be a list of four numbers, [x1, y1, x2, y2].',
    "empty_box": "Error: the box holds no part of the image. It needs x1 < x2 and y1 < y2, inside the image.",
    "thin_box": "Error: the box is too thin. Choose one whose longer side is at most 100 times the shorter.",
    "small_box": "Error: the box is too small. Choose one whose sides are longer than 30 pixels.",
    "bad_image": "Error: the image can't be read. Answer without the tool.",
}


@dataclass(frozen=True)
class ToolCall:
    """A call of `image_zoom_in_tool`: four finite numbers as the model wrote them, and a label or None."""

    bbox_2d: tuple[float, float, float, float]
    label: str | None


def next_call(text: str, rules: Rules) -> str | None:
    """Returns the text of the tool call that a turn ends with, or None where the trajectory is over.

    A non-empty `<answer>` ends a trajectory even beside a call; the last of several calls runs.

    Source: `VisualToolBoxV2.execute` of the authors' `visual_toolbox_v2.py`.
    """
    if rules is Rules.OFFICIAL:
        answers = blocks(text, "answer")
        answered = bool(answers and answers[-1])
    else:
        answers = blocks(outside_think(text), "answer", innermost=True)
        answered = bool(answers and answers[-1].strip())
    calls = blocks(text, "tool_call")
    return (calls[-1] or None) if calls and not answered else None


def parse_call(text: str, rules: Rules) -> ToolCall:
    """Parses what stands between `<tool_call>` and `</tool_call>`.

    With `corrected`, slips whose meaning is beyond doubt are read: Python quotes, a trailing comma, missing
    closing braces, `bbox` for `bbox_2d`, four numbers in a string.

    Raises:
        ZoomRefusedError: The text is not a call of the tool.
    """
    text = text.strip()
    if len(text) > MAX_CALL_CHARS:
        raise ZoomRefusedError("too_long")
    lenient = rules is Rules.CORRECTED
    call = _load_object(text, lenient=lenient)
    if call is None:
        raise ZoomRefusedError("bad_json")
    if call.get("name") != TOOL_NAME:
        raise ZoomRefusedError("unknown_tool")
    arguments = call.get("arguments")
    if not isinstance(arguments, dict):
        raise ZoomRefusedError("bad_box")
    label = arguments.get("label")
    return ToolCall(_parse_box(arguments, lenient=lenient), inert(label) if isinstance(label, str) else None)


def _load_object(text: str, *, lenient: bool) -> dict[Any, Any] | None:
    readers: tuple[Callable[[str], object], ...] = (json.loads, ast.literal_eval) if lenient else (json.loads,)
    for suffix in ("", "}", "}}") if lenient else ("",):
        for reader in readers:
            with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                value = reader(text + suffix)
                if isinstance(value, dict):
                    return value
    return None


def _parse_box(arguments: dict[Any, Any], *, lenient: bool) -> tuple[float, float, float, float]:
    value = arguments.get("bbox_2d", arguments.get("bbox") if lenient else None)
    if lenient and isinstance(value, str):
        numbers = re.fullmatch(r"[\s\[(]*" + r"[\s,]+".join([r"(-?\d+(?:\.\d*)?)"] * 4) + r"[\s\])]*", value)
        value = [float(number) for number in numbers.groups()] if numbers else None
    if not isinstance(value, (list, tuple)) or len(value) != 4:  # noqa: PLR2004 - x1, y1, x2, y2
        raise ZoomRefusedError("bad_box")
    if not all(type(number) in (int, float) and abs(number) <= MAX_COORDINATE for number in value):  # NaN fails too
        raise ZoomRefusedError("bad_box")
    return tuple(value)
