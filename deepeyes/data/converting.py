"""`--from`: rows of other projects, as published, turned into rows in the official columns (pure).

Each reader uses the columns that the project's own repository reads or describes, and no others:

    swift           ms-swift's standard columns for GRPO: `messages`, `images`, `solution`
                    (docs of ms-swift 4.6, "Custom dataset")
    mini-o3         `problem`, `images`, `solution`, `doc_id` of VisualProbe and DeepEyes_train_4K, arrays of JSON
                    (github.com/Mini-o3/Mini-o3, `verl/utils/dataset/multimodal_dataset.py`, and README, `answer_key`)
    pixel-reasoner  `question`, `image`, `answer`, `is_video`, `qid`
                    (github.com/TIGER-AI-Lab/Pixel-Reasoner, `openrlhf/datasets/prompts_dataset.py` and
                    `openrlhf/trainer/ppo_utils/experience_maker.py`)
    thyme           `messages`, `images`, `solution`, `question` of the RL data
                    (github.com/yfzhang114/Thyme, README, "RL Dataset Format")
    deepeyes-v2     the columns of DeepEyes; `data_source` is `perception`, `reason` or `search`
                    (github.com/Visual-Agent/DeepEyesV2, `verl/utils/reward_score/__init__.py` and `deepeyesv2.py`)

Those prompts speak of tools that this project does not have, such as a sandbox for code. So only the question is taken,
and the prompt is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from deepeyes.dataset.loading import as_text, is_conversation, load
from deepeyes.dataset.quoting import quote
from deepeyes.dataset.remarks import Remark
from deepeyes.playing.prompts import Prompt, own_prompt
from deepeyes.settings import Coordinates, Scoring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ENVIRONMENT = "visual_toolbox_v2"
MATH_INSTRUCTION = "\nReason first, then give the final answer in \\boxed{...}. Format: <think>...</think> \\boxed{...}"


class ConversionError(Exception):
    """A row can't be converted; `remark` says why."""

    def __init__(self, text: str, example: str = "") -> None:
        """Takes what a `Remark` takes."""
        self.remark = Remark(text, example)
        super().__init__(str(self.remark))


class Asked(NamedTuple):
    """What a row asks, whatever its columns were called.

    Attributes:
        question: Without `<image>` and without a format instruction.
        images: The pictures.
        reference: The right answer.
        index: Names the row in logs.
        scoring: How it is scored.
    """

    question: Any
    images: Any
    reference: Any
    index: Any = None
    scoring: Scoring = Scoring.VISUAL


def swift(row: Mapping[str, Any]) -> Asked:
    """Reads ms-swift's standard columns: the last user turn is the question."""
    turns = row.get("messages")
    if not is_conversation(turns) or not turns or turns[-1]["role"] not in ("user", "assistant"):
        raise ConversionError("messages is no list of messages with the texts role and content", quote(turns))
    users = [turn["content"] for turn in turns if turn["role"] == "user"]
    if len(users) != 1:
        raise ConversionError(f"messages holds {len(users)} user turns; expected one")
    return Asked(users[0], row.get("images"), row.get("solution"), row.get("index"))


def mini_o3(row: Mapping[str, Any]) -> Asked:
    """Reads VisualProbe."""
    return Asked(row.get("problem"), row.get("images"), row.get("solution"), row.get("doc_id"))


def pixel_reasoner(row: Mapping[str, Any]) -> Asked:
    """Reads the RL data of Pixel-Reasoner, in which `image` is a path or a list, and a list of frames for a video."""
    if row.get("is_video"):
        raise ConversionError("the row asks about a video; the zoom tool needs one picture")
    return Asked(row.get("question"), row.get("image"), row.get("answer"), row.get("qid"))


def thyme(row: Mapping[str, Any]) -> Asked:
    """Reads the RL data of Thyme."""
    return Asked(row.get("question"), row.get("images"), row.get("solution"))


def deepeyes_v2(row: Mapping[str, Any]) -> Asked:
    """Reads the RL data of DeepEyesV2, without the rows that need a search on the web."""
    source = row.get("data_source")
    if source not in ("perception", "reason"):
        raise ConversionError(
            "data_source is neither perception nor reason; no other can be answered with a zoom", quote(source)
        )
    extra, reward = (row[name] if isinstance(row.get(name), dict) else {} for name in ("extra_info", "reward_model"))
    scoring = Scoring.MATH if source == "reason" else Scoring.VISUAL
    return Asked(extra.get("question"), row.get("images"), reward.get("ground_truth"), extra.get("index"), scoring)


READERS: dict[str, Callable[[Mapping[str, Any]], Asked]] = {
    "swift": swift,
    "mini-o3": mini_o3,
    "pixel-reasoner": pixel_reasoner,
    "thyme": thyme,
    "deepeyes-v2": deepeyes_v2,
}
"""What `--from` may name."""


def source_names(name: str, source: str) -> dict[str, Scoring]:
    """Returns the data sources that converted rows will have.

    Args:
        name: A key of `READERS`.
        source: What the rows are to be called.
    """
    if name == "deepeyes-v2":
        return {source: Scoring.VISUAL, f"{source}_math": Scoring.MATH}
    return {source: Scoring.VISUAL}


def converter(name: str, source: str, coordinates: Coordinates) -> Callable[[Any], dict[str, Any]]:
    """Returns what turns a row into one of ours, and raises `ConversionError`.

    Args:
        name: A key of `READERS`.
        source: What the rows are to be called, as `data_source`.
        coordinates: The frame of boxes that the prompt speaks of.
    """
    reader = READERS[name]
    prompts = {
        Scoring.VISUAL: own_prompt(coordinates, tool=True),
        Scoring.MATH: Prompt("You are a helpful assistant.", MATH_INSTRUCTION),
    }
    names = {scoring: source for source, scoring in source_names(name, source).items()}

    def convert(row: Any) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise ConversionError("the line is no JSON object")
        asked = reader(row)
        return _build(asked, names[asked.scoring], prompts[asked.scoring])

    return convert


def _build(asked: Asked, source: str, prompt: Prompt) -> dict[str, Any]:
    question = asked.question.replace("<image>", "").strip() if isinstance(asked.question, str) else ""
    if not question:
        raise ConversionError("the question is empty or no text", quote(asked.question))
    if as_text(asked.reference) is None:
        raise ConversionError("the reference answer is no text", quote(asked.reference))
    pictures = len(asked.images) if isinstance(asked.images, list) and asked.images else 1
    row = {
        "data_source": source,
        "prompt": [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": f"{'<image>' * pictures}\n{question}{prompt.instruction}"},
        ],
        "images": asked.images,
        "ability": None,
        "env_name": ENVIRONMENT if asked.scoring is Scoring.VISUAL else "",
        "reward_model": {"ground_truth": asked.reference, "style": "model"},
        "extra_info": {"question": question, "index": as_text(asked.index), "split": "train"},
    }
    row = load(row).row  # numbers and <answer> around references, and a single picture, are no findings here
    row["extra_info"]["answer"] = row["reward_model"]["ground_truth"]
    return row


def convert_rows(batches: Iterator[list[Any]], convert: Callable[[Any], dict[str, Any]] | None) -> Iterator[list[Any]]:
    """Yields rows converted, and a `Remark` in the place of one that can't be."""
    for rows in batches:
        yield [_converted(row, convert) for row in rows] if convert else rows


def _converted(row: Any, convert: Callable[[Any], dict[str, Any]]) -> dict[str, Any] | Remark:
    try:
        return convert(row)
    except ConversionError as error:
        return error.remark
