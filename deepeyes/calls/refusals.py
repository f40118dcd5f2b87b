"""What the model is told of a call that yields no crop (pure)."""

from __future__ import annotations

# Short, stable, true of whatever it is said of, and with nothing in it that the model wrote.
ZOOM_ERRORS = {
    "too_long": 'Error: the tool call is too long. Write only a JSON object with "name" and "arguments".',
    "bad_json": (
        "Error: the tool call is not valid JSON. Write "
        '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [x1, y1, x2, y2]}}.'
    ),
    "unknown_tool": "Error: there is no such tool. The only tool is image_zoom_in_tool.",
    "bad_arguments": 'Error: "arguments" must be a JSON object that holds "bbox_2d": [x1, y1, x2, y2].',
    "bad_box": 'Error: "bbox_2d" must be a list of four numbers, [x1, y1, x2, y2].',
    "many_boxes": 'Error: a call takes one box, "bbox_2d": [x1, y1, x2, y2]. Call again for another.',
    "no_such_image": 'Error: there is no such image. "img_idx" counts the images of the question from 0.',
    "empty_box": "Error: the box holds no part of the image. It needs x1 < x2 and y1 < y2, inside the image.",
    "thin_box": "Error: the box is too thin. Choose one whose longer side is at most 100 times the shorter.",
    "small_box": "Error: the box is too small. Choose a larger one.",
    "bad_image": "Error: the image can't be read. Answer without the tool.",
}


class ZoomRefusedError(Exception):
    """A tool call that yields no crop.

    Attributes:
        code: Stable name of the reason, a key of `ZOOM_ERRORS`, kept in `rollout_infos["zooms"]`.
        text: What the model is told.
    """

    def __init__(self, code: str, hint: str = "") -> None:
        """Makes a refusal for the reason `code`, with a sentence more for the model."""
        super().__init__(code)
        self.code = code
        self.text = f"{ZOOM_ERRORS[code]} {hint}".rstrip()
