"""What the demo does: how many steps, of what, on how many questions.

`Plan` is the full form, and `QUICK` is what the short one changes. Seed and plan decide the whole run on one machine;
another set of CPU instructions rounds otherwise, and so trains another policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SEED = 1
"""The seed of the figures in docs/demo.md."""
WARMUP_STEPS = 400
"""At most; the warm-up ends sooner once it reads boxes and crops right."""
TOOL_USE_WANTED = (0.3, 0.5)
"""Share of trajectories that zoom in the checkpoint from which GRPO starts."""
ENVIRONMENT = {"DEEPEYES_CROP_SOURCE": "original", "MAX_PIXELS": "12544"}
"""Settings of the plugin and of swift in every stage; 12,544 pixels are a view of 112 x 112."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what the demo does.

    Attributes:
        seed: Seed of the weights, the pictures and the sampling.
        warmup_steps: Steps of supervised training in plain torch at most, 16 trajectories each.
        mix_steps: Steps of `swift sft`, 8 trajectories each.
        mix_every: Steps between the checkpoints of `swift sft`, of which one is chosen by its tool use.
        mix_zooms: Share of the mixed trajectories that zoom.
        mix_hits: Share of those that zoom to the right place. A quarter, as by chance, makes the policy forget where.
        mix_rate: Peak learning rate of `swift sft`, from which it falls to zero.
        grpo_steps: Steps of `swift rlhf`.
        prompts: Questions a step: one for each place that a card can have, so that no step teaches one place for all.
        generations: Trajectories a question.
        learning_rate: Learning rate of GRPO.
        max_grad_norm: Largest norm of a GRPO gradient; a larger one is scaled down. A usual step's norm is 0.1. Pushing
            one long, rambling trajectory down gives ten times as much, which undid in a few steps what was learned.
        decay_steps: The last steps of GRPO, in which the rate falls to zero.
        held_out: Questions of each evaluation.
        probes: Questions on which a checkpoint of the mix is measured.
    """

    seed: int = SEED
    warmup_steps: int = WARMUP_STEPS
    mix_steps: int = 60
    mix_every: int = 20
    mix_zooms: float = 0.5
    mix_hits: float = 0.25
    mix_rate: float = 3e-4
    grpo_steps: int = 40
    prompts: int = 4
    generations: int = 4
    learning_rate: float = 2e-4
    max_grad_norm: float = 0.2
    decay_steps: int = 20
    held_out: int = 256
    probes: int = 64


QUICK: dict[str, Any] = {
    "mix_steps": 30,
    "mix_every": 30,
    "mix_rate": 6e-4,
    "grpo_steps": 9,
    "learning_rate": 4e-4,
    "decay_steps": 0,
    "held_out": 96,
}
