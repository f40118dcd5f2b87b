"""What each setting of the demo's GRPO does alone, on several seeds.

    python benchmarks/demo_settings.py                       # every setting, seeds 1 to 3: half an hour on one thread
    python benchmarks/demo_settings.py --seeds 4 5 --only "as it is" "no rise of the rate"

In swift a run takes minutes, and nearly all of them go into a head over 152 thousand tokens. Here the demo's GRPO is
played in plain torch over the hundred tokens that its trajectories use, and one row for all others: the same policy,
pictures, rewards and loss, half a minute a run. Its random numbers and the order of its sums are not swift's, so a run
here is another run than the demo's with the same seed. Each seed starts from the demo's own warm-up, kept in its cache.
Each line is a run's accuracy on held-out questions, and of them the share whose first turn is neither a call of the
four nor an answer; in the last line of a setting are their means, and the ratio to the first setting's.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from transformers import AutoImageProcessor, AutoTokenizer, LogitsProcessor, Qwen2_5_VLForConditionalGeneration

from deepeyes.demo import task, warmup
from deepeyes.demo.cache import Cache, cache_directory
from deepeyes.demo.pipeline import Demo, build_model
from deepeyes.demo.plan import Plan
from deepeyes.demo.progress import Console

MICRO_BATCH, MAX_TOKENS, ASK_AT_ONCE = 4, 60, 64
BETAS, WEIGHT_DECAY, MAX_NORM = (0.9, 0.95), 0.1, 0.2
"""Adam's and the largest norm of a gradient, as swift has them in the demo."""


@dataclass(frozen=True)
class Setting:
    """What may differ: the demo's plan, the weight of the KL term, the divisor of advantages, and what is cut."""

    plan: Plan = field(default_factory=Plan)
    kl: float = 0.0
    divide: bool = False
    top_k: int = 0


SETTINGS = {
    "as it is": Setting(),
    "no rise of the rate": Setting(Plan(rising=0.0)),
    "rate 4e-4": Setting(Plan(learning_rate=4e-4)),
    "KL term 0.04": Setting(kl=0.04),
    "advantages divided by their group's spread": Setting(divide=True),
    "half the questions a step, twice the steps": Setting(Plan(prompts=4, grpo_steps=42, decay_steps=12)),
    "the fifty likeliest tokens drawn": Setting(top_k=50),
    "zooms begin right in half of the cases": Setting(Plan(right=0.7)),
}


class Head(torch.nn.Module):
    """Logits of the small vocabulary; the last counts for all tokens that it stands for."""

    def __init__(self, weight: torch.Tensor, stands_for: int) -> None:
        """Take the rows of the tied embedding."""
        super().__init__()
        self.weight, self.bonus = weight, torch.zeros(len(weight))
        self.bonus[-1] = math.log(stands_for)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Give the logits."""
        return hidden @ self.weight.T + self.bonus


class Cut(LogitsProcessor):
    """Leaves the likeliest tokens of the whole vocabulary, as `top_k` does."""

    def __init__(self, top_k: int, bonus: torch.Tensor) -> None:
        """Cut after so many tokens."""
        self._top_k, self._bonus = top_k, bonus

    def __call__(self, _: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Take the others' row apart again: its tokens are equal, so where one is left, they fill all places."""
        single = scores - self._bonus
        others = single[:, -1:]
        ahead = (single[:, :-1] > others).sum(1, keepdim=True)
        least = torch.where(ahead < self._top_k, others, single.topk(self._top_k).values[:, -1:])
        left = single.masked_fill(single < least, -math.inf)
        left[:, -1:] += (self._top_k - ahead).clamp(min=1).log()
        return left


@dataclass
class Trajectory:
    """A trajectory in ids of the small vocabulary.

    Attributes:
        ids: Its tokens.
        written: For each of them, 1 where the policy wrote it, and else 0.
        images: Patches of the view and, after a zoom, of the crop.
        mat: The mat to whose card's place it zoomed; None where it made none of these calls.
        answer: The pattern that it named; empty where it named none.
        reward: The reward of the row's source.
    """

    ids: list[int]
    written: list[int]
    images: list[torch.Tensor]
    mat: int | None
    answer: str
    reward: float = 0.0


class Policy:
    """A checkpoint of the warm-up over the small vocabulary."""

    def __init__(self, checkpoint: Path, plan: Plan, top_k: int) -> None:
        """Load it; the vision tower stays as it is, which is swift's default."""
        batches = warmup.Batches(checkpoint, plan)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint)
        full = model.get_input_embeddings().weight.data
        unused = next(at for at in range(len(full)) if at not in batches.vocabulary)
        small = torch.nn.Embedding(len(batches.vocabulary) + 1, full.shape[1])
        small.weight.data = full[[*batches.vocabulary, unused]]
        model.set_input_embeddings(small)
        model.requires_grad_(requires_grad=False)
        model.model.language_model.requires_grad_(requires_grad=True)
        small.requires_grad_(requires_grad=False)
        model.lm_head = self.head = Head(small.weight, len(full) - len(batches.vocabulary))
        model.config.image_token_id, model.config.video_token_id = batches.image_token, -1
        model.config.vision_start_token_id = batches.vision_start
        self.model: Any = model
        self.image_token = batches.image_token
        self._processor = AutoImageProcessor.from_pretrained(checkpoint)
        self._cut = [Cut(top_k, self.head.bonus)] if top_k else []
        tokenizer, small_id = AutoTokenizer.from_pretrained(checkpoint), batches.vocabulary.index

        def spell(text: str) -> list[int]:
            return [small_id(token) for token in tokenizer(text)["input_ids"]]

        turns = [[text for text, _ in warmup.spell(mat, name)] for mat in range(4) for name in task.PATTERNS]
        self.prompt, self.observation = spell(warmup.PROMPT), spell(warmup.OBSERVATION)
        self.calls = {tuple(spell(call)): at // len(task.PATTERNS) for at, (_, call, _, _) in enumerate(turns)}
        self.answers = {tuple(spell(turn[-1])): name for turn, name in zip(turns, task.PATTERNS, strict=False)}
        self.end = next(iter(self.calls))[-1]

    def look_at(self, pictures: list[task.Picture]) -> list[torch.Tensor]:
        """Give the patches of each picture's view and of its four crops: images x patches x pixels."""
        seen = []
        for original in map(task.draw, pictures):
            crops = [original.crop(task.on_original(task.card_box(mat))) for mat in range(len(task.MATS))]
            images = [original.resize((task.VIEW_SIDE, task.VIEW_SIDE)), *crops]
            patches = self._processor(images, return_tensors="pt")["pixel_values"]
            seen.append(patches.view(len(images), warmup.SIDE**2, -1))
        return seen

    def _inputs(self, rows: list[list[int]], images: list[torch.Tensor], *, left: bool) -> dict[str, torch.Tensor]:
        longest = max(map(len, rows))
        padded, mask = [], []
        for row in rows:
            more = longest - len(row)
            padded.append([self.end] * more + row if left else row + [self.end] * more)
            mask.append([0] * more + [1] * len(row) if left else [1] * len(row) + [0] * more)
        ids, seen = torch.tensor(padded), torch.tensor(mask)
        return {
            "input_ids": ids,
            "attention_mask": seen,
            "mm_token_type_ids": (ids == self.image_token).long() * seen,
            "pixel_values": torch.cat(images),
            "image_grid_thw": torch.tensor([[1, warmup.SIDE, warmup.SIDE]] * len(images)),
        }

    def _write(self, rows: list[list[int]], images: list[torch.Tensor]) -> list[list[int]]:
        if not rows:
            return []
        inputs = self._inputs(rows, images, left=True)
        ends = {"max_new_tokens": MAX_TOKENS, "eos_token_id": self.end, "pad_token_id": self.end}
        drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "logits_processor": self._cut}
        with torch.no_grad():
            written = self.model.generate(**inputs, **ends, **drawn)[:, inputs["input_ids"].shape[1] :].tolist()
        return [row[: row.index(self.end) + 1] if self.end in row else row for row in written]

    def play(self, pictures: list[task.Picture], seen: list[torch.Tensor]) -> list[Trajectory]:
        """Play a trajectory a picture, as the scheduler does, and score it as `deepeyes_reward` does."""
        played = []
        turns = self._write([self.prompt] * len(pictures), [one[0] for one in seen])
        for turn, images in zip(turns, seen, strict=True):
            mat, answer = self.calls.get(tuple(turn)), self.answers.get(tuple(turn), "")
            written = [0] * len(self.prompt) + [1] * len(turn)
            played.append(Trajectory(self.prompt + turn, written, [images[0]], mat, answer))
        zoomed = [(one, images) for one, images in zip(played, seen, strict=True) if one.mat is not None]
        for one, images in zoomed:
            one.ids, one.written = one.ids + self.observation, one.written + [0] * len(self.observation)
            one.images.append(images[1 + (one.mat or 0)])
        rows, shown = [one.ids for one, _ in zoomed], [image for one, _ in zoomed for image in one.images]
        for (one, _), turn in zip(zoomed, self._write(rows, shown), strict=True):
            one.ids, one.written = one.ids + turn, one.written + [1] * len(turn)
            one.answer = self.answers.get(tuple(turn), "")
        for one, picture in zip(played, pictures, strict=True):
            right = one.answer == picture.pattern
            one.reward = (0.8 + 1.2 * (one.mat is not None)) * right - 0.2 * (not one.answer)
        return played

    def log_probabilities(self, rows: list[Trajectory]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give those of the tokens from the second on, and which of them the policy wrote: both rows x tokens."""
        inputs = self._inputs([row.ids for row in rows], [image for row in rows for image in row.images], left=False)
        ids = inputs["input_ids"][:, 1:]
        hidden = self.model.model(**inputs).last_hidden_state[:, :-1]
        chosen = self.head(hidden).log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0] - self.head.bonus[ids]
        written = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.written) for row in rows], batch_first=True)
        return chosen, written[:, 1:].float()


def rate_of(step: int, plan: Plan) -> float:
    """Give the rate of a step as Transformers' `warmup_stable_decay` does."""
    rising = math.ceil(plan.rising * plan.grpo_steps)
    falling = max(0, step - (plan.grpo_steps - plan.decay_steps)) / plan.decay_steps
    return plan.learning_rate * min(step / rising if rising else 1.0, 0.5 + 0.5 * math.cos(math.pi * falling))


def train(policy: Policy, start: Policy, setting: Setting) -> None:
    """Train as `swift rlhf` does in the demo; `start` is what the KL term holds the policy to."""
    plan = setting.plan
    drawn = task.sample_pictures(plan.prompts * plan.grpo_steps, seed=plan.seed, split="train")
    pictures = [replace(picture, mat=at % len(task.MATS)) for at, picture in enumerate(drawn)]
    parameters = [one for one in policy.model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=BETAS, weight_decay=WEIGHT_DECAY)
    for step in range(plan.grpo_steps):
        asked = pictures[step * plan.prompts :][: plan.prompts]
        seen = policy.look_at(asked)
        each = range(plan.generations)
        played = policy.play([one for one in asked for _ in each], [one for one in seen for _ in each])
        rewards = torch.tensor([one.reward for one in played]).view(-1, plan.generations)
        advantages = rewards - rewards.mean(1, keepdim=True)
        if setting.divide:
            advantages /= rewards.std(1, keepdim=True) + 1e-4
        optimizer.param_groups[0]["lr"] = rate_of(step, plan)
        optimizer.zero_grad()
        for at in range(0, len(played), MICRO_BATCH):
            rows = played[at : at + MICRO_BATCH]
            now, written = policy.log_probabilities(rows)
            loss = -torch.exp(now - now.detach()) * advantages.flatten()[at : at + MICRO_BATCH, None]
            if setting.kl:
                with torch.no_grad():
                    apart = start.log_probabilities(rows)[0]
                loss = loss + setting.kl * (torch.exp(apart - now) - (apart - now) - 1)
            ((loss * written).sum() / written.sum() * MICRO_BATCH / len(played)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()


def measure(policy: Policy, plan: Plan) -> tuple[float, float]:
    """Give the accuracy on the held-out questions, and the share of first turns that are neither call nor answer."""
    pictures = task.sample_pictures(plan.held_out, seed=plan.seed, split="held-out")
    played = []
    for at in range(0, len(pictures), ASK_AT_ONCE):
        some = pictures[at : at + ASK_AT_ONCE]
        played += policy.play(some, policy.look_at(some))
    right = [one.answer == picture.pattern for one, picture in zip(played, pictures, strict=True)]
    return fmean(right), fmean(one.mat is None and not one.answer for one in played)


def main() -> None:
    """Run the settings, and print their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    first = None
    cache = Cache(cache_directory(os.environ), lambda _: None)
    for name in options.only:
        found = []
        for seed in options.seeds:
            setting = replace(SETTINGS[name], plan=replace(SETTINGS[name].plan, seed=seed))
            console = Console(1)
            console.stage("warm-up")
            checkpoint = Demo(setting.plan, cache, console).warm_up(build_model(cache, seed))
            policy = Policy(checkpoint, setting.plan, setting.top_k)
            start = Policy(checkpoint, setting.plan, setting.top_k) if setting.kl else policy
            torch.manual_seed(seed)
            begin = time.perf_counter()
            train(policy, start, setting)
            accuracy, broken = measure(policy, setting.plan)
            found.append((accuracy, broken))
            took = time.perf_counter() - begin
            print(f"{name}, seed {seed}: accuracy {accuracy:.2f}, broken {broken:.3f}  {took:.0f} s", flush=True)
        accuracy, broken = (fmean(column) for column in zip(*found, strict=True))
        first = first or accuracy
        print(f"{name}: accuracy {accuracy:.2f} ({accuracy / first:.2f} x), broken {broken:.3f}", flush=True)


if __name__ == "__main__":
    main()
