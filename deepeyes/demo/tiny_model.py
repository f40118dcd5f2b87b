"""Build a tiny Qwen2.5-VL checkpoint: the real tokenizer, random weights of about 20 million parameters.

It is what the demo trains and what the tests serve. Nothing is downloaded: the vocabulary comes from the byte-pair
ranks inside the PyPI package ``dashscope``, in which the Qwen team publishes them, and the byte-pair merges are worked
out from those ranks. Everything else that a Qwen2.5-VL checkpoint holds is small enough to be written here.

    python -m deepeyes.demo.tiny_model DIRECTORY [--seed N]

swift tells models apart by their hub name, so it wants `--model_type qwen2_5_vl --template qwen2_5_vl` beside this one.

Sources:
    Qwen2.5-VL Technical Report, https://arxiv.org/abs/2502.13923 (architecture, 28-pixel image tokens).
    ``Qwen/Qwen2.5-VL-3B-Instruct`` on the Hugging Face hub (file layout, special tokens and their order).
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (  # type: ignore[import-untyped]
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

VOCAB_SIZE = 151_936
"""Rows of the embedding. It stays at the real size because swift and vLLM look image tokens up by their real ids."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Control tokens in the order of their ids, right after the 151,643 ordinary ones."""

MARKUP_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""Single tokens that are ordinary text to a decoder: ``skip_special_tokens`` keeps them."""

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts text before byte-pair encoding (``tokenizer.json`` of the hub checkpoint): digits stand alone."""

CHAT_TEMPLATE = """\
{%- macro parts(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + parts(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""Our wording of the Qwen2.5-VL chat format, with the same result on text, image and video parts."""


@dataclass(frozen=True, slots=True)
class TinyShape:
    """Size and initial spread of the weights.

    Attributes:
        hidden: Width of the language model; a multiple of 64, since vLLM's CPU attention wants heads that wide.
        layers: Layers of the language model.
        vision_hidden: Width of the vision tower.
        vision_layers: Layers of the vision tower.
        std: Standard deviation of the language model's initial weights.
        vision_std: Standard deviation of the vision tower's initial weights.
    """

    hidden: int = 128
    layers: int = 2
    vision_hidden: int = 64
    vision_layers: int = 2
    std: float = 0.08
    vision_std: float = 0.1


def qwen_ranks() -> dict[bytes, int]:
    """Read the byte-pair ranks of Qwen's tokenizer from the installed package ``dashscope``.

    Returns:
        The rank, which is also the token id, of each of the 151,643 ordinary tokens.

    Raises:
        FileNotFoundError: The package is missing or no longer carries the ranks.
    """
    spec = importlib.util.find_spec("dashscope")
    path = Path(spec.origin).parent / "resources" / "qwen.tiktoken" if spec and spec.origin else None
    if path is None or not path.is_file():
        found = f"no file {path}" if path else "no package dashscope"
        msg = f"Qwen's tokenizer ranks: found {found}; run `bash deepeyes.sh setup`, or `pip install dashscope`"
        raise FileNotFoundError(msg)
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def merge_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Find the two pieces whose merge makes a token: encode it with the merges that come before it.

    Args:
        token: A token of at least two bytes.
        ranks: The rank of every token.

    Returns:
        The left and the right piece.

    Raises:
        ValueError: The ranks do not build this token out of two earlier ones.
    """
    limit = ranks[token]
    pieces = [bytes([byte]) for byte in token]
    while pieces[2:]:
        candidates = [(ranks.get(left + right, limit), at) for at, (left, right) in enumerate(pairwise(pieces))]
        rank, at = min(candidates)
        if rank >= limit:
            msg = f"token {token!r} (rank {limit}) is no merge of two earlier tokens: found pieces {pieces!r}"
            raise ValueError(msg)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces[0], pieces[1]


def _printable_bytes() -> list[str]:
    """Map each byte to the printable character that stands for it in a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


def _write_tokenizer(directory: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and the chat template."""
    ranks = qwen_ranks()
    table = _printable_bytes()

    def spell(token: bytes) -> str:
        return "".join(table[byte] for byte in token)

    vocab = {spell(token): rank for token, rank in ranks.items()}
    ordered = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    merges = [(spell(left), spell(right)) for left, right in (merge_pair(token, ranks) for token in ordered)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    added += [AddedToken(token, special=False, normalized=False) for token in MARKUP_TOKENS]
    tokenizer.add_tokens(added)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    _write_json(
        directory / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(len(ranks) + at): {"content": token, "special": token in SPECIAL_TOKENS, **flags}
                for at, token in enumerate(SPECIAL_TOKENS + MARKUP_TOKENS)
            },
            "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32_768,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def config_dict(shape: TinyShape) -> dict[str, Any]:
    """Give ``config.json`` in the flat form of the hub checkpoints, which every version of transformers reads.

    The version named in it is the one that wrote those checkpoints; without one, transformers suspects the tokenizer.
    """
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "image_token_id": 151_655,
        "video_token_id": 151_656,
        "vision_start_token_id": 151_652,
        "vision_end_token_id": 151_653,
        "vision_token_id": 151_654,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": shape.std,
        "intermediate_size": 2 * shape.hidden,
        "max_position_embeddings": 32_768,
        "max_window_layers": shape.layers,
        "num_attention_heads": shape.hidden // 64,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.hidden // 64,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
        "rope_theta": 1_000_000.0,
        "sliding_window": 32_768,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": shape.vision_layers,
            "fullatt_block_indexes": list(range(shape.vision_layers)),
            "hidden_act": "silu",
            "hidden_size": shape.vision_hidden,
            "in_channels": 3,
            "in_chans": 3,
            "initializer_range": shape.vision_std,
            "intermediate_size": 2 * shape.vision_hidden,
            "num_heads": max(1, shape.vision_hidden // 32),
            "out_hidden_size": shape.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
    }


def _write_weights(directory: Path, shape: TinyShape, seed: int) -> None:
    """Draw the weights and write them under the names of the hub checkpoints.

    They are written tensor by tensor rather than by a model's ``save_pretrained``: its names and its ``config.json``
    change with the version of transformers, and the hub's names are read by all of them and by vLLM.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}

    def normal(name: str, *size: int, std: float) -> None:
        weights[f"{name}.weight"] = torch.empty(size).normal_(0.0, std, generator=generator)

    def linear(name: str, out: int, into: int, *, std: float, bias: bool = True) -> None:
        normal(name, out, into, std=std)
        if bias:
            weights[f"{name}.bias"] = torch.zeros(out)

    def norm(name: str, size: int) -> None:
        weights[f"{name}.weight"] = torch.ones(size)

    def mlp(name: str, size: int, *, std: float, bias: bool) -> None:
        linear(f"{name}.gate_proj", 2 * size, size, std=std, bias=bias)
        linear(f"{name}.up_proj", 2 * size, size, std=std, bias=bias)
        linear(f"{name}.down_proj", size, 2 * size, std=std, bias=bias)

    width, std = shape.vision_hidden, shape.vision_std
    normal("visual.patch_embed.proj", width, 3, 2, 14, 14, std=std)
    for layer in range(shape.vision_layers):
        block = f"visual.blocks.{layer}"
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", 3 * width, width, std=std)
        linear(f"{block}.attn.proj", width, width, std=std)
        mlp(f"{block}.mlp", width, std=std, bias=True)
    norm("visual.merger.ln_q", width)
    linear("visual.merger.mlp.0", 4 * width, 4 * width, std=std)
    linear("visual.merger.mlp.2", shape.hidden, 4 * width, std=std)

    width, std = shape.hidden, shape.std
    normal("model.embed_tokens", VOCAB_SIZE, width, std=std)
    for layer in range(shape.layers):
        block = f"model.layers.{layer}"
        norm(f"{block}.input_layernorm", width)
        norm(f"{block}.post_attention_layernorm", width)
        for projection in ("q_proj", "k_proj", "v_proj"):
            linear(f"{block}.self_attn.{projection}", width, width, std=std)
        linear(f"{block}.self_attn.o_proj", width, width, std=std, bias=False)
        mlp(f"{block}.mlp", width, std=std, bias=False)
    norm("model.norm", width)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


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
    _write_tokenizer(directory)
    _write_weights(directory, shape, seed)
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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line words; those of the process by default.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description="Build a tiny Qwen2.5-VL checkpoint with random weights.")
    parser.add_argument("directory", type=Path, help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    options = parser.parse_args(arguments)
    try:
        directory = build(options.directory, seed=options.seed)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        print(f"tiny_model: {error}", file=sys.stderr)
        return 1
    print(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
