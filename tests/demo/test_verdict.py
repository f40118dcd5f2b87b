"""The demo's verdict: a run counts as learned only where the numbers show it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepeyes.demo.verdict import fall, figures_of, interval, lacks


def outcome(**figures: float) -> dict[str, Any]:
    return {"questions": 256, "tool_use": 0.95, "hits": 0.95, "accuracy": 0.9, "reward": 1.8, **figures}


BEFORE = outcome(tool_use=0.4, hits=0.5, accuracy=0.3, reward=0.6)
AFTER = {"TRUE_CROP": outcome(), "BLANK_CROP": outcome(accuracy=0.12), "NO_TOOL": outcome(accuracy=0.12)}
VALIDATION = [{"step": 8, "accuracy": 0.6}, {"step": 16, "accuracy": 0.9}]


class TestVerdict:
    """Every figure is asked for."""

    def test_rise_that_needs_the_crop_is_learned(self) -> None:
        assert lacks(BEFORE, AFTER, 0.16, VALIDATION) == []

    def test_figures_are_one_line(self) -> None:
        line = figures_of(BEFORE, AFTER, 0.16)
        assert line.startswith("on 256 held-out pictures: tool use 0.40 [0.34, 0.46] -> 0.95 [0.92, 0.97], right place")
        assert line.endswith("the best constant guess 0.16), reward 0.60 -> 1.80")

    @pytest.mark.parametrize(
        ("mode", "figures", "lack"),
        [
            ("TRUE_CROP", {"tool_use": 0.42}, "tool use did not rise: 0.40 [0.34, 0.46] before, 0.42"),
            ("TRUE_CROP", {"hits": 0.6}, "the share of zooms to the right place did not rise"),
            ("TRUE_CROP", {"accuracy": 0.79}, "accuracy is 0.79, and 0.8 is wanted"),
            ("BLANK_CROP", {"accuracy": 0.88}, "accuracy with the crop blanked is 0.88"),
            ("BLANK_CROP", {"accuracy": 0.25}, "accuracy with the crop blanked is 0.25"),
            ("NO_TOOL", {"accuracy": 0.88}, "accuracy with the tool off is 0.88"),
        ],
    )
    def test_one_thing_less_is_not_and_is_named(self, mode: str, figures: dict[str, float], lack: str) -> None:
        (said,) = lacks(BEFORE, {**AFTER, mode: outcome(**figures)}, 0.16, ())
        assert said.startswith(lack)

    @pytest.mark.parametrize(("hits", "learned"), [(0.6, True), (0.4, False)])
    def test_a_rise_is_not_enough_while_most_zooms_go_elsewhere(self, hits: float, learned: bool) -> None:  # noqa: FBT001
        before, after = {**BEFORE, "hits": 0.2}, {**AFTER, "TRUE_CROP": outcome(hits=hits)}
        assert (not lacks(before, after, 0.16, ())) is learned

    def test_run_that_fell_apart_is_not_learned_and_says_after_which_step(self) -> None:
        after = {**AFTER, "TRUE_CROP": outcome(accuracy=0.85)}
        falling = [{"step": 8, "accuracy": 0.97}, {"step": 16, "accuracy": 0.9}]
        assert lacks(BEFORE, after, 0.16, falling) == [
            "it fell apart after step 8: accuracy on the validation was 0.97"
        ]
        assert not lacks(BEFORE, AFTER, 0.16, falling)  # 0.90 is within ten points

    @pytest.mark.parametrize(("last", "told"), [(0.85, True), (0.9, False), (1.0, False)])
    def test_fall_on_the_validation_is_told_with_its_step(self, last: float, told: bool) -> None:  # noqa: FBT001
        looks = [{"step": at, "accuracy": accuracy} for at, accuracy in ((6, 0.97), (12, 0.97), (18, last))]
        assert fall(looks).startswith("It fell") is told
        assert ("was 0.97 after step 12, and 0.85 after step 18" in fall(looks)) is told

    def test_interval_is_wilsons(self) -> None:
        assert np.allclose(interval(0.5, 100), (0.4038, 0.5962), atol=1e-4)
        assert np.allclose(interval(0.0, 100), (0.0, 0.0370), atol=1e-4)
