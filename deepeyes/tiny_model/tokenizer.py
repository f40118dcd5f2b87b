"""The tokenizer of a tiny checkpoint: Qwen's own, from the ranks inside the PyPI package ``dashscope``.

The byte-pair merges are worked out from the ranks. What else the tokenizer of a Qwen2.5-VL checkpoint holds, its
control tokens, its way of cutting text and its chat format, is small enough to be written here.

Source: ``Qwen/Qwen2.5-VL-3B-Instruct`` on the Hugging Face hub (special tokens and their order).
"""

from __future__ import annotations

import base64
import importlib.util
import json
from itertools import pairwise
from pathlib import Path

from tokenizers import (  # type: ignore[import-untyped]  # it ships no types
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

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


def write_tokenizer(directory: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and the chat template.

    Raises:
        FileNotFoundError: The tokenizer's ranks are not installed.
    """
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
    config = json.dumps(
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
        indent=2,
        ensure_ascii=False,
    )
    (directory / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
