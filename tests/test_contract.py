"""The plugin under the real ms-swift of each supported generation, and what it must give on all of them alike."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from swift_env import ROOT, VERSIONS, run_in

SCRIPT = Path(__file__).with_name("contract_script.py")
WAYS = [
    (version, way) for version in VERSIONS for way in ("server", "trainer") if (version, way) != ("3.7.3", "server")
]


@pytest.fixture(scope="module")
def results(tiny_model: Path) -> dict[str, Any]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda version: run_in(version, SCRIPT, ROOT, tiny_model), VERSIONS)
        return dict(zip(VERSIONS, results, strict=True))


@pytest.mark.parametrize("version", VERSIONS)
class TestRegistration:
    def test_rewards_and_scheduler_are_found_by_name(self, results: dict[str, Any], version: str) -> None:
        names = ["accuracy", "format", "judge_ahead", "judge_failure", "judge_seconds", "reward", "tool"]
        assert results[version]["registered"] == [f"deepeyes_{name}" for name in names]
        assert results[version]["scheduler"]


@pytest.mark.parametrize(("version", "way"), WAYS)
class TestTrajectory:
    def test_zoom_gives_the_crop_in_the_words_of_the_dataset(
        self, results: dict[str, Any], version: str, way: str
    ) -> None:
        first, second = results[version][way]["observations"]
        assert first == (
            "<tool_response><image>\nThink, zoom, answer: <think>...</think> <tool_call>...</tool_call> "
            "<answer>...</answer> </tool_response>"
        )
        assert second == 'Error: "bbox_2d" must be a list of four numbers, [x1, y1, x2, y2].'

    def test_images_match_their_tags_and_reach_the_template(
        self, results: dict[str, Any], version: str, way: str
    ) -> None:
        result = results[version][way]
        assert result["image_sizes"] == [[420, 336], [272, 144]]
        assert result["tags"] == 2
        before, after, last = result["image_tokens"]
        assert before < after == last

    def test_rollout_infos_keep_the_contract(self, results: dict[str, Any], version: str, way: str) -> None:
        infos = results[version][way]["infos"]
        zoom, refused = infos.pop("zooms")
        assert infos == {"num_zooms": 1, "num_zoom_errors": 1, "num_turns": 3}
        box = [28, 56, 300, 200]
        assert zoom == {"turn": 1, "bbox_2d": box, "box": box, "label": "mug", "image": 0, "error": None}
        assert (refused["turn"], refused["box"], refused["error"]) == (2, None, "bad_box")

    def test_rewards_are_those_of_a_right_answer_after_a_zoom(
        self, results: dict[str, Any], version: str, way: str
    ) -> None:
        scores = results[version][way]["scores"]
        assert scores == {"deepeyes_reward": 2.0, "deepeyes_accuracy": 1, "deepeyes_format": 0, "deepeyes_tool": 1}

    def test_dataset_row_is_not_changed(self, results: dict[str, Any], version: str, way: str) -> None:
        assert results[version][way]["row_kept"]
