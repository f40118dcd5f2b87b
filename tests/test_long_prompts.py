"""A first prompt beyond the model's length, in a trainer that plays by itself: swift's own engine and loop."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.infer_engine.protocol import InferRequest
from swift.rollout.agent_loop import run_multi_turn
from swift_env import ROOT
from swift_fakes import INSTRUCTION, jpeg, request
from tiny_families import FAMILIES, row_of, write_checkpoint

from deepeyes.lengths import LEFT_OUT
from deepeyes_plugin import DeepEyesScheduler

if TYPE_CHECKING:
    from pathlib import Path

LENGTH = 400  # tokens; the picture below takes 180
LONG = "Which of these is it: " + ", ".join(map(str, range(300)))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Any:
    words = {"model_type": "qwen2_5_vl", "template_type": "qwen2_5_vl", "attn_impl": "eager"}
    engine = TransformersEngine(str(tiny_model), torch_dtype=torch.float32, max_batch_size=0, **words)
    engine.max_model_len = LENGTH
    engine.template.truncation_strategy = "left"  # as GRPO has it
    return engine


def play(engine: Any, requests: list[Any]) -> Any:
    """Plays a turn as `_infer_single_or_multi_turn` of swift's trainer does, the first prompts made anew."""
    scheduler = DeepEyesScheduler(max_turns=2, tokenizer=engine.template.tokenizer, template=engine.template)
    again = [request(one.images[0], question=one.data_dict["extra_info"]["question"]) for one in requests]
    asyncio.run(scheduler.on_trajectory_start(requests))
    config = RequestConfig(max_tokens=3, temperature=0.0, return_details=True, logprobs=True)

    def rollout(asked: list[Any], config: Any) -> list[Any]:
        replies = engine.infer(asked, config, use_tqdm=False)
        return [reply if hasattr(reply, "response") else Reply(reply) for reply in replies]

    return run_multi_turn(requests, rollout(again, config), scheduler, rollout, config, 2)


class Reply:
    """What a trainer makes of the reply of this engine."""

    def __init__(self, response: Any) -> None:
        self.response = response


class TestEngine:
    def test_long_prompt_ends_its_trajectory_and_no_other(self, engine: Any, log: pytest.LogCaptureFixture) -> None:
        requests = [request(jpeg(420, 336), question=question) for question in (LONG, "What colour?", LONG)]
        cut, whole, also = play(engine, requests)
        for output in (cut, also):
            assert output.rollout_infos["turns"] == [""]
            assert (output.rollout_infos["num_turns"], output.rollout_infos["images"]) == (1, [])
            assert output.response_loss_mask == [[1]]
            assert len(output.response_token_ids[0]) == 1
            assert output.messages == [{"role": "user", "content": LEFT_OUT}, {"role": "assistant", "content": ""}]
        assert len(whole.response_token_ids[0]) == 3
        assert whole.response_loss_mask == [[1] * 3]
        assert len(whole.rollout_infos["images"]) == 1
        assert log.text.count("vstar row 17: ends here: a prompt of about") == 2
        assert f"beyond the {LENGTH} of the model; raise MAX_MODEL_LEN" in log.text

    def test_batch_of_long_prompts_alone_asks_the_model_nothing(self, engine: Any) -> None:
        (cut,) = play(engine, [request(jpeg(420, 336), question=LONG)])
        assert cut.rollout_infos["turns"] == [""]

    def test_requests_to_other_models_are_left_alone(self, engine: Any) -> None:
        play(engine, [request(jpeg(420, 336))])
        asked = InferRequest(messages=[{"role": "user", "content": LONG + INSTRUCTION}])
        with pytest.raises(ValueError, match="no room for generation"):
            engine.infer([asked], RequestConfig(max_tokens=1))


@pytest.mark.lengthy
@pytest.mark.timeout(1800)
class TestRun:
    def test_step_is_taken_with_a_row_that_is_too_long(self, tmp_path: Path) -> None:
        family = FAMILIES["Qwen2.5-VL"]
        model = write_checkpoint(tmp_path / "model", family, weights=True)
        shape = json.loads((model / "config.json").read_text())
        shape["text_config"]["max_position_embeddings"] = 2 * LENGTH
        (model / "config.json").write_text(json.dumps(shape))
        image, data = tmp_path / "image.jpg", tmp_path / "rows.jsonl"
        image.write_bytes(base64.b64decode(jpeg(168, 140)))
        rows = [{**row_of(str(image)), "reward_model": {"ground_truth": "red"}} for _ in range(2)]
        rows[1]["messages"] = [{"role": "user", "content": f"<image>\n{LONG}{INSTRUCTION}"}]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [
            *(sys.executable, "-m", "swift.cli.rlhf", "--rlhf_type", "grpo", "--model", model),
            *("--model_type", family.model_type, "--template", family.template, "--dataset", data),
            *("--external_plugins", ROOT / "deepeyes_plugin.py", "--multi_turn_scheduler", "deepeyes_scheduler"),
            *("--reward_funcs", "deepeyes_reward", "--max_turns", 2, "--use_vllm", "false", "--num_generations", 2),
            *("--per_device_train_batch_size", 4, "--max_completion_length", 8, "--max_steps", 1, "--beta", 0),
            *("--output_dir", tmp_path / "output", "--report_to", "none", "--save_strategy", "no"),
            *("--torch_dtype", "float32", "--attn_impl", "eager", "--tuner_type", "full", "--check_model", "false"),
            *("--logging_steps", 1, "--gradient_accumulation_steps", 1, "--loss_scale", "default"),
        ]
        environment = {**os.environ, "DEEPEYES_JUDGE": "rule", "MAX_PIXELS": "50176"}
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, check=False, timeout=1700
        )
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, said
        assert (done.stdout + done.stderr).count(f"is beyond the {2 * LENGTH} of the model") == 2
        (log,) = (tmp_path / "output").rglob("logging.jsonl")
        assert any(json.loads(line).get("global_step/max_steps") == "1/1" for line in log.read_text().splitlines())
