"""A tiny Qwen2.5-VL checkpoint: the real tokenizer, random weights, about ten million.

It is what the demo trains, and what tests and rehearsals load. Nothing is downloaded: the vocabulary comes from the
PyPI package ``dashscope``, and everything else that a checkpoint holds is small enough to be written here.

    python -m deepeyes.tiny_model DIRECTORY [--seed N]

swift tells models apart by their hub name, so it wants `--model_type qwen2_5_vl --template qwen2_5_vl` beside this one.

Source: ``Qwen/Qwen2.5-VL-3B-Instruct`` on the Hugging Face hub (file layout).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from deepeyes.tiny_model.tokenizer import write_tokenizer
from deepeyes.tiny_model.weights import TinyShape, config_dict, write_weights

__all__ = ["TinyShape", "add_generate", "build"]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def build(directory: Path, *, seed: int = 0, shape: TinyShape | None = None) -> Path:
    """Write the checkpoint.

    Args:
        directory: Where to; made if need be, and files of the same names are replaced.
        seed: Seed of the weights: the same seed and shape give the same bytes.
        shape: Size of the model; the default is what the demo trains.

    Returns:
        The directory.

    Raises:
        FileNotFoundError: The tokenizer's ranks are not installed.
    """
    shape = shape or TinyShape()
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory)
    write_weights(directory, shape, seed)
    _write_json(directory / "config.json", config_dict(shape))
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": 151_643, "do_sample": True, "eos_token_id": [151_645, 151_643], "pad_token_id": 151_643},
    )
    _write_json(
        directory / "preprocessor_config.json",
        {
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "Qwen2VLImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "max_pixels": 12_845_056,
            "merge_size": 2,
            "min_pixels": 3136,
            "patch_size": 14,
            "processor_class": "Qwen2_5_VLProcessor",
            "temporal_patch_size": 2,
        },
    )
    return directory


def add_generate(checkpoint: Path) -> None:
    """Give a checkpoint the quick draw of `generate.py`, and make it draw from the whole softmax, which GRPO trains.

    swift hands no `--top_k 0` on to Transformers, and that takes 50 where nobody says otherwise.
    """
    (checkpoint / "custom_generate").mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("generate.py"), checkpoint / "custom_generate")
    config = checkpoint / "generation_config.json"
    _write_json(config, json.loads(config.read_text(encoding="utf-8")) | {"top_k": 0})
