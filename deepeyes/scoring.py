"""From a batch as swift hands it over to a score a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from deepeyes.answers import Reading, Trajectory, read_answer
from deepeyes.errors import DataError
from deepeyes.judging.ahead import verdict_from
from deepeyes.settings import WEIGHTS, Scoring, Settings
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Judging(Protocol):
    """Who is asked where the text of a trajectory does not decide: `deepeyes.judging.judge.Judge`."""

    def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        """Returns a verdict a question, in order."""


class Score(NamedTuple):
    """The parts of a reward: accuracy 0/1, format -1/0, tool 0/1, and their weighted sum."""

    accuracy: float
    format: float
    tool: float
    total: float


@dataclass(frozen=True)
class Scored:
    """A trajectory with all that its reward came from."""

    trajectory: Trajectory
    reading: Reading
    verdict: Verdict
    score: Score


def score(trajectory: Trajectory, reading: Reading, verdict: Verdict) -> Score:
    """Adds up the reward of a trajectory.

    Source: the last lines of `compute_score` and `compute_score_math` of the authors' `vl_agent.py`.
    """
    weights = WEIGHTS[trajectory.scoring]
    accuracy = 1.0 if verdict.correct else 0.0
    format_ = 0.0 if reading.well_formed else -1.0
    zoomed = trajectory.scoring is Scoring.VISUAL and trajectory.num_zooms > 0
    tool = 1.0 if zoomed and verdict.correct else 0.0
    return Score(accuracy, format_, tool, weights.accuracy * accuracy + weights.format * format_ + weights.tool * tool)


def score_batch(
    completions: Sequence[Any], columns: Mapping[str, Any], settings: Settings, judge: Judging
) -> list[Scored]:
    """Scores a batch as swift hands it to a reward function.

    Args:
        completions: Text of the last turn, a trajectory.
        columns: The other arguments: dataset columns and `messages`, `rollout_infos`, lists as long as
            `completions`. They are not changed.
        settings: Rules and sources.
        judge: Who is asked where the text does not decide.

    Raises:
        DataError: A column or field is missing, or the data source is not known.
        JudgeError: See `JudgeClient.verdicts`.
    """
    if missing := [name for name in ("data_source", "reward_model", "extra_info") if columns.get(name) is None]:
        raise DataError(
            f"the dataset lacks {', '.join(missing)}; a reward needs the columns data_source, reward_model "
            "(with ground_truth) and extra_info (with question), and --remove_unused_columns false"
        )
    trajectories = [_trajectory(completions, columns, index, settings) for index in range(len(completions))]
    readings = [read_answer(trajectory, settings.rules) for trajectory in trajectories]
    open_questions = {
        index: Question(trajectory.scoring, trajectory.question, trajectory.reference, reading.answer or "")
        for index, (trajectory, reading) in enumerate(zip(trajectories, readings, strict=True))
        if reading.settled is None
    }
    answered = {
        index: verdict
        for index, question in open_questions.items()
        if (verdict := verdict_from(infos_of(columns, index), question, settings))
    }
    rest = {index: question for index, question in open_questions.items() if index not in answered}
    answered |= zip(rest, judge.verdicts(list(rest.values())), strict=True)
    scored = []
    for index, (trajectory, reading) in enumerate(zip(trajectories, readings, strict=True)):
        verdict = reading.settled or answered[index]
        scored.append(Scored(trajectory, reading, verdict, score(trajectory, reading, verdict)))
    return scored


def _trajectory(completions: Sequence[Any], columns: Mapping[str, Any], index: int, settings: Settings) -> Trajectory:
    """Collects one trajectory from the columns of a batch."""
    infos = infos_of(columns, index)
    turns, observations = _read_messages(completions[index], (columns.get("messages") or {index: []})[index], infos)
    fields = []
    for column, key in (("extra_info", "question"), ("reward_model", "ground_truth")):
        value = columns[column][index]
        if not isinstance(value, dict) or not isinstance(value.get(key), str):
            raise DataError(
                f"row {index} of the batch: {column} is {value!r:.200}; expected a dict with the text {key!r}"
            )
        fields.append(value[key])
    scoring = settings.scoring_of(columns["data_source"][index])
    return Trajectory(scoring, fields[0], fields[1], turns, observations, int(infos.get("num_zooms") or 0))


def infos_of(columns: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Returns what the scheduler reported; ms-swift 3.7 calls it `multi_turn_infos`."""
    infos = columns.get("rollout_infos") or columns.get("multi_turn_infos")
    return (infos[index] if infos else None) or {}


def _read_messages(
    completion: Any, messages: Sequence[Mapping[str, Any]], infos: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the assistant turns of a trajectory and the observations between them, as text."""
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    places = places[-int(infos.get("num_turns") or 1) :]
    if not places:
        return (str(completion),), ()
    turns = infos.get("turns") or []
    if len(turns) != len(places):
        turns = [messages[place]["content"] for place in places]
        turns[-1] = completion
    if not all(isinstance(turn, str) for turn in turns):
        raise DataError("assistant turns came as token ids without their text; train with deepeyes_scheduler")
    between = [messages[start + 1 : end] for start, end in pairwise(places)]
    observations = ("".join(str(message["content"]) for message in part) for part in between)
    return tuple(turns), tuple(observations)
