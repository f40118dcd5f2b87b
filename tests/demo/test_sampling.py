"""The demo's faster draw has the distribution of torch's, cut by min-p."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch

from deepeyes.demo import sampling


class TestSampling:
    """The faster draw has the distribution of torch's, cut by min-p."""

    def test_frequencies_follow_the_weights_and_zeros_are_never_drawn(self) -> None:
        torch.manual_seed(0)
        weights = torch.zeros(20_000, 128)
        weights[:, 7], weights[:, 8], weights[:, 127] = 0.2, 0.5, 0.3
        drawn = collections.Counter(sampling.multinomial(weights, 1).flatten().tolist())
        assert set(drawn) == {7, 8, 127}
        assert np.allclose([drawn[index] / 20_000 for index in (7, 8, 127)], [0.2, 0.5, 0.3], atol=0.02)

    def test_what_is_far_less_likely_than_the_likeliest_is_not_drawn(self) -> None:
        weights = torch.full((20_000, 128), 0.001)
        weights[:, 7], weights[:, 8] = 0.8, 0.08
        drawn = collections.Counter(sampling.multinomial(weights, 1).flatten().tolist())
        assert set(drawn) == {7, 8}
        assert drawn[8] / 20_000 == pytest.approx(0.08 / 0.88, abs=0.01)

    def test_rows_are_drawn_independently_in_torchs_shape(self) -> None:
        weights = torch.eye(192)
        assert sampling.multinomial(weights, 1).tolist() == [[index] for index in range(192)]

    def test_more_than_one_draw_goes_to_torch(self) -> None:
        drawn = sampling.multinomial(torch.ones(2, 5), 5)
        assert sorted(drawn[0].tolist()) == [0, 1, 2, 3, 4]
