"""The real thing on CPU: `swift rollout` with vLLM plays rows that a client posts, `swift rlhf` plays them itself."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from swift.infer_engine import RequestConfig
from swift.infer_engine.protocol import RolloutOutput
from swift.rl_core.data import OnPolicySample
from swift.rlhf_trainers.utils import encode_sample
from swift_env import ROOT
from swift_fakes import INSTRUCTION, load_template

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

LEARNED = ("input_ids", "labels", "mm_token_type_ids", "pixel_values", "image_grid_thw")
ZOOM = (
    '<think>closer</think><tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [28, 56, 140, 168], '
    '"label": "mug"}}</tool_call>'
)
REFUSED = (
    '<think>there</think><tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [140, 56, 28, 168]}}'
    "</tool_call>"
)
ANSWER = "<think>I see it</think><answer>red</answer>"
QUESTIONS = {"zoom": "What colour is the mug?", "refuse": "Which colour has the hat?"}
ERROR = "Error: the box holds no part of the image. It needs x1 < x2 and y1 < y2, inside the image."
SIZE = (224, 196)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.effect_mandelbrot(SIZE, (-2, -1.5, 1, 1.5), 90).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def row(name: str) -> dict[str, Any]:
    question = QUESTIONS[name]
    return {
        "messages": [
            {"role": "system", "content": "You may zoom."},
            {"role": "user", "content": f"<image>\n{question}{INSTRUCTION}"},
        ],
        "images": [{"bytes": picture(), "path": None}],
        "data_source": "vstar",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": "red", "style": "model"},
        "extra_info": {"question": question, "answer": "red", "index": name, "split": "train"},
    }


def lesson(name: str) -> dict[str, Any]:
    """A whole trajectory: what the policy shall learn by heart."""
    data = row(name)
    view = Image.open(io.BytesIO(picture()))
    turns: list[tuple[str, str]] = [
        ("assistant", ZOOM),
        ("user", f"<tool_response><image>{INSTRUCTION}</tool_response>"),
        ("assistant", ANSWER),
    ]
    images: list[Any] = [view, view.crop((28, 56, 140, 168))]
    if name == "refuse":
        turns = [("assistant", REFUSED), ("user", ERROR), *turns]
    messages = data["messages"] + [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "images": images}


def teach(tiny_model: Path, target: Path) -> None:
    """Makes the tiny model learn the lessons by heart in some supervised steps."""
    from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: PLC0415 - heavy

    torch.manual_seed(0)
    torch.set_num_threads(1)  # for so small a model, threads only wait for each other
    template = load_template(tiny_model)
    template.set_mode("train")
    lessons = []
    for name in QUESTIONS:
        encoded = template.encode(lesson(name))
        tensors = {key: torch.as_tensor(encoded[key]).clone() for key in encoded if key in LEARNED}
        inputs = {key: value if "image" in key or "pixel" in key else value[None] for key, value in tensors.items()}
        lessons.append((inputs, inputs.pop("labels")[0, 1:]))
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    vocabulary = model.lm_head.weight.requires_grad_(requires_grad=False)  # large, and the rest suffices
    used = torch.cat([inputs["input_ids"][0] for inputs, _ in lessons]).unique()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0)
    for _ in range(400):
        known = True
        optimizer.zero_grad()
        candidates = torch.cat([used, torch.randint(len(vocabulary), (2000,))])
        for inputs, labels in lessons:
            here = labels != -100
            hidden = model.model(**inputs).last_hidden_state[0, :-1][here]
            targets = torch.searchsorted(used, labels[here])
            loss = torch.nn.functional.cross_entropy(hidden @ vocabulary[candidates].T, targets)
            loss.backward()
            known = known and loss.item() < 0.02
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if known:
            break
    with torch.no_grad():
        for inputs, labels in lessons:
            here = labels != -100
            best = model.lm_head(model.model(**inputs).last_hidden_state[0, :-1][here]).argmax(-1)
            assert torch.equal(best, labels[here]), "the policy did not learn its lessons"
    shutil.copytree(tiny_model, target, dirs_exist_ok=True)
    weights = load_file(tiny_model / "model.safetensors")
    trained = model.state_dict()
    for name in weights:
        long = f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)
        weights[name] = trained[long].contiguous()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def policy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("policy")
    teach(tiny_model, target)
    return target


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


def post(url: str, body: Any, timeout: float) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - our own server
        return json.load(response)


@pytest.fixture(scope="module")
def server(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `swift rollout` with the plugin."""
    port = free_port()
    log = tmp_path_factory.mktemp("rollout") / "log"
    options = {
        "model": policy,
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "external_plugins": ROOT / "deepeyes_plugin.py",
        "multi_turn_scheduler": "deepeyes_scheduler",
        "max_turns": 5,
        "vllm_use_async_engine": "true",
        "vllm_enforce_eager": "true",
        "vllm_max_model_len": 4096,
        "vllm_limit_mm_per_prompt": '{"image": 5, "video": 0}',
        "torch_dtype": "float32",
        "host": "127.0.0.1",
        "port": port,
    }
    arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_TARGET_DEVICE": "cpu", "DEEPEYES_JUDGE": "rule"}
    with log.open("w") as file:
        command = [sys.executable, str(Path(__file__).with_name("rollout_launcher.py")), *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True)
        try:
            deadline = time.monotonic() + 1200
            while True:
                assert process.poll() is None, f"swift rollout ended:\n{log.read_text()[-6000:]}"
                assert time.monotonic() < deadline, f"swift rollout does not answer:\n{log.read_text()[-6000:]}"
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/", timeout=5),
                ):
                    break
                time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def played(server: str) -> dict[str, tuple[OnPolicySample, RolloutOutput]]:
    """What came back for each row, and the sample that the trainer would make of it; `bad` has a broken image."""
    rows = {name: row(name) for name in QUESTIONS} | {"bad": row("zoom")}
    rows["bad"]["images"] = [{"bytes": b"no image at all", "path": None}]
    samples = {name: OnPolicySample.from_row({**data, "request_id": name}) for name, data in rows.items()}
    requests = [asdict(sample.to_infer_request(include_extra=True)) for sample in samples.values()]
    config = RequestConfig(max_tokens=200, temperature=0.0, logprobs=True, return_details=True)
    answer = post(f"{server}/infer/", {"infer_requests": requests, "request_config": asdict(config)}, 300)
    result = {}
    for (name, sample), data in zip(samples.items(), answer, strict=True):
        output = RolloutOutput.model_validate(data)
        sample.apply_rollout_output(rollout_output=output)
        result[name] = sample, output
    return result


class TestServer:
    def test_policy_zooms_sees_the_crop_and_answers(self, played: Any) -> None:
        sample, output = played["zoom"]
        infos = output.rollout_infos
        assert infos["turns"] == [ZOOM, ANSWER]
        assert (infos["num_turns"], infos["num_zooms"], infos["num_zoom_errors"]) == (2, 1, 0)
        box = [28, 56, 140, 168]
        assert infos["zooms"] == [{"turn": 1, "bbox_2d": box, "box": box, "label": "mug", "error": None}]
        assert sample.messages[3] == {"role": "user", "content": f"<tool_response><image>{INSTRUCTION}</tool_response>"}
        view = Image.open(io.BytesIO(picture()))
        crop = Image.open(io.BytesIO(base64.b64decode(sample.images[1].split(",")[1])))
        assert crop.tobytes() == view.crop((28, 56, 140, 168)).tobytes()

    def test_refused_call_is_told_and_mended(self, played: Any) -> None:
        sample, output = played["refuse"]
        infos = output.rollout_infos
        assert infos["turns"] == [REFUSED, ZOOM, ANSWER]
        assert (infos["num_zooms"], infos["num_zoom_errors"], len(sample.images)) == (1, 1, 2)
        assert sample.messages[3]["content"] == ERROR

    def test_broken_image_ends_no_other_trajectory(self, played: Any) -> None:
        _, output = played["bad"]
        assert output.rollout_infos["view_size"] is None
        assert output.rollout_infos["num_zooms"] == 0
        assert played["zoom"][1].rollout_infos["num_zooms"] == 1

    def test_trainer_learns_just_the_sampled_tokens(self, played: Any, policy: Path) -> None:
        template = load_template(policy)
        template.set_mode("train")
        for name in QUESTIONS:
            sample, output = played[name]
            encoded = encode_sample(sample, template)
            written = [
                token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100
            ]
            sampled = [token for turn in output.response_token_ids for token in turn]
            assert written == sampled
            assert len(encoded["image_grid_thw"]) == 2
            assert [len(turn) for turn in output.rollout_logprobs] == [len(turn) for turn in output.response_token_ids]
            texts = [template.tokenizer.decode(turn) for turn in output.response_token_ids]
            assert texts == [f"{turn}<|im_end|>" for turn in output.rollout_infos["turns"]]

    def test_rewards_of_what_came_back(self, played: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        import deepeyes_plugin as plugin  # noqa: PLC0415 - only here

        settings = plugin.read_settings({"DEEPEYES_JUDGE": "rule"})
        monkeypatch.setattr(plugin, "SETTINGS", settings)
        rows = [sample.to_reward_row() for sample, _ in (played[name] for name in QUESTIONS)]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        completions = [row["messages"][-1]["content"] for row in rows]
        scored = plugin.score_batch(completions, columns, settings, plugin.Judge(settings))
        assert [one.score.total for one in scored] == [pytest.approx(2.0)] * 2


class TestTrainer:
    """Colocate mode: one step of `swift rlhf` with the transformers engine."""

    @pytest.fixture(scope="class")
    @staticmethod
    def run(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        directory = tmp_path_factory.mktemp("train")
        rows = [row(name) for name in QUESTIONS]
        table = pa.Table.from_pylist([{"prompt": data.pop("messages"), **data} for data in rows])
        pq.write_table(table, directory / "rows.parquet")
        options = {
            "rlhf_type": "grpo",
            "model": policy,
            "model_type": "qwen2_5_vl",
            "template": "qwen2_5_vl",
            "torch_dtype": "float32",
            "external_plugins": ROOT / "deepeyes_plugin.py",
            "multi_turn_scheduler": "deepeyes_scheduler",
            "max_turns": 5,
            "use_vllm": "false",
            "dataset": directory / "rows.parquet",
            "columns": '{"prompt": "messages"}',
            "remove_unused_columns": "false",
            "load_from_cache_file": "false",
            "split_dataset_ratio": 0,
            "reward_funcs": "deepeyes_reward",
            "loss_scale": "default",
            "tuner_type": "full",
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_steps": 1,
            "max_completion_length": 200,
            "temperature": 0.01,
            "beta": 0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "check_model": "false",  # asks a hub whether there is a newer one: without a network, half a minute
            "output_dir": directory / "output",
        }
        arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        env = {**os.environ, "DEEPEYES_JUDGE": "rule", "DEEPEYES_TRACE_DIR": str(directory / "traces")}
        command = [sys.executable, "-m", "swift.cli.main", "rlhf", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=800)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return directory

    def test_trajectories_are_those_of_the_server(self, run: Path) -> None:
        (file,) = (run / "traces").glob("trajectories-*.jsonl")
        trajectories = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(trajectories) == 4
        for trajectory in trajectories:
            refused = trajectory["row"] == "refuse"
            assert trajectory["turns"] == ([REFUSED] if refused else []) + [ZOOM, ANSWER]
            assert (trajectory["num_zooms"], trajectory["num_zoom_errors"]) == (1, int(refused))
            assert len(trajectory["images"]) == 2
            crop = Image.open(run / "traces" / "images" / trajectory["images"][1])
            assert crop.tobytes() == Image.open(io.BytesIO(picture())).crop((28, 56, 140, 168)).tobytes()
            assert trajectory["score"]["total"] == pytest.approx(2.0)

    def test_step_was_taken_on_that_reward(self, run: Path) -> None:
        (file,) = (run / "output").rglob("logging.jsonl")
        logged = [json.loads(line) for line in file.read_text().splitlines()]
        assert any(line.get("reward") == pytest.approx(2.0) for line in logged), logged
