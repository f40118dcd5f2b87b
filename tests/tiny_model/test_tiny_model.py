"""The tiny checkpoint: its tokenizer is Qwen's, its chat format Qwen2.5-VL's, and real libraries load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiktoken
from PIL import Image
from swift import get_processor, get_template
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deepeyes import tiny_model
from deepeyes.tiny_model import tokenizer as qwen
from deepeyes.tiny_model.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

SENTENCES = [
    "Hello, world! 12345  \n\n x",
    "Where's the café? it's 图像放大 — n°7",
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 28, 56, 112]}}',
    "\t\tdef f(x):\n        return x**2  # 😀 \r\n",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint)


class TestTokenizer:
    """Text and control tokens get the ids that Qwen publishes."""

    @pytest.mark.parametrize("text", SENTENCES)
    def test_text_encodes_as_with_the_published_ranks(self, tokenizer: Any, text: str) -> None:
        reference = tiktoken.Encoding(
            "qwen", pat_str=qwen.SPLIT_PATTERN, mergeable_ranks=qwen.qwen_ranks(), special_tokens={}
        )
        assert tokenizer(text)["input_ids"] == reference.encode(text)
        assert tokenizer.decode(reference.encode(text)) == text

    @pytest.mark.parametrize(
        ("token", "number"),
        [
            ("<|endoftext|>", 151643),
            ("<|im_end|>", 151645),
            ("<|vision_start|>", 151652),
            ("<|image_pad|>", 151655),
            ("<tool_call>", 151657),
            ("</tool_call>", 151658),
            ("<|file_sep|>", 151664),
        ],
    )
    def test_control_token_has_the_id_of_the_hub_checkpoint(self, tokenizer: Any, token: str, number: int) -> None:
        assert tokenizer(token)["input_ids"] == [number]

    def test_skipping_special_tokens_keeps_the_tool_call_tags(self, tokenizer: Any) -> None:
        ids = tokenizer("<tool_call>{}</tool_call><|im_end|>")["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>{}</tool_call>"

    def test_ranks_without_a_way_to_merge_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no merge of two earlier tokens"):
            qwen.merge_pair(b"abc", {b"abc": 300})


class TestChatFormat:
    """A dialogue is spelled as Qwen2.5-VL spells it."""

    def test_dialogue_with_an_image_is_spelled_as_qwen_spells_it(self, tokenizer: Any) -> None:
        messages = [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q\n"}]},
            {"role": "assistant", "content": "A"},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": " R"}]},
        ]
        assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
            "<|im_start|>system\nS<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q\n<|im_end|>\n"
            "<|im_start|>assistant\nA<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|> R<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def test_dialogue_without_a_system_turn_gets_qwens(self, tokenizer: Any) -> None:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "Q"}], tokenize=False)
        assert text == ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n")

    def test_swift_spells_the_same_dialogue_with_the_same_ids(self, checkpoint: Path, tokenizer: Any) -> None:
        template = get_template(get_processor(str(checkpoint)), template_type="qwen2_5_vl")
        template.set_mode("train")
        question, call = "<image>What is it?", '<think>t</think>\n<tool_call>\n{"name": "f"}\n</tool_call>'
        encoded = template.encode(
            {
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": call}],
                "images": [Image.new("RGB", (112, 112))],
            }
        )
        parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": call}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        pads = "<|image_pad|>" * 16
        assert encoded["input_ids"] == tokenizer(text.replace("<|image_pad|>", pads))["input_ids"]


class TestCheckpoint:
    """The files load, and follow from the seed."""

    def test_transformers_loads_every_weight_by_its_name(self, checkpoint: Path) -> None:
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert 9_700_000 < sum(weight.numel() for weight in model.parameters()) < 11_000_000

    def test_same_seed_gives_the_same_bytes_and_another_seed_others(self, tmp_path: Path) -> None:
        shape = tiny_model.TinyShape(layers=1)
        files = [tiny_model.build(tmp_path / str(at), seed=seed, shape=shape) for at, seed in enumerate((3, 3, 4))]
        first, same, other = ((file / "model.safetensors").read_bytes() for file in files)
        assert first == same != other

    def test_unwritable_directory_ends_with_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        assert main([str(tmp_path / "file" / "model")]) == 1
        assert capsys.readouterr().err.count("\n") == 1
