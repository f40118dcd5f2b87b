"""The prompt of every turn, token by token, is what the model saw in training.

On one side the scheduler of the plugin plays a row, and swift's template encodes each prompt. On the other a client
asks `serve` the same question, and the request of each turn is parsed and encoded as `swift deploy` does it.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import io
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_world import Script, ask, call, playing, serving
from swift.infer_engine import RequestConfig
from swift.infer_engine.protocol import ChatCompletionRequest, RolloutInferRequest
from swift.template import get_template
from swift_fakes import Engine, load_processor

import deepeyes_plugin as plugin
from deepeyes.playing.families import FAMILIES
from deepeyes.playing.prompts import own_prompt
from deepeyes.settings import CropSource, Settings

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = "Which colour is the ball?\nLook closely."
SCRIPTS = {
    "two zooms": [
        f"<think>It is small.</think>\n{call(28, 28, 140, 112, label='ball')}",
        call(100, 60, 200, 160),
        "<think>Red.</think><answer>red</answer>",
    ],
    "a refused call": [call(5, 5, 5, 5), "<think>So be it.</think><answer>red</answer>"],
}
FAMILY_OF = {"qwen2_5_vl": "qwen2.5-vl", "qwen3_vl": "qwen3-vl"}
"""Families by the names of swift's templates."""


@pytest.fixture(scope="module")
def picture() -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((650, 450), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module", params=FAMILY_OF)
def template(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    """The template of a family, with the tokenizer that both share."""
    processor = copy.copy(load_processor(tiny_model))
    processor.image_processor = copy.deepcopy(processor.image_processor)
    processor.image_processor.patch_size = FAMILIES[FAMILY_OF[request.param]].patch
    made = get_template(processor, template_type=request.param)
    made.max_length = None
    return made


def trained(template: Any, turns: list[str], picture: bytes) -> list[dict[str, Any]]:
    """What the engine of a rollout is shown, turn by turn."""
    family = FAMILIES[FAMILY_OF[template.template_meta.template_type]]
    prompt = own_prompt(family.coordinates, tool=True)
    engine = Engine(turns, template)
    scheduler = plugin.DeepEyesScheduler(infer_engine=engine, max_turns=6)
    messages = [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": f"<image>\n{QUESTION}{prompt.instruction}"},
    ]
    row = {"data_source": "vstar", "env_name": "visual_toolbox_v2", "extra_info": {"question": QUESTION}}
    asked = RolloutInferRequest(messages=messages, images=[base64.b64encode(picture).decode()], data_dict=row)
    asyncio.run(scheduler.run(asked, RequestConfig()))
    return engine.prompts


def served(template: Any, turns: list[str], picture: bytes) -> list[dict[str, Any]]:
    """What `swift deploy` makes of the requests of `serve`, turn by turn."""
    family = FAMILY_OF[template.template_meta.template_type]
    pixels = str(16384 * FAMILIES[family].side ** 2)  # the default of qwen_vl_utils, which the template has here
    uri = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    with (
        playing(Script(lambda asked: turns[asked.turn - 1])) as script,
        serving(script.url, "--family", family, "--crop-source", "view", "--max-pixels", pixels) as url,
    ):
        response = httpx.post(f"{url}/chat/completions", json={"messages": ask(uri, QUESTION)}, timeout=60)
    assert response.json()["choices"][0]["message"]["content"] == "red"
    prompts = []
    for asked in script.asked:
        names = ("model", "messages", "max_tokens")
        request, _ = ChatCompletionRequest(**{name: asked.body[name] for name in names}).parse()
        template.set_mode("vllm")
        prompts.append(template.encode(request))
    return prompts


class TestTokenIds:
    @pytest.mark.parametrize("name", SCRIPTS)
    def test_prompt_of_every_turn_is_that_of_training(
        self, template: Any, name: str, picture: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plugin, "SETTINGS", Settings(crop_source=CropSource.VIEW))
        turns = SCRIPTS[name]
        before, now = trained(template, turns, picture), served(template, turns, picture)
        assert len(now) == len(before) == len(turns)
        for one, other in zip(before, now, strict=True):
            assert list(other["input_ids"]) == list(one["input_ids"])
            sizes = [[image.size for image in encoded["images"]] for encoded in (one, other)]
            assert sizes[0] == sizes[1]
            assert [image.tobytes() for image in other["images"]] == [image.tobytes() for image in one["images"]]
