"""How swift's transformers engine draws tokens in the demo: with min-p, and faster.

Before GRPO, an unlikely token spoils 3 to 12 % of this small policy's trajectories. GRPO reinforces all that stands in
a lucky trajectory, such tokens included, until little else is left. So a token is not drawn if its probability is less
than `MIN_P` of the likeliest one's; vLLM has the same as `min_p`, which swift 4.6 hands to vLLM only.

`torch.multinomial` also draws an exponential variable for each of the 152 thousand tokens of the vocabulary, a row at a
time on one thread: two thirds of the demo's generation time. Here one uniform variable a row picks a block of tokens by
the blocks' sums, and another a token in it. The file is loaded like a plugin,
`--external_plugins deepeyes_plugin.py sampling.py`.
"""

from __future__ import annotations

from typing import Any

import torch

_multinomial = torch.multinomial
BLOCK = 64
"""Tokens of a block; the vocabulary of 151,936 is a multiple."""
MIN_P = 0.05
"""Share of the likeliest token's probability below which a token is not drawn."""


def multinomial(probabilities: torch.Tensor, num_samples: int, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Draw indices as `torch.multinomial` does; one index a row goes the fast way, and with min-p.

    Args:
        probabilities: Non-negative weights, rows x choices.
        num_samples: Indices to draw a row.
        args: Passed on.
        kwargs: Passed on.

    Returns:
        The indices, rows x num_samples.
    """
    choices = probabilities.shape[-1]
    if num_samples != 1 or probabilities.dim() == 1 or choices % BLOCK or args or kwargs:
        return _multinomial(probabilities, num_samples, *args, **kwargs)
    least = MIN_P * probabilities.amax(-1, keepdim=True)
    probabilities = torch.where(probabilities < least, 0, probabilities)
    blocks = probabilities.view(-1, choices // BLOCK, BLOCK)
    block = _draw(blocks.sum(-1))
    token = _draw(blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1))
    return block * BLOCK + token


def _draw(weights: torch.Tensor) -> torch.Tensor:
    """Draw one index a row by walking the cumulative sum, in which an index of weight zero has no width."""
    cumulative = weights.double().cumsum(-1)
    drawn = torch.rand(len(weights), 1, dtype=torch.double) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, drawn, right=True).clamp_(max=weights.shape[1] - 1)


torch.multinomial = multinomial  # type: ignore[assignment]
