"""The demo's policy behind `swift deploy` on vLLM and `serve`: it is as right as behind `eval`, and needs its crops."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import openai
import pytest
from demo.test_learns import learned  # noqa: F401 - a fixture
from serve_world import serving as served
from servers import KIND, SWIFT, free_port, serving

from deepeyes.demo import progress, task
from deepeyes.demo.verdict import interval
from deepeyes.judging.rule import rule_verdict

if TYPE_CHECKING:
    from demo.test_learns import Run

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(3600)]

AT_ONCE = 16
OPTIONS = ("--family", "qwen2.5-vl", "--max-pixels", str(task.VIEW_SIDE**2), "--max-turns", "2", "--max-tokens", "60")
SAMPLED: dict[str, Any] = {"temperature": 1.0}
"""As the demo samples."""


async def ask_all(url: str, rows: list[dict[str, Any]]) -> float:
    """Asks a held-out row each, in the words of its prompt; returns the share of right answers."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with openai.AsyncOpenAI(base_url=url, api_key="any") as client:

        async def one(row: dict[str, Any]) -> bool:
            system, user = (turn["content"] for turn in row["prompt"])
            image = base64.b64encode(row["images"][0]["bytes"]).decode()
            parts = [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
                {"type": "text", "text": user.removeprefix("<image>")},
            ]
            messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": parts}]
            async with gate:
                reply = await client.chat.completions.create(model="tiny", messages=messages, **SAMPLED)
            said = reply.choices[0].message.content or ""
            return rule_verdict(row["extra_info"]["question"], row["reward_model"]["ground_truth"], said)

        right = await asyncio.gather(*[one(row) for row in rows])
    return sum(right) / len(right)


@pytest.fixture(scope="module")
def accuracies(learned: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:  # noqa: F811 - the fixture
    """Accuracy with true crops, and with blank ones."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    pictures = task.sample_pictures(learned.report["plan"]["held_out"], seed=learned.seed, split="held-out")
    rows = [task.row(at, picture, "held-out") for at, picture in enumerate(pictures)]
    checkpoint = progress.best_checkpoint(learned.folder)
    deploy = [SWIFT, "deploy", "--model", checkpoint, *KIND, "--served_model_name", "tiny", "--port", port]
    deploy += ["--host", "127.0.0.1", "--infer_backend", "vllm", "--torch_dtype", "float32"]
    deploy += ["--vllm_enforce_eager", "true", "--vllm_max_model_len", 1024, "--load_args", "false"]
    url = f"http://127.0.0.1:{port}/v1"
    found = {}
    with serving(deploy, url=f"{url}/models", log=folder / "log"):
        for name, control in (("true", ()), ("blank", ("--blank-crops",))):
            with served(url, *OPTIONS, *control) as own:
                found[name] = asyncio.run(ask_all(own, rows))
    return found


class TestServed:
    def test_it_is_as_right_as_the_demo_says(self, learned: Run, accuracies: dict[str, float]) -> None:  # noqa: F811 - the fixture
        said = learned.report["after"]["TRUE_CROP"]
        low, high = interval(said["accuracy"], said["questions"])
        seen_low, seen_high = interval(accuracies["true"], said["questions"])
        assert low <= seen_high
        assert seen_low <= high

    def test_with_blank_crops_it_falls_to_chance(self, accuracies: dict[str, float]) -> None:
        assert accuracies["blank"] < 0.3
