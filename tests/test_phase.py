"""What becomes of a batch that a reward sees."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import score_completions

from deepeyes.phase import Phase, phase_of, phase_of_caller, untrained
from deepeyes.scoring import Score

RIGHT, WRONG, BROKEN = Score(1, 0, 1, 2.0), Score(0, 0, 0, 0.0), Score(0, -1, 0, -0.2)
NAMES = ["DeepEyesReward", "DeepEyesAccuracy", "DeepEyesFormat", "DeepEyesTool", "DeepEyesJudgeFailure"]


class Trainer:
    """What swift's trainers know, and its own call of the rewards."""

    def __init__(self, *, names: list[str] = NAMES, weights: tuple[float, ...] = (1, 0, 0, 0, 0), **more: Any) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.reward_func_names, self.reward_weights = names, torch.tensor(weights)
        self.num_generations = 2
        self.__dict__.update(more)

    def score(self) -> list[Phase]:
        found = []

        def reward(completions: list[str], **_columns: Any) -> list[float]:
            found.append(phase_of_caller())
            return [0.0] * len(completions)

        sample = GRPOSample.from_row({"messages": [{"role": "assistant", "content": "red"}]})
        score_completions([sample], [reward], [None], use_gym_env=False, device=torch.device("cpu"))
        return found


class TestPhase:
    def test_caller_that_trains_is_found(self) -> None:
        assert Trainer().score() == [Phase(weights={"DeepEyesReward": 1.0})]

    def test_caller_that_evaluates_is_found(self) -> None:
        trainer = Trainer(dynamic_sample=True)
        trainer.model.eval()
        (phase,) = trainer.score()
        assert phase.evaluates
        trainer.model.train()
        assert not trainer.score()[0].evaluates

    def test_megatron_tells_by_its_unwrapped_models(self) -> None:
        assert Trainer(model=None, unwrapped_models=[torch.nn.Linear(1, 1).eval()]).score()[0].evaluates
        assert not Trainer(model=None, unwrapped_models=[torch.nn.Linear(1, 1)]).score()[0].evaluates

    def test_nobody_on_the_stack_is_taken_to_train(self) -> None:
        assert phase_of_caller() == Phase()

    @pytest.mark.parametrize(
        ("names", "weights", "generations"),
        [
            (NAMES, (1, 0, 0, 0, 0), 2),
            (NAMES, (0, 1, 0.5, 0, 0), 2),
            (["DeepEyesReward", "length"], (1, 0), 2),
            (["DeepEyesReward", "length"], (1, 0.1), 0),  # nobody here knows its value
        ],
    )
    def test_groups_are_dropped_by_rewards_that_are_known(
        self, names: list[str], weights: tuple[float, ...], generations: int
    ) -> None:
        trainer = Trainer(names=names, weights=weights)
        assert phase_of(trainer).generations == 0
        trainer = Trainer(names=names, weights=weights, dynamic_sample=True)
        assert phase_of(trainer).generations == generations

    def test_other_objects_named_self_do_not_matter(self) -> None:
        phase = phase_of(SimpleNamespace(reward_func_names=["DeepEyesReward"]))
        assert phase == Phase()


class TestUntrained:
    PHASE = Phase(generations=2, weights={"DeepEyesReward": 1.0})

    def test_evaluation_trains_nothing(self) -> None:
        assert untrained(Phase(evaluates=True), [RIGHT]) == "evaluation"

    def test_group_of_equal_rewards_is_dropped(self) -> None:
        assert untrained(self.PHASE, [RIGHT, RIGHT]) == "dynamic_sample"
        assert untrained(self.PHASE, [RIGHT, WRONG]) is None
        assert untrained(self.PHASE, [WRONG, BROKEN]) is None
        assert untrained(Phase(), [RIGHT, RIGHT]) is None

    def test_only_rewards_with_weight_count(self) -> None:
        phase = Phase(generations=2, weights={"DeepEyesAccuracy": 0.5})
        assert untrained(phase, [WRONG, BROKEN]) == "dynamic_sample"

    def test_part_of_a_group_tells_nothing(self) -> None:
        assert untrained(self.PHASE, [RIGHT]) is None
