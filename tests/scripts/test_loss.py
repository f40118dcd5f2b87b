"""Which tokens train, by the loss scale that the script passes."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from sandbox import option, read_command
from swift import get_processor, get_template

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox import Sandbox

ZOOM = '<think>{}</think><tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {}}}}}</tool_call>'
TURNS = [
    ZOOM.format("Small.", [0, 0, 56, 56]),
    ZOOM.format("Left.", [9, 9, 70, 70]),
    "<think>Seen.</think><answer>red</answer>",
]


@pytest.fixture(scope="module")
def trained_text(tiny_model: Path) -> Callable[[str], list[str]]:
    """Give a function from a loss scale to the stretches of a trajectory of three turns that carry loss."""
    processor = get_processor(str(tiny_model), model_type="qwen2_5_vl", model_kwargs={"torch_dtype": "float32"})
    messages = [{"role": "system", "content": "You zoom."}, {"role": "user", "content": "<image>What colour?"}]
    for turn in TURNS[:-1]:
        messages += [{"role": "assistant", "content": turn}, {"role": "user", "content": "<image>Here."}]
    messages.append({"role": "assistant", "content": TURNS[-1]})
    images = [Image.new("RGB", size) for size in ((112, 84), (56, 56), (84, 84))]

    def encode(loss_scale: str) -> list[str]:
        template = get_template(processor, template_type="qwen2_5_vl", loss_scale=loss_scale)
        template.set_mode("train")
        labels = template.encode({"messages": messages, "images": images})["labels"]
        stretches = [list(group) for trained, group in groupby(labels, lambda label: label != -100) if trained]
        return [template.tokenizer.decode(stretch) for stretch in stretches]

    return encode


class TestLoss:
    """Which tokens of a trajectory train, as swift's template for Qwen2.5-VL marks them."""

    def test_every_assistant_turn_and_nothing_else_trains(
        self, sandbox: Sandbox, trained_text: Callable[[str], list[str]]
    ) -> None:
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run").stdout)
        (loss_scale,) = option(argv, "loss_scale")
        assert [text.removesuffix("\n").removesuffix("<|im_end|>") for text in trained_text(loss_scale)] == TURNS

    def test_swifts_default_would_have_trained_the_last_turn_alone(
        self, trained_text: Callable[[str], list[str]]
    ) -> None:
        (text,) = trained_text("last_round")
        assert text.startswith(TURNS[-1])
