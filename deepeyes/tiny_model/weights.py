"""The weights of a tiny checkpoint, and the configuration that names their shape.

Source: Qwen2.5-VL Technical Report, https://arxiv.org/abs/2502.13923 (architecture, 28-pixel image tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

VOCAB_SIZE = 151_936
"""Rows of the embedding. It stays at the real size because swift and vLLM look image tokens up by their real ids."""


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

    hidden: int = 64
    layers: int = 2
    vision_hidden: int = 64
    vision_layers: int = 2
    std: float = 0.113
    vision_std: float = 0.1


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


def write_weights(directory: Path, shape: TinyShape, seed: int) -> None:
    """Draw the weights and write them under the names of the hub checkpoints, to ``model.safetensors``.

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
