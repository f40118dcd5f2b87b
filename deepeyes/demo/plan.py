"""What the demo does: how many steps, of what, on how many questions.

`Plan` is the full form, and `QUICK` is what the short one changes. Seed and plan decide the whole run on one machine;
another set of CPU instructions rounds otherwise, and so trains another policy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what the demo does."""

    seed: int = 1  # of the weights, the pictures and the sampling; this one is that of the figures in docs/demo.md
    clean_steps: int = 300  # at most, of a try of the warm-up, in which it learns to see
    soft_steps: int = 150  # of the warm-up after these: it learns to be less sure, and the rate falls to zero
    zooms: float = 0.5  # probability that the warm-up teaches to zoom with
    right: float = 0.8  # and for each of the two coordinates that say where the card lies: 0.64 of the zooms are right
    grpo_steps: int = 21
    prompts: int = 8  # questions a step: as many for each place of a card, so that no step teaches one for all
    generations: int = 4  # trajectories a question
    learning_rate: float = 3e-4  # of GRPO
    rising: float = 0.09  # share of the steps in which the rate rises: Adam's first step is as large as the rate
    decay_steps: int = 6  # the last ones, in which the rate falls to zero
    eval_steps: int = 7  # between two looks at the validation questions; the checkpoint that does best is kept
    validation: int = 32  # questions that no training step and no result sees
    held_out: int = 256  # questions of each measure


QUICK = {"grpo_steps": 13, "prompts": 4, "decay_steps": 5, "eval_steps": 13, "validation": 16, "held_out": 96}
