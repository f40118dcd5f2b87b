"""The three scripts for real, on the CPU: a rollout server, a judge, and a training that asks it over HTTP.

The policy and the judge are tiny models that know some sentences by heart.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import urllib.request
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from judge_server import JudgeServer, say
from PIL import Image
from safetensors.torch import load_file, save_file
from servers import KIND, ROOT, environment, free_port, serving
from swift.infer_engine import RequestConfig
from swift.infer_engine.protocol import RolloutOutput
from swift.rl_core.data import OnPolicySample
from swift.rlhf_trainers.utils import encode_sample
from swift_fakes import INSTRUCTION, load_template

from deepeyes.doctor import judge as doctor
from deepeyes.environment import read_settings
from deepeyes.judging.judge import Judge
from deepeyes.prompts import VISUAL_PROMPT
from deepeyes.scoring import score_batch
from deepeyes.settings import Scoring
from deepeyes.verdicts import Question, fill_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
REFERENCE = "crimson"
"""Of the training: no rule finds it in the answer, so the judge is asked."""
EVALUATED = (
    *("--eval_strategy", "steps", "--eval_steps", 1),
    *("--per_device_eval_batch_size", 2, "--num_generations_eval", 1),
)
"""A pass over two rows after the step."""
ERROR = (
    "Error: the box holds no part of the image. It needs x1 < x2 and y1 < y2, inside the image. Boxes are in pixels of "
    "the image."
)
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


def trajectory(name: str) -> dict[str, Any]:
    """A lesson for the policy: a whole trajectory."""
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


def judgement(question: Question, verdict: int) -> dict[str, Any]:
    """A lesson for the judge: the plugin's prompt, and what to say."""
    asked = {"role": "user", "content": fill_prompt(VISUAL_PROMPT, question)}
    return {"messages": [asked, {"role": "assistant", "content": f"Judgement: {verdict}"}]}


def teach(tiny_model: Path, target: Path, lessons: list[dict[str, Any]]) -> Path:
    """Makes the tiny model learn the lessons by heart in some supervised steps."""
    from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: PLC0415 - heavy

    torch.manual_seed(0)
    torch.set_num_threads(1)  # for so small a model, threads only wait for each other
    template = load_template(tiny_model)
    template.set_mode("train")
    encoded_lessons = []
    for lesson in lessons:
        encoded = template.encode(lesson)
        tensors = {key: torch.as_tensor(encoded[key]).clone() for key in encoded if key in LEARNED}
        inputs = {key: value if "image" in key or "pixel" in key else value[None] for key, value in tensors.items()}
        encoded_lessons.append((inputs, inputs.pop("labels")[0, 1:]))
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    vocabulary = model.lm_head.weight.requires_grad_(requires_grad=False)  # large, and the rest suffices
    used = torch.cat([inputs["input_ids"][0] for inputs, _ in encoded_lessons]).unique()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0)
    for _ in range(400):
        known = True
        optimizer.zero_grad()
        candidates = torch.cat([used, torch.randint(len(vocabulary), (2000,))])
        for inputs, labels in encoded_lessons:
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
        for inputs, labels in encoded_lessons:
            here = labels != -100
            best = model.lm_head(model.model(**inputs).last_hidden_state[0, :-1][here]).argmax(-1)
            assert torch.equal(best, labels[here]), "the model did not learn its lessons"
    shutil.copytree(tiny_model, target, dirs_exist_ok=True)
    weights = load_file(tiny_model / "model.safetensors")
    trained = model.state_dict()
    for name in weights:
        long = f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)
        weights[name] = trained[long].contiguous()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def policy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach(tiny_model, tmp_path_factory.mktemp("policy") / "model", [trajectory(name) for name in QUESTIONS])


def post(url: str, body: Any, timeout: float) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - our own server
        return json.load(response)


@pytest.fixture(scope="class")
def judge() -> Iterator[JudgeServer]:
    """Agrees with everything."""
    with JudgeServer(script=lambda _call: say("Judgement: 1")) as made:
        yield made


@pytest.fixture(scope="class")
def server(policy: Path, judge: JudgeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `deepeyes.sh rollout`."""
    port, log = free_port(), tmp_path_factory.mktemp("rollout") / "log"
    settings = {"LAYOUT": "cpu", "MODEL": policy, "MAX_MODEL_LEN": 4096, "ROLLOUT_PORT": port}
    settings |= {"DEEPEYES_JUDGE": "server", "DEEPEYES_JUDGE_URLS": judge.url}
    url = f"http://127.0.0.1:{port}"
    with serving(["bash", ROOT / "deepeyes.sh", "rollout", *KIND], url=f"{url}/health/", log=log, **settings):
        yield url


@pytest.fixture(scope="class")
def played(server: str) -> dict[str, tuple[OnPolicySample, RolloutOutput]]:
    """What came back for each row, and the sample that the trainer would make of it.

    The answer to `refuse` is not its reference, so the judge is asked; `bad` has a broken image.
    """
    rows = {name: row(name) for name in QUESTIONS} | {"bad": row("zoom")}
    rows["bad"]["images"] = [{"bytes": b"no image at all", "path": None}]
    rows["refuse"]["reward_model"]["ground_truth"] = REFERENCE
    result = play(server, rows)
    if "verdict" not in result["refuse"][1].rollout_infos:  # the judge's first reply was late; by now it is known
        result |= play(server, {"refuse": rows["refuse"]})
    return result


def play(server: str, rows: dict[str, dict[str, Any]]) -> dict[str, tuple[OnPolicySample, RolloutOutput]]:
    """Plays rows as the trainer asks for it."""
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
        assert infos["zooms"] == [{"turn": 1, "bbox_2d": box, "box": box, "label": "mug", "image": 0, "error": None}]
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

    def test_verdict_comes_with_the_trajectory(self, played: Any, judge: JudgeServer) -> None:
        verdict = played["refuse"][1].rollout_infos["verdict"]
        assert (verdict["correct"], verdict["source"]) == (True, "judge")
        assert [(call.asked, REFERENCE in call.prompt) for call in judge.calls if call.answer == "red"] == [(0, True)]
        assert "verdict" not in played["zoom"][1].rollout_infos  # it is its reference: nobody is asked

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

    def test_rewards_of_what_came_back(self, played: Any, judge: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        import deepeyes_plugin as plugin  # noqa: PLC0415 - only here

        settings = read_settings({"DEEPEYES_JUDGE_URLS": judge.url})
        asked = len(judge.calls)
        monkeypatch.setattr(plugin, "SETTINGS", settings)
        rows = [sample.to_reward_row() for sample, _ in (played[name] for name in QUESTIONS)]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        completions = [row["messages"][-1]["content"] for row in rows]
        scored = score_batch(completions, columns, settings, Judge(settings))
        assert [one.score.total for one in scored] == [pytest.approx(2.0)] * 2
        assert [one.verdict.source for one in scored] == ["equal", "judge"]
        assert scored[1].verdict.ahead
        assert len(judge.calls) == asked


def train(*options: object, **settings: object) -> str:
    """Runs `deepeyes.sh train` to its end and returns what it said."""
    # A hub is asked for a newer model otherwise: without a network, half a minute.
    command = ["bash", ROOT / "deepeyes.sh", "train", *KIND, "--check_model", "false", *options]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment(**settings), check=False, timeout=800
    )
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout + done.stderr


class TestTrainer:
    """One step of `deepeyes.sh train`, which plays by itself, next to the judge of `deploy_judge.sh`."""

    @pytest.fixture(scope="class")
    @staticmethod
    def run(policy: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        directory = tmp_path_factory.mktemp("train")
        rows = [row(name) for name in QUESTIONS]
        for data in rows:
            data["reward_model"]["ground_truth"] = REFERENCE
        table = pa.Table.from_pylist([{"prompt": data.pop("messages"), **data} for data in rows])
        rows_file = directory / "rows.parquet"
        pq.write_table(table, rows_file)
        samples = [
            (Question(Scoring.VISUAL, *doctor.JUDGE_SAMPLE, answer), verdict)
            for answer, verdict in doctor.JUDGE_SAMPLE_ANSWERS.items()
        ]
        asked = [(Question(Scoring.VISUAL, question, REFERENCE, "red"), 1) for question in QUESTIONS.values()]
        judge = teach(tiny_model, directory / "judge-32B", [judgement(*lesson) for lesson in samples + asked])
        port = free_port()
        judge_settings = {"JUDGE_MODEL": judge, "JUDGE_GPUS": "none", "JUDGE_PORT": port, "JUDGE_MAX_MODEL_LEN": 2048}
        settings = {
            "LAYOUT": "cpu",
            "MODEL": policy,
            "DEEPEYES_JUDGE": "server",
            "DATASET": rows_file,
            "PROMPTS_PER_STEP": 2,
            "NUM_GENERATIONS": 2,
            "PER_DEVICE_BATCH": 4,
            "MAX_COMPLETION_LENGTH": 200,
            "REPORT_TO": "tensorboard swanlab wandb",
            "OUTPUT_DIR": directory / "output",
            "DEEPEYES_JUDGE_URLS": f"http://127.0.0.1:{port}/v1",
            "DEEPEYES_TRACE_DIR": directory / "traces",
            "WANDB_MODE": "offline",
            "WANDB_DIR": directory,
            "SWANLAB_LOG_DIR": directory / "swanlab",
        }
        options = ("--max_steps", 1, "--temperature", 0.01, "--save_steps", 1, "--swanlab_mode", "local")
        url, log = f"http://127.0.0.1:{port}/v1/models", directory / "judge.log"
        judge_settings["JUDGE_LOG_DIR"] = directory / "judge_logs"
        with serving(["bash", ROOT / "deploy_judge.sh", *KIND], url=url, log=log, **judge_settings):
            (directory / "said").write_text(train(*options, *EVALUATED, "--val_dataset", rows_file, **settings))
            (checkpoint,) = directory.glob("output/*/checkpoint-1")
            settings |= {"DOCTOR": "false", "REPORT_TO": "none", "OUTPUT_DIR": directory / "resumed"}
            del settings["DEEPEYES_TRACE_DIR"]
            train(*options, "--max_steps", 2, "--resume_from_checkpoint", checkpoint, **settings)
        return directory

    def test_preflight_found_all_sound(self, run: Path) -> None:
        said = (run / "said").read_text()
        assert "two of two are right" in said
        assert re.search(r"ok +one row +\d+ tokens", said)

    def test_trajectories_are_those_of_the_server(self, run: Path) -> None:
        (file,) = (run / "traces").glob("trajectories-*.jsonl")
        trajectories = [json.loads(line) for line in file.read_text().splitlines()]
        marks = Counter((trajectory["step"], trajectory["untrained"]) for trajectory in trajectories)
        assert marks == {(0, None): 4, (1, "evaluation"): 2}
        for trajectory in trajectories:
            refused = trajectory["row"] == "refuse"
            assert trajectory["turns"] == ([REFUSED] if refused else []) + [ZOOM, ANSWER]
            assert (trajectory["num_zooms"], trajectory["num_zoom_errors"]) == (1, int(refused))
            assert len(trajectory["images"]) == 2
            crop = Image.open(run / "traces" / "images" / trajectory["images"][1])
            assert crop.tobytes() == Image.open(io.BytesIO(picture())).crop((28, 56, 140, 168)).tobytes()
            assert trajectory["score"]["total"] == pytest.approx(2.0)
            assert trajectory["verdict"]["source"] == "judge"

    def test_step_was_taken_on_that_reward(self, run: Path) -> None:
        (file,) = (run / "output").rglob("logging.jsonl")
        logged = [json.loads(line) for line in file.read_text().splitlines()]
        assert any(line.get("reward") == pytest.approx(2.0) for line in logged), logged

    def test_it_goes_on_from_a_checkpoint(self, run: Path) -> None:
        (file,) = (run / "resumed").rglob("logging.jsonl")
        steps = [json.loads(line).get("global_step/max_steps") for line in file.read_text().splitlines()]
        assert set(steps) == {"2/2", None}

    def test_every_logger_was_told(self, run: Path) -> None:
        assert list((run / "output").rglob("events.out.tfevents.*"))
        assert list((run / "swanlab").iterdir())
        assert list((run / "wandb").glob("offline-run-*/*.wandb"))

    def test_judge_says_the_line_for_training(self, run: Path) -> None:
        said = (run / "judge.log").read_text()
        assert re.search(r"^export DEEPEYES_JUDGE_URLS=http://127\.0\.0\.1:\d+/v1$", said, re.MULTILINE)
        assert "stopping the judge" in said
