"""Prompts: the system turn that describes the tool, and the instruction that ends a question (pure)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.prompts import DEFAULT_INSTRUCTION
from deepeyes.rows import instruction_of
from deepeyes.settings import TOOL_NAME, Coordinates

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Prompt:
    """The system turn, and what follows the question and is repeated after every crop."""

    system: str
    instruction: str


_BOX = {
    Coordinates.PIXEL: "pixels of the image",
    Coordinates.NORM1000: "thousandths of the image's width and height",
}


def own_prompt(coordinates: Coordinates, *, tool: bool) -> Prompt:
    """Returns our own wording of the training prompt, or of one without the tool."""
    if not tool:
        instruction = "\nReason first, then answer. Format: <think>...</think> <answer>...</answer>"
        return Prompt("You are a helpful assistant.", instruction)
    example = {"name": TOOL_NAME, "arguments": {"bbox_2d": [40, 60, 220, 180], "label": "the sign on the door"}}
    schema = json.dumps(tool_schema(coordinates))
    system = (
        "You are a helpful assistant.\n\n# Tools\nThese functions can be called while you answer; their signatures "
        f"stand within <tools></tools>:\n<tools>\n{schema}\n</tools>\n\n# Calling a tool\n"
        "Write its name and its arguments as one JSON object within <tool_call></tool_call>. For example:\n"
        f"<tool_call>\n{json.dumps(example)}\n</tool_call>"
    )
    instruction = (
        f"\nReason first, call **{TOOL_NAME}** where a detail is too small, then answer. Format: "
        "<think>...</think> and then either <tool_call>...</tool_call> or <answer>...</answer>"
    )
    return Prompt(system, instruction)


def tool_schema(coordinates: Coordinates) -> dict[str, Any]:
    """Returns the tool as the OpenAI protocol describes functions."""
    box = {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "description": f"[x1, y1, x2, y2]: left, top, right and bottom of the part, in {_BOX[coordinates]}.",
    }
    label = {"type": "string", "description": "What you expect to see there. May be left out."}
    return {
        "type": "function",
        "function": {
            "name": TOOL_NAME,
            "description": "Cuts a part out of the image and shows it to you as a new image.",
            "parameters": {
                "type": "object",
                "properties": {"bbox_2d": box, "label": label},
                "required": ["bbox_2d"],
            },
        },
    }


def prompt_from(row: Mapping[str, Any]) -> Prompt:
    """Takes the prompt of a training row: its system turn, and what follows its question in the user turn.

    Raises:
        ValueError: The row has no system turn, or its user turn does not hold its question.
    """
    system, user = ([turn["content"] for turn in row["prompt"] if turn["role"] == role] for role in ("system", "user"))
    instruction = instruction_of(row, user[0])
    if not system or instruction == DEFAULT_INSTRUCTION:
        raise ValueError("the first row has no system turn, or no instruction with <answer> after its question")
    return Prompt(system[0], instruction)


def first_turns(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the turns of a training row up to its last user turn, which asks the question."""
    turns = [dict(turn) for turn in row["prompt"]]
    return turns[: max((place + 1 for place, turn in enumerate(turns) if turn["role"] == "user"), default=0)]
