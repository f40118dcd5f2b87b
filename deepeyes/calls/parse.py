"""From a turn to the call that it ends with (pure)."""

from __future__ import annotations

from deepeyes.answers import blocks, outside_think
from deepeyes.calls.arguments import ToolCall, official_call, read_arguments
from deepeyes.calls.forms import read_form
from deepeyes.calls.refusals import ZoomRefusedError
from deepeyes.settings import TOOL_NAME, Rules

MAX_CALL_CHARS = 2000  # a real call has about 120; the bound keeps parsing of hostile text cheap


def next_call(text: str, rules: Rules) -> str | None:
    """Returns the text of the tool call that a turn ends with, or None where the trajectory is over.

    A non-empty `<answer>` ends a trajectory even beside a call; the last of several calls runs. With `corrected`,
    a thought that names the tag is no call, unless the turn holds no other.

    Source: `VisualToolBoxV2.execute` of the authors' `visual_toolbox_v2.py`.
    """
    if rules is Rules.OFFICIAL:
        answers = blocks(text, "answer")
        answered = bool(answers and answers[-1])
        calls = blocks(text, "tool_call")
    else:
        spoken = outside_think(text)
        answers = blocks(spoken, "answer", innermost=True)
        answered = bool(answers and answers[-1].strip())
        calls = blocks(spoken, "tool_call", innermost=True) or blocks(text, "tool_call", innermost=True)
    return (calls[-1] or None) if calls and not answered else None


def parse_call(text: str, rules: Rules) -> ToolCall:
    """Parses what stands between `<tool_call>` and `</tool_call>`.

    With `official` it is the JSON object that the prompt asks for. With `corrected`, the forms of other families
    and slips whose meaning is beyond doubt are read too: see `deepeyes.calls.forms` and
    `deepeyes.calls.arguments`.

    Raises:
        ZoomRefusedError: The text is not a call of the tool.
    """
    text = text.strip()
    if len(text) > MAX_CALL_CHARS:
        raise ZoomRefusedError("too_long")
    if rules is Rules.OFFICIAL:
        return official_call(text)
    form = read_form(text)
    if form is None:
        raise ZoomRefusedError("bad_json")
    if form.name != TOOL_NAME:
        raise ZoomRefusedError("unknown_tool")
    return read_arguments(form.arguments)
