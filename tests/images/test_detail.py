"""How many pictures are larger than their view, and by how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qwen_vl_utils.vision_process import smart_resize

from deepeyes.images.detail import Detail, times_larger, view_size


class TestViewSize:
    @given(st.integers(60, 6000), st.integers(60, 6000), st.sampled_from([28, 32]))
    def test_size_is_that_of_qwen_vl_utils(self, width: int, height: int, token: int) -> None:
        limit = 602_112
        if max(width, height) > 150 * min(width, height):
            return
        expected = smart_resize(height, width, factor=token, min_pixels=4 * token**2, max_pixels=limit)
        assert view_size(width, height, limit, token) == expected[::-1]

    def test_photograph_is_scaled_and_a_small_picture_is_not(self) -> None:
        assert view_size(4000, 3000, 602_112) == (896, 672)
        assert view_size(420, 336, 602_112) == (420, 336)


class TestDetail:
    def test_share_and_size_are_said_with_what_to_set(self) -> None:
        detail = Detail()
        for picture in ((4000, 3000), (4000, 3000), (420, 336), (630, 500)):
            detail.add(picture, view_size(*picture, 602_112))
        text = str(detail)
        assert "2 of 4 pictures (50%)" in text
        assert f"{times_larger((4000, 3000), (896, 672)):.1f} times a side" in text
        assert "DEEPEYES_CROP_SOURCE=original" in text

    @pytest.mark.parametrize("picture", [(420, 336), (431, 345), (60, 40)])
    def test_rounding_alone_is_no_loss(self, picture: tuple[int, int]) -> None:
        detail = Detail()
        detail.add(picture, view_size(*picture, 602_112))
        assert str(detail) == ""
        assert detail.pictures == 1
