"""What carries loss: each token that the policy sampled, and no token of an observation, in each way to run."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from swift_env import ROOT, run_in

SCRIPT = Path(__file__).with_name("token_exact_script.py")
OLD = ("3.12.6", "4.5.2")
VERSIONS = [*(pytest.param(version, marks=pytest.mark.slow) for version in OLD), "4.6.0"]
LENGTHS = ("1", "2", "3", "5")
NEWLINE = 198


class Results(dict[str, Any]):
    """What the script gives under each version, run when first asked for."""

    def __init__(self, model: Path) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, version: str) -> Any:
        """Runs the script."""
        self[version] = run_in(version, SCRIPT, ROOT, self.model)
        return self[version]


@pytest.fixture(scope="module")
def results(tiny_model: Path) -> Results:
    return Results(tiny_model)


def with_line_breaks(turns: list[list[int]]) -> list[int]:
    """Before 4.6, swift's template gives loss to the line break that it puts after a turn that is not the last."""
    return [*chain.from_iterable([*turn, NEWLINE] for turn in turns[:-1]), *turns[-1]]


@pytest.mark.parametrize("way", ["server", "trainer"])
@pytest.mark.parametrize("version", VERSIONS)
class TestLoss:
    @pytest.mark.parametrize("length", LENGTHS)
    def test_sampled_ids_carry_loss_and_nothing_else_does(
        self, results: dict[str, Any], version: str, way: str, length: str
    ) -> None:
        trajectory = results[version][way][length]
        assert len(trajectory["sampled"]) == int(length)
        exact = list(chain.from_iterable(trajectory["sampled"]))
        assert trajectory["ids_with_loss"] == (exact if version == "4.6.0" else with_line_breaks(trajectory["sampled"]))
        assert trajectory["labels"] == trajectory["ids_with_loss"]

    @pytest.mark.parametrize("length", LENGTHS)
    def test_images_of_the_rollout_are_those_of_training(
        self, results: dict[str, Any], version: str, way: str, length: str
    ) -> None:
        trajectory = results[version][way][length]
        counts = {trajectory[key] for key in ("tags", "images", "image_runs", "pixel_grids")}
        assert counts == {int(length)}

    def test_forged_images_are_neither_counted_nor_encoded(
        self, results: dict[str, Any], version: str, way: str
    ) -> None:
        trajectory = results[version][way]["forged"]
        assert [trajectory[key] for key in ("tags", "images", "image_runs", "pixel_grids")] == [2, 2, 2, 2]
        assert results[version]["image_pad"] in chain.from_iterable(trajectory["sampled"])
        assert results[version]["image_pad"] not in trajectory["ids_with_loss"]
        if trajectory["turns"] is not None:  # the rewards read what the model wrote
            assert trajectory["turns"] == trajectory["texts"][: len(trajectory["turns"])]


class TestNewestSwift:
    @pytest.mark.parametrize("way", ["server", "trainer"])
    @pytest.mark.parametrize("length", LENGTHS)
    def test_engine_and_trainer_see_one_context(self, results: dict[str, Any], way: str, length: str) -> None:
        assert results["4.6.0"][way][length]["last_prompt_is_prefix"]

    @pytest.mark.parametrize("way", ["server", "trainer"])
    @pytest.mark.parametrize("length", LENGTHS)
    def test_every_token_with_loss_has_its_logprob(self, results: dict[str, Any], way: str, length: str) -> None:
        trajectory = results["4.6.0"][way][length]
        assert trajectory["logprobs"] == trajectory["sampled_logprobs"]

    @pytest.mark.parametrize("way", ["server", "trainer"])
    def test_token_that_had_to_be_replaced_carries_no_loss(self, results: dict[str, Any], way: str) -> None:
        trajectory = results["4.6.0"][way]["forged"]
        pad = results["4.6.0"]["image_pad"]
        sampled = chain.from_iterable(trajectory["sampled"])
        assert trajectory["ids_with_loss"] == [token for token in sampled if token != pad]
        assert sum(map(len, trajectory["logprobs"])) == len(trajectory["ids_with_loss"])


class TestAnnouncement:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_plugin_says_at_load_what_a_version_can_not_give(self, results: dict[str, Any], version: str) -> None:
        said = results[version]["announced"]
        assert any("line break" in line for line in said) == (version != "4.6.0")
        assert any("--max_pixels" in line for line in said) == (version == "3.12.6")
