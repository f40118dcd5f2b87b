"""What swift loads beside the plugin: a scheduler that plays given answers, and a hash of the weights at each save.

`PLAYED` holds, as JSON, a list a rank: its answers in the order of its trajectories, over and over. Every trajectory
zooms once and then answers. `HASHES` is the folder for the hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from swift.rollout import multi_turn

RANK = int(os.environ.get("RANK", "0"))
ANSWERS = json.loads(os.environ["PLAYED"])[RANK]
ZOOM = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56]}}</tool_call>'


class Player(multi_turn.multi_turns["deepeyes_scheduler"]):  # type: ignore[misc]
    """`deepeyes_scheduler` with a mouth of its own."""

    begun = 0

    def append_assistant_completion(self, infer_request: Any, _completion: str) -> Any:
        turn = getattr(infer_request, "played", 0)
        infer_request.played = turn + 1
        if turn == 0:
            infer_request.answer = ANSWERS[Player.begun % len(ANSWERS)]
            Player.begun += 1
        text = f"<answer>{infer_request.answer}</answer>" if turn else ZOOM
        infer_request.text = text
        return super().append_assistant_completion(infer_request, text)

    async def on_turn_end(self, infer_request: Any, response_choice: Any, current_turn: int) -> Any:
        tokens = self.tokenizer.encode(infer_request.text, add_special_tokens=False)
        response_choice.message.content = infer_request.text
        response_choice.token_ids = [*tokens, self.tokenizer.eos_token_id]
        response_choice.finish_reason, response_choice.logprobs = "stop", None
        return await super().on_turn_end(infer_request, response_choice, current_turn)


multi_turn.multi_turns["deepeyes_scheduler"] = Player

# Of several processes without a GPU, transformers loads an optimizer to "cpu:0", a place that torch does not know.
torch.serialization.register_package(
    11, lambda _storage: None, lambda storage, place: storage if place.startswith("cpu:") else None
)

if Path(sys.argv[0]).stem == "rlhf":
    from swift.rlhf_trainers.grpo_trainer import GRPOTrainer

    SAVE = "_save_checkpoint"
    original = getattr(GRPOTrainer, SAVE)

    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        digest = hashlib.sha256()
        for name, weights in sorted(self.model.named_parameters()):
            digest.update(name.encode() + weights.detach().cpu().numpy().tobytes())
        Path(os.environ["HASHES"], f"{self.state.global_step}-{RANK}").write_text(digest.hexdigest())
        return original(self, *args, **kwargs)

    setattr(GRPOTrainer, SAVE, save)
