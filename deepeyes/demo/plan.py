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
        clean_steps: Steps of the warm-up at most in which it learns to see; they end sooner once it does.
        soft_steps: Further steps, which teach it to be less sure, and over which the learning rate falls to zero.
        zooms: Probability that it is taught to zoom with.
        right: Probability that it is taught for each of the two coordinates that say where the card lies: 0.7 x 0.7 is
            half of the zooms.
        grpo_steps: Steps of `swift rlhf`.
        prompts: Questions a step: as many for each place that a card can have, so that no step teaches one for all.
        generations: Trajectories a question.
        learning_rate: Learning rate of GRPO.
        beta: Weight of the KL term, which holds the policy to where it started in all that no reward speaks of.
        max_grad_norm: Largest norm of a GRPO gradient; a larger one is scaled down.
        decay_steps: The last steps of GRPO, in which the rate falls to zero.
        eval_steps: Steps between two looks at the validation questions; the checkpoint that does best is kept.
        validation: Questions of the validation split, of which no training step and no result sees any.
        held_out: Questions of each measure.
    """

    seed: int = SEED
    clean_steps: int = 300
    soft_steps: int = 150
    zooms: float = 0.5
    right: float = 0.7
    grpo_steps: int = 18
    prompts: int = 8
    generations: int = 4
    learning_rate: float = 4e-4
    beta: float = 0.04
    max_grad_norm: float = 0.2
    decay_steps: int = 6
    eval_steps: int = 6
    validation: int = 32
    held_out: int = 256


QUICK: dict[str, Any] = {"grpo_steps": 8, "decay_steps": 3, "eval_steps": 4, "held_out": 96}
