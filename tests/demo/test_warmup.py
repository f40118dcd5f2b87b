"""What the warm-up teaches: the text for sure, and of the rest no more than leanings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from deepeyes.demo import progress, task, warmup
from deepeyes.demo.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

PLAN = replace(Plan(), zooms=0.5, right=0.7)


@pytest.fixture(scope="module")
def batches(tiny_model: Path) -> warmup.Batches:
    return warmup.Batches(tiny_model, PLAN)


class TestTargets:
    """A distribution a token."""

    def test_only_where_to_zoom_and_a_pattern_are_open(self, batches: warmup.Batches) -> None:
        _, targets, weights = batches.row(place=1, pattern="dots", zoom_to=1, right=0.7)
        open_tokens = (targets.amax(1) < 1) & (weights > 0)
        assert open_tokens.sum() == 3  # whether to zoom, and two coordinates
        assert sorted(targets[open_tokens].amax(1).tolist()) == pytest.approx([0.5, 0.7, 0.7])

    def test_coordinates_of_the_right_place_are_likelier_whatever_is_zoomed_to(self, batches: warmup.Batches) -> None:
        right = batches.row(place=1, pattern="dots", zoom_to=1, right=0.7)
        astray = batches.row(place=1, pattern="dots", zoom_to=2, right=0.7)
        for wanted in (0.7, 0.3):
            at = [(row[1] == wanted).nonzero()[:, 1].tolist() for row in (right, astray)]
            assert len(at[0]) == 2
            assert at[0] == at[1]

    def test_without_the_right_crop_every_answer_is_as_likely(self, batches: warmup.Batches) -> None:
        for zoom_to in (None, 0):
            _, targets, _ = batches.row(place=1, pattern="dots", zoom_to=zoom_to, right=1.0)
            assert ((targets - 1 / 8).abs() < 1e-6).sum() == len(task.PATTERNS)
        _, targets, weights = batches.row(place=1, pattern="dots", zoom_to=1, right=1.0)
        assert targets[weights > 1].amax(1).tolist() == [1.0, 1.0, 1.0]

    def test_every_target_is_a_distribution(self, batches: warmup.Batches) -> None:
        inputs, targets, weights = batches.draw(0.7)
        assert targets[weights > 0].sum(1).allclose(targets.new_ones(1))
        assert len(inputs["pixel_values"]) == 64 * len(inputs["image_grid_thw"])


class TestSharesRight:
    """Text that is wrong in one token must show, for GRPO never mends a call that can't be written."""

    def test_text_places_and_answers_are_told_apart(self) -> None:
        wanted = torch.eye(5)[[0, 1, 2, 3, 3]]
        wanted[4] = torch.tensor([0.5, 0.5, 0, 0, 0])  # leaves it open
        weight = torch.tensor([1.0, 1.0, 25.0, 25.0, 1.0])
        said = torch.eye(5)[[0, 1, 2, 3, 4]]
        assert warmup.shares_right(said, wanted, weight, [3]) == (1, 1, 1)
        for token, shares in ((1, (0.5, 1, 1)), (2, (1, 0, 1)), (3, (1, 1, 0))):
            slip = said.clone()
            slip[token] = torch.eye(5)[4]
            assert warmup.shares_right(slip, wanted, weight, [3]) == shares


class TestSecondTry:
    """At a rate that serves most, a model now and then never tells the patterns apart."""

    @pytest.mark.parametrize(("sees", "again"), [(0.9, True), (0.0, False)])
    def test_model_that_does_not_see_begins_again_at_its_own_rate(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sees: float, *, again: bool
    ) -> None:
        monkeypatch.setattr(warmup, "TRY_STEPS", 5)
        monkeypatch.setattr(warmup, "SEES", sees)
        monkeypatch.setattr(warmup, "AGAIN_RATE", 0.0)  # so what it began with is what it ends with
        warmup.warm_up(tiny_model, tmp_path, replace(PLAN, clean_steps=10, soft_steps=5))
        last = progress.read_lines(tmp_path)[-1]
        assert last["steps"] == (20 if again else 15)
        assert last["text"].startswith("second try: ") == again
        before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path))
        assert all(after[name].equal(before[name]) for name in before if name != "model.embed_tokens.weight") == again
