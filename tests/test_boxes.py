"""Boxes: from the numbers that a model wrote to whole pixels."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepeyes.boxes import TOKEN_SIDE, Box, fit_box
from deepeyes.calls import ZoomRefusedError
from deepeyes.settings import Coordinates, Rules

SIDES = st.integers(28, 4000)
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)


class TestFitBox:
    @pytest.mark.parametrize(
        ("bbox", "expected"),
        [
            ((100, 50, 300, 250), Box(100, 50, 300, 250)),
            ((100.4, 50.6, 300.4, 250.6), Box(100, 51, 300, 251)),
            ((-50, -50, 9999, 9999), Box(0, 0, 644, 476)),
            ((100, 100, 114, 114), Box(93, 93, 121, 121)),
            ((0, 0, 14, 20), Box(0, 0, 28, 28)),
            ((624, 460, 644, 476), Box(616, 448, 644, 476)),
            ((100, 0, 116, 476), Box(94, 0, 122, 476)),
        ],
    )
    def test_corrected_rules_round_clip_and_grow(self, bbox: tuple[float, ...], expected: Box) -> None:
        assert fit_box(bbox, (644, 476), Coordinates.PIXEL, Rules.CORRECTED) == expected  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("bbox", "rules", "code"),
        [
            ((300, 50, 100, 250), Rules.CORRECTED, "empty_box"),
            ((100, 50, 100, 250), Rules.CORRECTED, "empty_box"),
            ((700, 50, 900, 250), Rules.CORRECTED, "empty_box"),
            ((-90, -90, -10, -10), Rules.CORRECTED, "empty_box"),
            ((0, 0, 3640, 29), Rules.CORRECTED, "thin_box"),
            ((0, 0, 1, 1), Rules.CORRECTED, "small_box"),
            ((0.1, 0.2, 0.5, 0.6), Rules.CORRECTED, "small_box"),
            ((300, 300, 301, 301), Rules.CORRECTED, "small_box"),
            ((300, 100, 313.9, 400), Rules.CORRECTED, "small_box"),
            ((-100, 100, 13, 400), Rules.CORRECTED, "small_box"),
            ((0, 0, 3640, 31), Rules.OFFICIAL, "thin_box"),
            ((100, 100, 130, 300), Rules.OFFICIAL, "small_box"),
            ((100, 100, 300, 128), Rules.OFFICIAL, "small_box"),
        ],
    )
    def test_box_without_a_crop_is_refused(self, bbox: tuple[float, ...], rules: Rules, code: str) -> None:
        with pytest.raises(ZoomRefusedError) as caught:
            fit_box(bbox, (3640, 476), Coordinates.PIXEL, rules) if "thin" in code else fit_box(
                bbox, (644, 476), Coordinates.PIXEL, rules
            )
        assert caught.value.code == code

    def test_official_rules_take_a_side_of_31(self) -> None:
        box = fit_box((100, 100, 131, 300), (644, 476), Coordinates.PIXEL, Rules.OFFICIAL)
        assert box == Box(100, 100, 131, 300)

    @given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), SIDES, SIDES, st.sampled_from(Rules))
    def test_box_lies_inside_the_image_or_is_refused(
        self, bbox: tuple[float, float, float, float], width: int, height: int, rules: Rules
    ) -> None:
        try:
            box = fit_box(bbox, (width, height), Coordinates.PIXEL, rules)
        except ZoomRefusedError:
            return
        assert 0 <= box.x1 < box.x2 <= width
        assert 0 <= box.y1 < box.y2 <= height
        assert all(type(number) is int for number in box)
        if rules is Rules.CORRECTED:
            assert min(box.x2 - box.x1, box.y2 - box.y1) >= TOKEN_SIDE

    @given(SIDES, SIDES, st.data())
    def test_norm1000_means_the_same_part_of_the_image(self, width: int, height: int, data: st.DataObject) -> None:
        x1, x2 = sorted(data.draw(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
        y1, y2 = sorted(data.draw(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
        assume(x1 < x2 and y1 < y2)
        scaled = (x1 * width / 1000, y1 * height / 1000, x2 * width / 1000, y2 * height / 1000)

        def fit(bbox: tuple[float, float, float, float], frame: Coordinates) -> Box | str:
            try:
                return fit_box(bbox, (width, height), frame, Rules.CORRECTED)
            except ZoomRefusedError as error:
                return error.code

        assert fit((x1, y1, x2, y2), Coordinates.NORM1000) == fit(scaled, Coordinates.PIXEL)

    @pytest.mark.parametrize(("token", "small", "enough"), [(28, 13.9, 14), (32, 15.9, 16)])
    def test_half_a_token_is_the_least_and_grows_to_a_whole_one(self, token: int, small: float, enough: float) -> None:
        frame = Coordinates.PIXEL
        with pytest.raises(ZoomRefusedError, match="small_box"):
            fit_box((100, 100, 300, 100 + small), (644, 476), frame, Rules.CORRECTED, token)
        box = fit_box((100, 100, 300, 100 + enough), (644, 476), frame, Rules.CORRECTED, token)
        assert (box.y2 - box.y1, box.y1 + box.y2) == (token, 200 + enough)

    def test_box_in_0_to_1_is_refused_however_large_the_image_is(self) -> None:
        with pytest.raises(ZoomRefusedError, match="small_box"):
            fit_box((0, 0, 1, 1), (20_000, 20_000), Coordinates.NORM1000, Rules.CORRECTED)

    @pytest.mark.parametrize(
        ("frame", "words"), [(Coordinates.PIXEL, "in pixels"), (Coordinates.NORM1000, "from 0 to 1000")]
    )
    @pytest.mark.parametrize("bbox", [(0.1, 0.2, 0.5, 0.6), (2000, 2000, 2100, 2100)])
    def test_refusal_names_the_frame(self, frame: Coordinates, words: str, bbox: tuple[float, ...]) -> None:
        with pytest.raises(ZoomRefusedError) as caught:
            fit_box(bbox, (644, 476), frame, Rules.CORRECTED)  # type: ignore[arg-type]
        assert words in caught.value.text
        assert len(caught.value.text) <= 200
