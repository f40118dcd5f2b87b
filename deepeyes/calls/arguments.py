"""From the arguments of a call to a box, a label and an image (pure)."""

from __future__ import annotations

import contextlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from deepeyes.calls.forms import BOX_KEYS, FULL_WIDTH, NUMBER, load
from deepeyes.calls.refusals import ZoomRefusedError
from deepeyes.markers import inert
from deepeyes.settings import TOOL_NAME

MAX_COORDINATE = 1e6  # far beyond any image: a number farther out means the same edge
Corners = tuple[float, float, float, float]

CORNER_NAMES = (
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("minx", "miny", "maxx", "maxy"),
    ("left", "top", "right", "bottom"),
)
SIZE_NAMES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
POINT_NAMES = (("topleft", "bottomright"),)


@dataclass(frozen=True)
class ToolCall:
    """A call of `image_zoom_in_tool`.

    Attributes:
        bbox_2d: Four finite numbers as the model wrote them, in the frame of its family.
        label: What the model calls the part, or None.
        image: Which image of the question it is about, from 0.
    """

    bbox_2d: Corners
    label: str | None
    image: int = 0


def official_call(text: str) -> ToolCall:
    """Reads just the JSON object that the prompt asks for; any other image than the first is out of its reach.

    Source: `VisualToolBoxV2.execute` of the authors' `visual_toolbox_v2.py`.

    Raises:
        ZoomRefusedError: It is anything else.
    """
    call = None
    with contextlib.suppress(ValueError, RecursionError):
        call = json.loads(text)
    if not isinstance(call, dict):
        raise ZoomRefusedError("bad_json")
    if call.get("name") != TOOL_NAME:
        raise ZoomRefusedError("unknown_tool")
    arguments = call.get("arguments")
    if not isinstance(arguments, dict):
        raise ZoomRefusedError("bad_arguments")
    box = arguments.get("bbox_2d")
    if not isinstance(box, list) or len(box) != 4:  # noqa: PLR2004 - x1, y1, x2, y2
        raise ZoomRefusedError("bad_box")
    if not all(type(number) is int or (type(number) is float and math.isfinite(number)) for number in box):
        raise ZoomRefusedError("bad_box")
    return ToolCall(_clamped(box), _label(arguments))


def read_arguments(arguments: Any) -> ToolCall:
    """Reads the arguments of a call in any shape whose meaning is beyond doubt.

    The box may be four numbers or texts of numbers, two corners, one box in a list, named corners or a text of any
    of these; under `bbox_2d` or another name of the same thing. `img_idx` counts images from 0, `target_image` from 1.

    Raises:
        ZoomRefusedError: There is no box, or more than one, or the image is no number.
    """
    if not isinstance(arguments, dict):
        raise ZoomRefusedError("bad_arguments")
    given = [arguments[key] for key in BOX_KEYS if arguments.get(key) is not None]
    try:
        box = _corners(given[0] if given else arguments)
    except RecursionError:
        raise ZoomRefusedError("bad_box") from None
    return ToolCall(_clamped(box), _label(arguments), _image(arguments))


def _label(arguments: dict[Any, Any]) -> str | None:
    label = arguments.get("label")
    return inert(label) if isinstance(label, str) else None


def _image(arguments: dict[Any, Any]) -> int:
    """Returns the index, from 0, of the image that a call names, else 0."""
    chosen = set()
    for key, first in (("img_idx", 0), ("target_image", 1)):
        value = arguments.get(key)
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "none")):
            continue
        number = _number(value)
        if number is None or number != int(number):
            raise ZoomRefusedError("no_such_image")
        chosen.add(int(number) - first)
    if len(chosen) > 1 or any(image < 0 for image in chosen):
        raise ZoomRefusedError("no_such_image")
    return chosen.pop() if chosen else 0


def _clamped(box: Any) -> Corners:
    x1, y1, x2, y2 = (min(max(number, -MAX_COORDINATE), MAX_COORDINATE) for number in box)
    return x1, y1, x2, y2


def _number(value: Any) -> float | None:
    """Returns a finite number, also of a text of one; None for anything else."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = float(value)
        value = int(value) if value == int(min(max(value, -MAX_COORDINATE), MAX_COORDINATE)) else value
    if type(value) is int:
        return min(max(value, -int(MAX_COORDINATE)), int(MAX_COORDINATE))  # too large for a float otherwise
    return value if type(value) is float and math.isfinite(value) else None


def _corners(value: Any) -> list[float]:
    """Reads a box.

    Raises:
        ZoomRefusedError: It is no box, or more than one.
    """
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, dict):
        value = _from_names(value)
    if not isinstance(value, (list, tuple)):
        raise ZoomRefusedError("bad_box")
    numbers = [_number(item) for item in value]
    if len(numbers) == 4 and None not in numbers:  # noqa: PLR2004 - x1, y1, x2, y2
        return [number for number in numbers if number is not None]
    if len(value) == 1:
        return _corners(value[0])
    points = [_point(item) for item in value]
    if len(points) == 2 and None not in points:  # noqa: PLR2004 - two corners
        return [number for point in points if point is not None for number in point]
    if len(value) > 1 and all(_is_box(item) for item in value):
        raise ZoomRefusedError("many_boxes")
    raise ZoomRefusedError("bad_box")


def _is_box(value: Any) -> bool:
    with contextlib.suppress(ZoomRefusedError, RecursionError):
        return bool(_corners(value))
    return False


def _point(value: Any) -> tuple[float, float] | None:
    if isinstance(value, dict) and {"x", "y"} == set(value):
        value = [value["x"], value["y"]]
    if not isinstance(value, (list, tuple)) or len(value) != 2:  # noqa: PLR2004 - x, y
        return None
    x, y = map(_number, value)
    return None if x is None or y is None else (x, y)


def _from_names(value: dict[Any, Any]) -> Any:
    """Finds the corners in a dict that names them."""
    inner = [value[key] for key in BOX_KEYS if key in value]
    if inner:
        return inner[0] if isinstance(inner[0], (list, tuple)) else None
    plain = {re.sub(r"[\s_-]", "", str(key)).lower(): item for key, item in value.items()}
    for names in (*CORNER_NAMES, *POINT_NAMES):
        if all(name in plain for name in names):
            return [plain[name] for name in names]
    for names in SIZE_NAMES:
        numbers = [_number(plain.get(name)) for name in names]
        x, y, width, height = numbers
        if x is not None and y is not None and width is not None and height is not None:
            return [x, y, x + width, y + height]
    return None


def _from_text(text: str) -> Any:
    """Reads a box that came as a text: JSON, or numbers with nothing but brackets, commas and spaces around them."""
    text = re.sub(r"</?[a-z_]+>|<\|[a-z_]+\|>", " ", text).translate(FULL_WIDTH)
    if "{" in text:
        return load(text)
    numbers = NUMBER.findall(text)
    if re.fullmatch(r"[\s\[\](),;]*", NUMBER.sub("", text)):
        if len(numbers) == 4:  # noqa: PLR2004 - x1, y1, x2, y2
            return numbers
        if len(numbers) > 4 and len(numbers) % 4 == 0:  # noqa: PLR2004 - a box each
            raise ZoomRefusedError("many_boxes")
    return None
