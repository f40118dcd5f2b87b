"""What the columns of a dataset row say about its trajectory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepeyes.markers import MEDIA_TAG
from deepeyes.prompts import DEFAULT_INSTRUCTION
from deepeyes.settings import OFFICIAL_SOURCES, TOOL_NAME, Scoring, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


def instruction_of(row: Mapping[str, Any], prompt: Any) -> str:
    """Returns the format instruction that ends a row's question, in the words of the dataset.

    It is what follows `extra_info.question` in the prompt, else the prompt's last line, if that speaks of
    `<answer>`; else our own wording.

    Args:
        row: Dataset columns, as far as they came with the request.
        prompt: Content of the user turn that asks the question.
    """
    if not isinstance(prompt, str):
        return DEFAULT_INSTRUCTION
    question = _extra_info(row).get("question")
    _, found, rest = prompt.rpartition(question) if isinstance(question, str) and question else ("", "", "")
    last_line = prompt[prompt.rstrip().rfind("\n") :] if "\n" in prompt.strip() else ""
    instruction = next((text for text in (rest if found else "", last_line) if "<answer>" in text), DEFAULT_INSTRUCTION)
    return MEDIA_TAG.sub("< ", instruction)


def has_tool(row: Mapping[str, Any], settings: Settings, prompt: str | None = None) -> bool:
    """Tells whether a dataset row comes with the zoom tool: not with an empty `env_name`, nor a math source.

    Args:
        row: Dataset columns, as far as they came with the request.
        settings: They name further sources and their scoring.
        prompt: All that the model was told before its first turn. Where no columns came along, the row has the tool
            if this names it.
    """
    if prompt is not None and not has_columns(row):
        return TOOL_NAME in prompt
    scorings = {**OFFICIAL_SOURCES, **dict(settings.sources)}
    return scorings.get(str(row.get("data_source"))) is not Scoring.MATH and row.get("env_name") != ""


def has_columns(row: Mapping[str, Any]) -> bool:
    """Tells whether the columns that say how a row is played came with its request."""
    return "data_source" in row or "env_name" in row


def _extra_info(row: Mapping[str, Any]) -> Mapping[str, Any]:
    extra_info = row.get("extra_info")
    return extra_info if isinstance(extra_info, dict) else {}


def row_name(row: Mapping[str, Any]) -> str:
    """Returns what to call a row in a message."""
    return f"{row.get('data_source', 'unknown source')} row {_extra_info(row).get('index', '?')}"
