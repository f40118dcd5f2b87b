"""The quick draw is from the same distribution as `torch.multinomial`'s, and only the demo's checkpoints use it."""

from __future__ import annotations

import collections
from typing import Any

import torch

from deepeyes.tiny_model import generate


class TestDraw:
    """One index a row."""

    def test_frequencies_are_the_weights(self) -> None:
        torch.manual_seed(0)
        weights = torch.zeros(1, 192)
        weights[0, [3, 70, 71, 191]] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        drawn = collections.Counter(generate.draw_one(weights.expand(20_000, -1), 1).flatten().tolist())
        assert set(drawn) == {3, 70, 71, 191}
        for index, share in {3: 0.1, 70: 0.2, 71: 0.3, 191: 0.4}.items():
            assert abs(drawn[index] / 20_000 - share) < 0.015

    def test_no_weight_is_too_small_to_be_drawn(self) -> None:
        torch.manual_seed(0)
        weights = torch.full((20_000, 128), 0.01 / 127)
        weights[:, 5] = 0.99
        others = (generate.draw_one(weights, 1) != 5).float().mean().item()
        assert 0.005 < others < 0.016

    def test_certain_index_is_always_drawn(self) -> None:
        weights = torch.eye(192)
        assert generate.draw_one(weights, 1).tolist() == [[index] for index in range(192)]


class TestGenerate:
    """It lasts as long as a call does."""

    def test_torch_is_as_it_was_afterwards(self) -> None:
        before = torch.multinomial

        class Model:
            def generate(self, *args: Any, **kwargs: Any) -> Any:
                return torch.multinomial is generate.draw_one, args, kwargs

        assert generate.generate(Model(), 1, temperature=1.0) == (True, (1,), {"temperature": 1.0})
        assert torch.multinomial is before
