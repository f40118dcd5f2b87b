"""The zoom with every family that people train: its pixels, its tokens, its loss, and a step of training."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from swift.infer_engine import RequestConfig
from swift.infer_engine.protocol import RolloutOutput
from swift.model import get_processor
from swift.rl_core.data import OnPolicySample
from swift.rlhf_trainers.utils import encode_sample
from swift.rollout.agent_loop import run_multi_turn
from swift.template import get_template
from swift_env import ROOT
from swift_fakes import Engine, jpeg
from tiny_families import BOX, FAMILIES, row_of, turns_of, write_checkpoint

from deepeyes.calls import ToolCall
from deepeyes.family import media_tokens
from deepeyes.images.encoding import image_bytes
from deepeyes.images.processor import ImageProcessor
from deepeyes.settings import Settings
from deepeyes_plugin import DeepEyesScheduler

if TYPE_CHECKING:
    from pathlib import Path

PICTURE = jpeg(840, 756)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def template(name: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Swift's real template with the family's real processor."""
    family = FAMILIES[name]
    folder = write_checkpoint(tmp_path_factory.mktemp("family"), family, weights=False)
    template = get_template(get_processor(str(folder), model_type=family.model_type), template_type=family.template)
    template.max_length = None
    return template


class Sampler(Engine):
    """Samples each character by itself, as no tokenizer would: only the sampled ids themselves can come back."""

    def __init__(self, turns: list[str], template: Any, end: str) -> None:
        super().__init__(turns, template)
        self.end = template.tokenizer.convert_tokens_to_ids(end)
        self.sampled: list[list[int]] = []

    def reply(self, request: Any) -> Any:
        mode = self.template.mode
        response = super().reply(request)
        self.template.set_mode(mode)
        choice = response.choices[0]
        letters = (self.tokenizer.encode(char, add_special_tokens=False) for char in choice.message.content)
        choice.token_ids = [*chain.from_iterable(letters), self.end]
        choice.logprobs = {"content": [{"logprob": -0.001 * place} for place in range(len(choice.token_ids))]}
        self.sampled.append(list(choice.token_ids))
        return response


def play(template: Any, engine: Sampler, way: str) -> Any:
    """Plays a trajectory behind a server or in a trainer; what a server gives travels as JSON."""
    one = OnPolicySample.from_row(row_of(PICTURE)).to_infer_request(include_extra=True)
    if way == "server":
        scheduler = DeepEyesScheduler(infer_engine=engine, max_turns=4)
        output = asyncio.run(scheduler.run(one, RequestConfig()))
        return RolloutOutput.model_validate(json.loads(output.model_dump_json()))
    scheduler = DeepEyesScheduler(max_turns=4, tokenizer=template.tokenizer, template=template)
    asyncio.run(scheduler.on_trajectory_start([one]))
    first = engine.rollout([one])
    return run_multi_turn([one], first, scheduler, engine.rollout, RequestConfig(), 4)[0]


class TestPixels:
    @pytest.mark.parametrize("size", [(840, 756), (333, 517), (60, 400)])
    def test_crop_is_the_box_of_the_view_that_the_engine_gets(
        self, name: str, template: Any, size: tuple[int, int]
    ) -> None:
        family, source = FAMILIES[name], jpeg(*size)
        processor = ImageProcessor(template, None, Settings())
        assert (processor.coordinates.value, processor.token) == (family.frame, family.token)
        view = processor.view(source).result()
        template.set_mode("vllm")
        seen = template.encode({"messages": [{"role": "user", "content": "<image>What?"}], "images": [source]})
        (image,) = seen["images"]
        assert view.image.tobytes() == image.convert("RGB").tobytes()
        width, height = view.image.size
        scale = (width, height) if family.frame == "pixel" else (1000, 1000)
        box, crop = processor.zoom(view, ToolCall((0, scale[1] / 4, scale[0], scale[1] / 2), None))
        assert box == (0, round(height / 4), width, round(height / 2))
        assert crop.tobytes() == image.convert("RGB").crop(box).tobytes()

    def test_media_tokens_are_those_of_the_family(self, name: str, template: Any) -> None:
        names = set(media_tokens(template, template.tokenizer).names.values())
        assert FAMILIES[name].pad in names
        assert not names & {"<tool_call>", "</tool_call>", "<think>", "<|im_end|>", "<|user|>", "<|begin_of_box|>"}


class TestTokens:
    @pytest.mark.parametrize("way", ["server", "trainer"])
    def test_sampled_tokens_carry_loss_and_nothing_else_does(self, name: str, template: Any, way: str) -> None:
        engine = Sampler(turns_of(name), template, FAMILIES[name].end)
        template.set_mode("train")
        output = play(template, engine, way)
        infos = output.rollout_infos
        assert (infos["num_zooms"], infos["num_zoom_errors"]) == (1, 0)
        assert infos["zooms"][0]["bbox_2d"] == list(BOX)
        assert [turn.endswith(text) for turn, text in zip(infos["turns"], turns_of(name), strict=True)] == [True] * 2
        sample = OnPolicySample.from_row(row_of(PICTURE))
        sample.apply_rollout_output(rollout_output=output)
        template.set_mode("train")
        encoded = encode_sample(sample, template)
        with_loss = [
            token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100
        ]
        assert with_loss == list(chain.from_iterable(engine.sampled))
        if FAMILIES[name].end != "<|user|>":  # swift has no place for the logprob of a token that the next turn begins
            assert [len(turn) for turn in sample.rollout_logprobs] == [len(turn) for turn in engine.sampled]
        pad = template.tokenizer.convert_tokens_to_ids(FAMILIES[name].pad)
        ids = list(encoded["input_ids"])
        runs = sum(token == pad and (place == 0 or ids[place - 1] != pad) for place, token in enumerate(ids))
        assert runs == len(sample.images) == 2

    def test_engine_sees_the_crop_that_the_trainer_gets(self, name: str, template: Any) -> None:
        engine = Sampler(turns_of(name), template, FAMILIES[name].end)
        output = play(template, engine, "server")
        crop = Image.open(io.BytesIO(image_bytes(output.rollout_infos["images"][1])))
        x1, y1, x2, y2 = output.rollout_infos["zooms"][0]["box"]
        view = engine.prompts[0]["images"][0].convert("RGB")
        assert crop.tobytes() == view.crop((x1, y1, x2, y2)).tobytes()
        template.set_mode("vllm")
        again = template.encode(
            {"messages": [{"role": "user", "content": "<image>" * 2}], "images": output.rollout_infos["images"]}
        )
        assert [image.tobytes() for image in again["images"]] == [
            image.tobytes() for image in engine.prompts[-1]["images"]
        ]


@pytest.mark.lengthy
@pytest.mark.timeout(1800)  # on a machine that has much else to do
class TestStep:
    """One GRPO step of `swift rlhf`, which plays by itself with transformers; the words are those of a script."""

    def test_step_on_two_turns_changes_the_model(self, name: str, tmp_path: Path) -> None:
        family, turns = FAMILIES[name], turns_of(name)
        model = write_checkpoint(tmp_path / "model", family, weights=True)
        image, data = tmp_path / "image.jpg", tmp_path / "rows.jsonl"
        image.write_bytes(base64.b64decode(jpeg(420, 392)))
        data.write_text(json.dumps({**row_of(str(image)), "reward_model": {"ground_truth": "red"}}) + "\n")
        command = [
            *(sys.executable, "-m", "swift.cli.rlhf", "--rlhf_type", "grpo", "--model", model),
            *("--model_type", family.model_type, "--template", family.template, "--dataset", data),
            *("--external_plugins", ROOT / "deepeyes_plugin.py", ROOT / "tests" / "scripted_engine.py"),
            *("--multi_turn_scheduler", "deepeyes_scheduler", "--max_turns", 3, "--loss_scale", "default"),
            *("--reward_funcs", "deepeyes_reward", "deepeyes_accuracy", "--reward_weights", 1, 0, "--beta", 0),
            *("--tuner_type", "full", "--use_vllm", "false", "--num_generations", 2, "--max_steps", 1),
            *("--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 1, "--max_completion_length", 8),
            *("--learning_rate", 1e-3, "--lr_scheduler_type", "constant", "--warmup_ratio", 0, "--logging_steps", 1),
            *("--output_dir", tmp_path / "output", "--report_to", "none", "--save_steps", 1),
            *("--save_only_model", "true", "--torch_dtype", "float32", "--attn_impl", "eager"),
            *("--remove_unused_columns", "false", "--check_model", "false"),
        ]
        environment = {
            **os.environ,
            "DEEPEYES_JUDGE": "rule",
            "DEEPEYES_TRACE_DIR": str(tmp_path / "traces"),
            "SCRIPT": json.dumps([family.end, [turns, [turns[0], turns[1].replace("red", "blue")]]]),
        }
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, check=False, timeout=1700
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        (traces,) = (tmp_path / "traces").glob("trajectories-*.jsonl")
        played = [json.loads(text) for text in traces.read_text().splitlines()]
        assert [one["score"]["total"] for one in played] == [pytest.approx(2), 0]
        assert [(one["num_zooms"], len(one["images"]), len(one["turns"])) for one in played] == [(1, 2, 2)] * 2
        (log,) = (tmp_path / "output").rglob("logging.jsonl")
        (step,) = [line for line in map(json.loads, log.read_text().splitlines()) if "grad_norm" in line]
        assert step["grad_norm"] > 0
        assert step["reward_std"] > 0
        (checkpoint,) = (tmp_path / "output").rglob("checkpoint-1")
        before, after = load_file(model / "model.safetensors"), load_file(checkpoint / "model.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.isfinite(tensor).all() for tensor in after.values())
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any("layers" in name and "o_proj" in name for name in changed)
