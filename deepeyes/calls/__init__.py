"""Tool calls: which one a turn ends with, what it says, and what the model is told of one that yields no crop."""

from deepeyes.calls.arguments import MAX_COORDINATE, ToolCall
from deepeyes.calls.parse import MAX_CALL_CHARS, next_call, parse_call
from deepeyes.calls.refusals import ZOOM_ERRORS, ZoomRefusedError

__all__ = [
    "MAX_CALL_CHARS",
    "MAX_COORDINATE",
    "ZOOM_ERRORS",
    "ToolCall",
    "ZoomRefusedError",
    "next_call",
    "parse_call",
]
