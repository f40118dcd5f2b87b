"""The demo's warm-up in plain torch: a blank model learns to see, to write a tool call and to read a crop.

GRPO rewards what a policy sometimes does already, and random weights never write a valid tool call. A real run starts
from a pretrained model; here a minute of supervised training on clean trajectories stands in for that. It is plain
torch and not `swift sft` for speed alone: only the few hundred vocabulary rows that the trajectories use are trained,
and all others are tied to one shared row for the time, which leaves the softmax over the full vocabulary exact. How
often to zoom, and how reliably, is set afterwards, by `swift sft`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deepeyes.demo import task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = "<|vision_start|>" + "<|image_pad|>" * (task.VIEW_SIDE // task.CELL) ** 2 + "<|vision_end|>"
PATCH = 14
READY_STEPS, READY = 8, 8 * 0.98
"""The warm-up cools down once the share of right digits and answers, summed over so many steps, is this."""
COOLING_STEPS = 40
"""Steps over which the learning rate falls to zero at the end."""
EMBEDDING = "model.embed_tokens.weight"
DIGIT_WEIGHT, PATTERN_WEIGHT, OTHER_WEIGHT = 2.0, 5.0, 0.2
"""Loss weights of a box's digits, of the answer, and of the text around them, which is the same in all trajectories."""


@dataclass(frozen=True, slots=True)
class WarmupSettings:
    """How long and on what the warm-up trains.

    Attributes:
        steps: Optimizer steps at most; it ends sooner once boxes and answers are right.
        batch_size: Trajectories a step.
        learning_rate: Peak learning rate.
        pictures: Different pictures.
        guesses: Share of them that are answered at once, without a zoom.
        seed: Seed of the pictures and of their order.
    """

    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 2e-3
    pictures: int = 256
    guesses: float = 0.2
    seed: int = 0


PROMPT = (
    f"<|im_start|>system\n{task.SYSTEM}<|im_end|>\n<|im_start|>user\n{IMAGE}\n{task.QUESTION}\n{task.FORMAT}"
    "<|im_end|>\n<|im_start|>assistant\n"
)
OBSERVATION = (
    f"\n<|im_start|>user\n<tool_response>{IMAGE}\n{task.FORMAT}</tool_response><|im_end|>\n<|im_start|>assistant\n"
)


def _segments(picture: task.Picture, *, zooms: bool) -> list[tuple[str, bool]]:
    """Spell a clean trajectory: its pieces of text, each with whether the policy wrote it."""
    answer = (f"{task.answer_turn(picture.pattern)}<|im_end|>", True)
    if not zooms:
        return [(PROMPT, False), answer]
    return [(PROMPT, False), (f"{task.zoom_turn(picture.box)}<|im_end|>", True), (OBSERVATION, False), answer]


class _Batches:
    """Encodes pictures and trajectories once, in the ids of the small vocabulary, and hands out batches."""

    def __init__(self, checkpoint: Path, settings: WarmupSettings) -> None:
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        processor: Any = AutoImageProcessor.from_pretrained(checkpoint)  # type: ignore[no-untyped-call]
        pictures = task.sample_pictures(settings.pictures, seed=settings.seed, split="warm-up")
        originals = [task.draw(picture) for picture in pictures]
        side = (task.VIEW_SIDE, task.VIEW_SIDE)
        images = [original.resize(side) for original in originals]
        images += [
            original.crop(task.on_original(picture.box)) for original, picture in zip(originals, pictures, strict=True)
        ]
        self.pixels = processor(images, return_tensors="pt")["pixel_values"].view(2, len(pictures), -1, 1176)
        self._rng = np.random.default_rng(settings.seed)
        self._zooms = self._rng.random(len(pictures)) >= settings.guesses
        encoded = [
            [(tokenizer(text)["input_ids"], written) for text, written in _segments(picture, zooms=bool(zooms))]
            for picture, zooms in zip(pictures, self._zooms, strict=True)
        ]
        self.vocabulary = sorted({token for row in encoded for ids, _ in row for token in ids})
        small = {token: at for at, token in enumerate(self.vocabulary)}
        self.image_token = small[tokenizer.convert_tokens_to_ids("<|image_pad|>")]
        self.vision_start = small[tokenizer.convert_tokens_to_ids("<|vision_start|>")]
        self.padding = small[tokenizer.convert_tokens_to_ids("<|im_end|>")]
        answers = {tokenizer(f"<answer>{pattern}</answer>")["input_ids"][3] for pattern in task.PATTERNS}
        digits = set(tokenizer("0123456789")["input_ids"])

        def weight(token: int, *, zooms: bool) -> float:
            if token in answers and zooms:
                return PATTERN_WEIGHT
            return DIGIT_WEIGHT if token in digits else OTHER_WEIGHT

        self.rows = [
            [
                (small[token], weight(token, zooms=bool(zooms)) if written else 0.0)
                for ids, written in row
                for token in ids
            ]
            for row, zooms in zip(encoded, self._zooms, strict=True)
        ]
        self.digits = torch.tensor([token in digits for token in self.vocabulary])
        self._size = settings.batch_size

    def draw(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Give the model's inputs and the loss weight of each token, zero for those that the policy does not write."""
        chosen = self._rng.integers(len(self.rows), size=self._size)
        rows = [self.rows[int(at)] for at in chosen]
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self.padding)
        attention = torch.zeros_like(ids)
        weights = torch.zeros(ids.shape)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor([token for token, _ in row])
            attention[at, : len(row)] = 1
            weights[at, : len(row)] = torch.tensor([weight for _, weight in row])
        side = task.VIEW_SIDE // PATCH
        pixels = torch.cat([self.pixels[: 1 + int(self._zooms[at]), at].flatten(0, 1) for at in chosen])
        inputs = {
            "input_ids": ids,
            "attention_mask": attention,
            "mm_token_type_ids": (ids == self.image_token).long(),
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, side, side]] * (len(pixels) // side**2)),
        }
        return inputs, weights


def _shrink(model: Any, batches: _Batches) -> torch.nn.Embedding:
    """Give the model a vocabulary of the used rows and one row that stands for all others."""
    full = model.get_input_embeddings().weight.data
    small = torch.nn.Embedding(len(batches.vocabulary) + 1, full.shape[1])
    small.weight.data[:-1] = full[batches.vocabulary]
    small.weight.data[-1] = 0
    model.set_input_embeddings(small)
    model.config.image_token_id = batches.image_token
    model.config.video_token_id = -1
    model.config.vision_start_token_id = batches.vision_start
    return small


def warm_up(source: Path, target: Path, settings: WarmupSettings, progress: Callable[[int, int, str], None]) -> None:
    """Train a checkpoint on clean trajectories.

    Args:
        source: The checkpoint to start from; it is left as it is.
        target: Directory of the trained checkpoint; made here, with every file of the source.
        settings: How long and on what.
        progress: Told after each step: the steps done, the steps in all, and a few figures.
    """
    torch.manual_seed(settings.seed)
    batches = _Batches(source, settings)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    full = model.get_input_embeddings().weight.data
    small = _shrink(model, batches)
    others = torch.zeros(len(batches.vocabulary) + 1)
    others[-1] = math.log(len(full) - len(batches.vocabulary))
    parameters = list(model.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    recent: deque[tuple[float, float]] = deque(maxlen=READY_STEPS)
    end = settings.steps
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(
            1.0, (step + 1) / 20, (end - step) / COOLING_STEPS
        )
        inputs, weights = batches.draw()
        hidden = model.model(**inputs).last_hidden_state[:, :-1]
        here = weights[:, 1:] > 0
        targets, weight = inputs["input_ids"][:, 1:][here], weights[:, 1:][here]
        logits = hidden[here] @ small.weight.T + others
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        optimizer.zero_grad()
        ((losses * weight).sum() / weight.sum()).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        right = (logits.argmax(1) == targets).float()
        boxes, answers = (right[mask].mean().item() for mask in (batches.digits[targets], weight == PATTERN_WEIGHT))
        progress(step + 1, end, f"digits right {boxes:.2f}, answers right {answers:.2f}")
        recent.append((boxes, answers))
        if end == settings.steps and len(recent) == READY_STEPS and min(map(sum, zip(*recent, strict=True))) >= READY:
            end = min(end, step + 1 + COOLING_STEPS)
        if step + 1 == end:
            break
    _save(source, target, model, small, batches.vocabulary)


def _save(source: Path, target: Path, model: Any, small: torch.nn.Embedding, vocabulary: list[int]) -> None:
    """Write the trained weights over those of the source, under its names."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    trained = {name.replace("model.visual.", "visual."): value for name, value in model.state_dict().items()}
    trained = {name.replace("model.language_model.", "model."): value for name, value in trained.items()}
    weights = load_file(source / "model.safetensors")
    for name in weights:
        if name != EMBEDDING:
            weights[name] = trained[name].contiguous()
    weights[EMBEDDING] = small.weight.data[-1].repeat(len(weights[EMBEDDING]), 1)
    weights[EMBEDDING][vocabulary] = small.weight.data[:-1]
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
