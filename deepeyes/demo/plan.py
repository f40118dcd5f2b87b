"""What the demo does: how many steps, of what, on how many questions.

`Plan` is the full form, and `QUICK` is what the short one changes. Seed and plan decide the whole run on one machine;
another set of CPU instructions rounds otherwise, and so trains another policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SEED = 1
"""The seed of the figures in docs/demo.md."""
ENVIRONMENT = {"DEEPEYES_CROP_SOURCE": "original", "MAX_PIXELS": "12544"}
"""Settings of the plugin and of swift in every stage; 12,544 pixels are a view of 112 x 112."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what the demo does.

    Attributes:
        seed: Seed of the weights, the pictures and the sampling.
        clean_steps: Steps of a try of the warm-up at most in which it learns to see; they end sooner once it does.
        soft_steps: Further steps, which teach it to be less sure, and over which the learning rate falls to zero.
        zooms: Probability that it is taught to zoom with.
        right: Probability that it is taught for each of the two coordinates that say where the card lies: 0.8 x 0.8 is
            two zooms in three.
        grpo_steps: Steps of `swift rlhf`.
        prompts: Questions a step: as many for each place that a card can have, so that no step teaches one for all.
        generations: Trajectories a question.
        learning_rate: Learning rate of GRPO.
        rising: Share of the steps over which the rate rises from zero. The first of them only shows Adam how large
            gradients are: without it, Adam's first step is as large as the rate, however little it knows.
        decay_steps: The last steps of GRPO, in which the rate falls to zero.
        eval_steps: Steps between two looks at the validation questions; the checkpoint that does best is kept.
        validation: Questions of the validation split, of which no training step and no result sees any.
        held_out: Questions of each measure.
    """

    seed: int = SEED
    clean_steps: int = 300
    soft_steps: int = 150
    zooms: float = 0.5
    right: float = 0.8
    grpo_steps: int = 21
    prompts: int = 8
    generations: int = 4
    learning_rate: float = 3e-4
    rising: float = 0.09
    decay_steps: int = 6
    eval_steps: int = 7
    validation: int = 32
    held_out: int = 256


QUICK: dict[str, Any] = {
    "grpo_steps": 13,
    "prompts": 4,
    "decay_steps": 5,
    "eval_steps": 13,
    "validation": 16,
    "held_out": 96,
}
