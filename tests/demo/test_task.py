"""The demo's task: the answer is in the crop and not in the view, and what is taught is what the scheduler does."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from qwen_vl_utils import fetch_image

from deepeyes.dataset.official import SCHEMA
from deepeyes.demo import stages, task

ROOT = Path(__file__).resolve().parents[2]

PICTURES = task.sample_pictures(12, seed=0, split="test")


def view(picture: task.Picture) -> bytes:
    return task.draw(picture).resize((task.VIEW_SIDE, task.VIEW_SIDE)).tobytes()


def crop(picture: task.Picture) -> bytes:
    return task.draw(picture).crop(task.on_original(task.card_box(picture.mat))).tobytes()


class TestTask:
    """The answer is in the crop and not in the view."""

    @pytest.mark.parametrize("picture", PICTURES)
    def test_view_is_the_same_for_every_pattern(self, picture: task.Picture) -> None:
        assert len({view(dataclasses.replace(picture, pattern=name)) for name in task.PATTERNS}) == 1

    @pytest.mark.parametrize("picture", PICTURES[:3])
    def test_crop_is_another_for_every_pattern(self, picture: task.Picture) -> None:
        crops = {crop(dataclasses.replace(picture, pattern=name)) for name in task.PATTERNS}
        assert len(crops) == len(task.PATTERNS)

    def test_view_tells_where_the_card_lies(self) -> None:
        assert len({view(dataclasses.replace(PICTURES[0], mat=mat)) for mat in range(4)}) == 4

    def test_view_of_the_plugin_is_the_one_that_hides_the_answer(self) -> None:
        image = fetch_image({"image": task.draw(PICTURES[0]), "max_pixels": task.VIEW_SIDE**2})
        assert image.tobytes() == view(PICTURES[0])

    def test_patterns_are_half_light_and_half_dark(self) -> None:
        assert all("".join(tile).count("1") == 8 for tile in task.PATTERNS.values())

    def test_no_number_of_a_box_repeats_a_digit(self) -> None:
        """Qwen's tokenizer spells numbers in digits, and so small a model miscounts them."""
        numbers = [str(number) for mat in range(len(task.MATS)) for number in task.card_box(mat)]
        assert len(numbers) == 16
        assert all(len(set(number)) == len(number) for number in numbers)

    def test_splits_share_no_picture_and_follow_from_the_seed(self) -> None:
        again = task.sample_pictures(12, seed=0, split="test")
        other = task.sample_pictures(12, seed=0, split="train")
        assert again == PICTURES
        assert not set(other) & set(PICTURES)

    def test_rows_have_the_official_columns_and_a_picture_that_decodes(self) -> None:
        row = task.row(3, PICTURES[0], "test")
        assert list(row) == SCHEMA.names
        assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (448, 448)
        assert row["extra_info"]["question"] in row["prompt"][-1]["content"]


class TestTrajectories:
    """What the warm-up teaches is what the scheduler does."""

    def test_scheduler_holds_the_conversation_that_was_taught(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(SCHEDULER_SCRIPT, encoding="utf-8")
        env = stages.child_environment(os.environ, PYTHONPATH=str(ROOT))
        done = subprocess.run(
            [sys.executable, script, tmp_path / "model"], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "same conversation, same crop" in done.stdout


SCHEDULER_SCRIPT = """
import asyncio, io, pathlib, sys
import deepeyes_plugin as plugin
from deepeyes import tiny_model
from deepeyes.demo import task
from deepeyes.images.encoding import image_bytes
from PIL import Image
from swift import get_processor, get_template
from swift.infer_engine.protocol import ChatCompletionResponseChoice, ChatMessage, RolloutInferRequest

picture = task.sample_pictures(1, seed=1, split="script")[0]
row = task.row(0, picture, "script")
request = RolloutInferRequest(messages=row["prompt"], images=row["images"], data_dict=row)
checkpoint = tiny_model.build(pathlib.Path(sys.argv[1]))
template = get_template(get_processor(str(checkpoint)), template_type="qwen2_5_vl")
scheduler = plugin.DeepEyesScheduler(max_turns=2, template=template, tokenizer=template.tokenizer)
asyncio.run(scheduler.on_trajectory_start([request]))
turn = task.zoom_turn(task.card_box(picture.mat))
request.messages.append({"role": "assistant", "content": turn})
choice = ChatCompletionResponseChoice(0, ChatMessage("assistant", turn), "stop", token_ids=[1])
asyncio.run(scheduler.on_turn_end(request, choice, 1))
scheduler.step(request, choice, 1)
from deepeyes.demo import warmup
prompt = "".join(f"<|im_start|>{one['role']}\\n{one['content']}<|im_end|>\\n" for one in request.messages)
prompt = prompt.replace("<image>", warmup.IMAGE) + "<|im_start|>assistant\\n"
taught = "".join(text for text, _ in warmup.spell(picture.mat, picture.pattern)[:-1])
assert prompt == taught, (prompt, taught)
crop = Image.open(io.BytesIO(image_bytes(request.images[1]))).convert("RGB")
assert crop.tobytes() == task.draw(picture).crop(task.on_original(task.card_box(picture.mat))).tobytes(), crop.size
print("same conversation, same crop")
"""
