"""The demo's warm-up in plain torch: a blank model learns to see, to write a tool call, to read a crop, and to try.

GRPO rewards what a policy sometimes does already, and random weights never write a valid tool call. A real run starts
from a pretrained model; here a minute of supervised training stands in for that. Its targets are distributions: the
text of a turn is certain, but whether to zoom, and where to, is only leaned towards what is right. The rest is left for
GRPO to find. It is plain torch and not `swift sft` for such targets, and for speed: only the hundred vocabulary rows
that the trajectories use are trained, and all others are tied to one shared row for the time, which leaves the softmax
over the full vocabulary exact.
"""

from __future__ import annotations

import copy
import functools
import math
import shutil
from collections import deque
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deepeyes.demo import progress, task

if TYPE_CHECKING:
    from pathlib import Path

    from deepeyes.demo.plan import Plan

SIDE = task.VIEW_SIDE // 14  # of a view or crop in patches
IMAGE = "<|vision_start|>" + "<|image_pad|>" * (task.VIEW_SIDE // task.CELL) ** 2 + "<|vision_end|>"
PROMPT = (
    f"<|im_start|>system\n{task.SYSTEM}<|im_end|>\n<|im_start|>user\n{IMAGE}\n{task.QUESTION}\n{task.FORMAT}"
    "<|im_end|>\n<|im_start|>assistant\n"
)
OBSERVATION = (
    f"\n<|im_start|>user\n<tool_response>{IMAGE}\n{task.FORMAT}</tool_response><|im_end|>\n<|im_start|>assistant\n"
)
CALLS = [f"{task.zoom_turn(task.card_box(mat))}<|im_end|>" for mat in range(len(task.MATS))]
ANSWERS = {pattern: f"{task.answer_turn(pattern)}<|im_end|>" for pattern in task.PATTERNS}
BATCH_SIZE, PICTURES = 16, 256
LEARNING_RATE, RISING_STEPS = 2e-3, 20  # the rate rises over so many steps
TRY_STEPS, SEES, AGAIN_RATE = 200, 0.9, 1.2e-3
"""A model that finds places and reads answers in a smaller share than this after so many steps begins again, at the
lower rate. At the higher one most learn sooner, and few never tell the patterns apart."""
SOFT_RATE = 0.5  # the share of the rate from which it falls over the soft steps: all of it unsettles what was learned
READY_STEPS, READY = 12, 12 * 0.99
"""The targets become softer once this is passed by the sum over so many steps of the share of right places and answers,
which counts as zero for a step in which a token of the text is wrong: GRPO never mends a call that can't be written."""
EVEN = 0.5  # a choice whose likeliest token has no more than this has no right answer, and is not counted as one
ZOOMS, HITS = 0.8, 0.5  # shares of trajectories that zoom, and of those that surely go to the right place, not anywhere
CHOICE_WEIGHTS = 25.0, 10.0  # loss weights of a token that the picture decides, in clean and soft steps; of text: 1
MARGIN = 8.0  # nats by which a token that a target leaves out counts more than it is, so that it is hardly ever drawn

Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A trajectory in the small vocabulary: its ids; the distribution to write each from, tokens x vocabulary; and the loss
weight of each, zero where the policy does not write it."""


def spell(zoom_to: int | None, answer: str) -> list[tuple[str, bool]]:
    """Spell a trajectory as the scheduler would hold it: its pieces of text, each with whether the policy wrote it."""
    zoom = [] if zoom_to is None else [(CALLS[zoom_to], True), (OBSERVATION, False)]
    return [(PROMPT, False), *zoom, (ANSWERS[answer], True)]


class Batches:
    """Spells trajectories in the ids of the small vocabulary, and hands out batches."""

    def __init__(self, checkpoint: Path, plan: Plan) -> None:
        """Draw the pictures and spell the turns with a checkpoint's processor and tokenizer."""
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        processor: Any = AutoImageProcessor.from_pretrained(checkpoint)  # type: ignore[no-untyped-call]  # Transformers leaves it untyped
        self._rng = np.random.default_rng(plan.seed)
        self._pictures = task.sample_pictures(PICTURES, seed=plan.seed, split="warm-up")
        self._images = []
        for picture in self._pictures:  # the view and the crop of each place
            original = task.draw(picture)
            crops = [original.crop(task.on_original(task.card_box(mat))) for mat in range(len(task.MATS))]
            images = [original.resize((task.VIEW_SIDE, task.VIEW_SIDE)), *crops]
            pixels = processor(images, return_tensors="pt")["pixel_values"]
            self._images.append(pixels.view(len(images), SIDE * SIDE, -1).half())
        answers = list(ANSWERS.values())
        encoded = {text: tokenizer(text)["input_ids"] for text in (PROMPT, OBSERVATION, *CALLS, *answers)}
        self.vocabulary = sorted({token for ids in encoded.values() for token in ids})
        small = {token: at for at, token in enumerate(self.vocabulary)}
        self._spelt = {text: [small[token] for token in ids] for text, ids in encoded.items()}
        self._open = {text: _open_tokens(text, turns, self._spelt) for turns in (CALLS, answers) for text in turns}
        self._coordinates = [[self._spelt[call][at] for at in self._open[call]] for call in CALLS]
        self.names = {name: self._spelt[text][self._open[text][0]] for name, text in ANSWERS.items()}
        self._openings = {self._spelt[CALLS[0]][0]: plan.zooms, self._spelt[answers[0]][0]: 1 - plan.zooms}
        self.image_token = small[tokenizer.convert_tokens_to_ids("<|image_pad|>")]
        self.vision_start = small[tokenizer.convert_tokens_to_ids("<|vision_start|>")]

    @functools.cache  # noqa: B019 - as long-lived as the training
    def row(self, place: int, pattern: str, zoom_to: int | None, right: float) -> Row:
        """Spell a trajectory for a card on the mat `place`, that zooms to the place of a mat or, with None, to none.

        `right` is the probability that the targets give to each coordinate of the right place.
        """
        readable = [self.names[pattern]] if zoom_to == place else list(self.names.values())
        answer = dict.fromkeys(readable, 1 / len(readable))
        coordinates = [
            {mine: right, other: 1 - right}
            for mine, other in zip(self._coordinates[place], self._coordinates[len(task.MATS) - 1 - place], strict=True)
        ]
        ids: list[int] = []
        targets: list[dict[int, float]] = []
        weights: list[float] = []
        for text, written in spell(zoom_to, pattern):
            asked = iter([answer] if text == ANSWERS[pattern] else coordinates)
            for at, token in enumerate(self._spelt[text]):
                choice = at in self._open.get(text, ())
                first = written and not any(weights)
                ids.append(token)
                targets.append(next(asked) if choice else self._openings if first else {token: 1.0})
                weights.append(CHOICE_WEIGHTS[right < 1] if choice else float(written))
        dense = torch.zeros(len(ids), len(self.vocabulary) + 1)
        filled = [(row, token, share) for row, target in enumerate(targets) for token, share in target.items()]
        rows, tokens, shares = zip(*filled, strict=True)
        dense[rows, tokens] = torch.tensor(shares)
        return torch.tensor(ids), dense, torch.tensor(weights)

    def draw(self, right: float) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Give the model's inputs, and the targets and weights of their tokens; `right` as in `row`."""
        rows, pixels = [], []
        for at in self._rng.integers(PICTURES, size=BATCH_SIZE):
            picture, images = self._pictures[at], self._images[at]
            pixels.append(images[0])
            zoom_to = None
            if self._rng.random() < ZOOMS:
                sure = self._rng.random() < HITS
                zoom_to = picture.mat if sure else int(self._rng.integers(len(task.MATS)))
                pixels.append(images[1 + zoom_to])
            rows.append(self.row(picture.mat, picture.pattern, zoom_to, right))
        ids, targets, weights = (pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True))
        inputs = {
            "input_ids": ids,
            "attention_mask": pad_sequence([torch.ones_like(row[0]) for row in rows], batch_first=True),
            "mm_token_type_ids": (ids == self.image_token).long(),
            "pixel_values": torch.cat(pixels).float(),
            "image_grid_thw": torch.tensor([[1, SIDE, SIDE]] * len(pixels)),
        }
        return inputs, targets, weights


def _open_tokens(text: str, turns: list[str], spelt: dict[str, list[int]]) -> list[int]:
    """Find the tokens of a turn that the ones before them leave open: another turn goes on otherwise."""
    mine, others = spelt[text], [spelt[turn] for turn in turns]
    return [at for at, token in enumerate(mine) if any(it[:at] == mine[:at] and it[at] != token for it in others)]


def shares_right(
    logits: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor, names: list[int]
) -> tuple[float, ...]:
    """Give the shares of tokens whose likeliest value is right: of the text, of places and of answers.

    Logits and targets, the `wanted`, are tokens x vocabulary; a token whose target has no likeliest value counts
    nowhere. The loss weight of text is 1, and answers begin with one of the `names`.
    """
    hits, sure = logits.argmax(1) == wanted.argmax(1), wanted.amax(1) > EVEN
    text, read = weight == 1, wanted[:, names].sum(1) > 0
    return tuple(hits[sure & mask].float().mean().item() for mask in (text, ~text & ~read, ~text & read))


def warm_up(source: Path, target: Path, plan: Plan) -> None:
    """Train a checkpoint, which is left as it is, into a target folder, which also gets a log of every tenth step."""
    torch.set_num_threads(1)  # beside it swift is imported; two threads would wait for each other, ten times as long
    torch.manual_seed(plan.seed)
    batches = Batches(source, plan)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    full = model.get_input_embeddings().weight.data
    small = torch.nn.Embedding(len(batches.vocabulary) + 1, full.shape[1])  # the last row stands for all others
    small.weight.data = torch.cat([full[batches.vocabulary], torch.zeros(1, full.shape[1])])
    model.set_input_embeddings(small)
    model.config.image_token_id, model.config.video_token_id = batches.image_token, -1
    model.config.vision_start_token_id = batches.vision_start
    others = torch.zeros(len(small.weight))
    others[-1] = math.log(len(full) - len(batches.vocabulary))
    parameters = list(model.model.parameters())
    blank, rate, begin = copy.deepcopy(model.state_dict()), LEARNING_RATE, 0
    adam = functools.partial(torch.optim.AdamW, parameters, betas=(0.9, 0.98), weight_decay=0.0)
    optimizer = adam()
    seen = deque[tuple[float, float]](maxlen=READY_STEPS)
    writer, clean_steps, step = progress.Writer(target), plan.clean_steps, 0
    while step < (steps := clean_steps + plan.soft_steps):
        clean = step < clean_steps
        if clean and step == TRY_STEPS and fmean(sight for _, sight in seen) < SEES:
            model.load_state_dict(blank)
            optimizer, rate, begin, clean_steps = adam(), AGAIN_RATE, step, step + plan.clean_steps
        share = min((step - begin + 1) / RISING_STEPS, 1.0) if clean else SOFT_RATE * (steps - step) / plan.soft_steps
        optimizer.param_groups[0]["lr"] = rate * share
        softness = 0.0 if clean else min(1.0, 2 * (step - clean_steps + 1) / plan.soft_steps)
        inputs, targets, weights = batches.draw(round(1 - softness * (1 - plan.right), 2))
        hidden = model.model(**inputs).last_hidden_state[:, :-1]
        here = weights[:, 1:] > 0
        wanted, weight = targets[:, 1:][here], weights[:, 1:][here]
        logits = hidden[here] @ small.weight.T + others
        logps = (logits + MARGIN * (wanted == 0)).log_softmax(1)
        optimizer.zero_grad()
        (-(wanted * logps).sum(1) @ weight / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        text, places, answers = shares_right(logits, wanted, weight, list(batches.names.values()))
        seen.append((float(text == 1), min(places, answers)))
        if clean and sum(map(min, seen)) > READY:
            clean_steps = step
        if step % 10 == 0:
            found = f"text right {text:.3f}, places {places:.2f}, answers {answers:.2f}"
            writer.step(step, steps, f"second try: {found}" if begin else found)
    full[:] = small.weight.data[-1]
    full[batches.vocabulary] = small.weight.data[:-1]
    small.weight.data = full
    model.save_pretrained(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.log"), dirs_exist_ok=True)
