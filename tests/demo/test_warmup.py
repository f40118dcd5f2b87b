"""What the warm-up teaches: the text for sure, and of the rest no more than leanings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from deepeyes.demo import task, warmup
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
        row = batches.row(place=1, pattern="dots", zoom_to=1, right=0.7)
        open_tokens = (row.targets.amax(1) < 1) & (row.weights > 0)
        assert open_tokens.sum() == 3  # whether to zoom, and two coordinates
        assert sorted(row.targets[open_tokens].amax(1).tolist()) == pytest.approx([0.5, 0.7, 0.7])

    def test_coordinates_of_the_right_place_are_likelier_whatever_is_zoomed_to(self, batches: warmup.Batches) -> None:
        right = batches.row(place=1, pattern="dots", zoom_to=1, right=0.7)
        astray = batches.row(place=1, pattern="dots", zoom_to=2, right=0.7)
        for wanted in (0.7, 0.3):
            at = [(row.targets == wanted).nonzero()[:, 1].tolist() for row in (right, astray)]
            assert len(at[0]) == 2
            assert at[0] == at[1]

    def test_without_the_right_crop_every_answer_is_as_likely(self, batches: warmup.Batches) -> None:
        for zoom_to in (None, 0):
            last = batches.row(place=1, pattern="dots", zoom_to=zoom_to, right=1.0).targets
            assert ((last - 1 / 8).abs() < 1e-6).sum() == len(task.PATTERNS)
        read = batches.row(place=1, pattern="dots", zoom_to=1, right=1.0)
        assert read.targets[read.weights > 1].amax(1).tolist() == [1.0, 1.0, 1.0]

    def test_every_target_is_a_distribution(self, batches: warmup.Batches) -> None:
        inputs, targets, weights = batches.draw(0.7)
        assert targets[weights > 0].sum(1).allclose(targets.new_ones(1))
        assert len(inputs["pixel_values"]) == 64 * len(inputs["image_grid_thw"])
