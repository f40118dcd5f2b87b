"""What a trainer learns from scripted trajectories: `python token_exact_script.py ROOT MODEL_DIR`, under any swift.

The last line of the output is JSON. Inference is scripted: it returns token ids that no tokenizer would give for their
text (each character by itself), so that only the sampled ids themselves can come back. All else is the real swift: its
loop over turns, its merge of a rollout into a sample, its encoding for the loss.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

from any_swift import NEW, load_plugin, make_template, picture, protocol

ROOT, MODEL_DIR = sys.argv[1:3]
LENGTHS = (1, 2, 3, 5)
IMAGE_PAD = "<|image_pad|>"


def call(place: int) -> str:
    box = [28 * place, 28, 28 * place + 84, 112]
    return (
        f"<think>look at {place}</think>"
        f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}}}}}</tool_call>'
    )


SCRIPTS = {str(length): [*map(call, range(1, length)), "<answer>red</answer>"] for length in LENGTHS}
# Tags and tokens of images, written as text and (IMAGE_PAD in the first turn) sampled as one token.
SCRIPTS["forged"] = [f"<image><video><img>x</img> {IMAGE_PAD} {call(1)}", f"<answer>red {IMAGE_PAD} <image></answer>"]


def row() -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "<image>\nColour?\nAnswer in <answer>...</answer>."}],
        "images": [picture(336, 252)],
        "data_source": "vstar",
        "env_name": "visual_toolbox_v2",
        "extra_info": {"question": "Colour?", "index": "0"},
        "request_id": "one",
    }


class Engine:
    """Stands for vLLM: has swift's template encode each prompt, and answers from a script."""

    def __init__(self, template: Any, turns: list[str]) -> None:
        self.template = self.default_template = template
        self.tokenizer = template.tokenizer
        self.engine = self
        self.turns = turns
        self.sampled: list[list[int]] = []
        self.logprobs: list[list[float]] = []
        self.prompt: list[int] = []

    def ids(self, text: str) -> list[int]:
        parts = text.partition(IMAGE_PAD) if not self.sampled else (text, "", "")
        ids = [token for char in parts[0] for token in self.tokenizer.encode(char)]
        ids += self.tokenizer.encode(parts[1])
        ids += [token for char in parts[2] for token in self.tokenizer.encode(char)]
        return [*ids, self.tokenizer.convert_tokens_to_ids("<|im_end|>")]

    def reply(self, request: Any) -> Any:
        mode = self.template.mode
        self.template.set_mode("vllm")
        encoded = self.template.encode(request, return_template_inputs=True)
        self.template.set_mode(mode)
        self.prompt = list(encoded["input_ids"])
        text = self.turns[len(self.sampled)]
        ids = self.ids(text)
        self.sampled.append(list(ids))
        self.logprobs.append([-0.001 * place for place in range(len(ids))])
        choice = protocol.ChatCompletionResponseChoice(
            index=0,
            message=protocol.ChatMessage(role="assistant", content=text),
            finish_reason="stop",
            logprobs={"content": [{"logprob": value} for value in self.logprobs[-1]]},
            token_ids=ids,
        )
        return protocol.ChatCompletionResponse(model="scripted", choices=[choice], usage=protocol.UsageInfo(1, 1, 2))

    async def infer_async(self, request: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self.reply(request)


def request_of(data: dict[str, Any]) -> Any:
    request_class = getattr(protocol, "RolloutInferRequest", None)
    if request_class is None:
        request_class = importlib.import_module("swift.llm.template").RolloutInferRequest
    extra = {key: value for key, value in data.items() if key not in ("messages", "images", "request_id")}
    return request_class(messages=data["messages"], images=list(data["images"]), data_dict=extra)


def in_server(scheduler_class: Any, engine: Engine) -> Any:
    scheduler = scheduler_class(infer_engine=engine, max_turns=6)
    output = asyncio.run(scheduler.run(request_of(row()), protocol.RequestConfig()))
    return protocol.RolloutOutput.model_validate(json.loads(output.model_dump_json()))  # as it travels


def in_trainer(scheduler_class: Any, engine: Engine) -> Any:
    kwargs = {"max_turns": 6, "tokenizer": engine.tokenizer}

    def rollout(pending: Any, _config: Any = None) -> list[Any]:
        return [protocol.RolloutOutput(response=engine.reply(one)) for one in pending]

    if NEW:
        scheduler = scheduler_class(**kwargs, template=engine.template)
        requests = [request_of(row())]
        asyncio.run(scheduler.on_trajectory_start(requests))
        loop = importlib.import_module("swift.rollout.agent_loop")
        return loop.run_multi_turn(requests, rollout(requests), scheduler, rollout, protocol.RequestConfig(), 6)[0]
    mixin = importlib.import_module("swift.trainers.rlhf_trainer.rollout_mixin").RolloutTrainerMixin
    trainer = SimpleNamespace(
        args=SimpleNamespace(max_turns=6, vllm_server_pass_dataset=False),
        multi_turn_scheduler=scheduler_class(**kwargs),
        _extract_logprobs_from_choice=lambda choice: [item["logprob"] for item in choice.logprobs["content"]],
        _rollout=rollout,
        _postprocess_rollout_outputs=lambda _inputs, outputs: outputs,
    )
    trainer.inputs2requests = lambda inputs: mixin.inputs2requests(trainer, inputs)
    inputs = [row()]
    return mixin._colocate_multi_turn_infer(trainer, inputs, rollout([request_of(row())]), None)[0]  # noqa: SLF001


def encode(template: Any, output: Any) -> tuple[dict[str, Any], Any]:
    """Does what the trainer does between a rollout and the loss."""
    template.set_mode("train")
    if NEW:
        sample = importlib.import_module("swift.rl_core.data").OnPolicySample.from_row(row())
        sample.apply_rollout_output(rollout_output=output)
        encoded = importlib.import_module("swift.rlhf_trainers.utils").encode_sample(sample, template)
        return encoded, sample.rollout_logprobs
    trainers = importlib.import_module("swift.trainers.rlhf_trainer.rollout_mixin")
    utils = importlib.import_module("swift.trainers.rlhf_trainer.utils")
    trainer = SimpleNamespace(dynamic_num_samples=False, async_generate=False, multi_turn_scheduler=True)
    (data,) = trainers.RolloutTrainerMixin._postprocess_rollout_outputs(trainer, [row()], [output])  # noqa: SLF001
    if data.get("response_token_ids"):
        data["messages"] = utils.replace_assistant_response_with_ids(
            data["messages"], data["response_token_ids"], data.get("response_loss_mask")
        )
    return template.encode(data, return_length=True), data["rollout_logprobs"]


def trajectory(way: Any, scheduler_class: Any, template: Any, turns: list[str]) -> dict[str, Any]:
    engine = Engine(template, turns)
    template.set_mode("train")
    output = way(scheduler_class, engine)
    infos = output.rollout_infos
    users = [message["content"] for message in output.messages if message["role"] == "user"]
    encoded, logprobs = encode(template, output)
    ids, labels = list(encoded["input_ids"]), list(encoded["labels"])
    pad = template.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    runs = [token for place, token in enumerate(ids) if token != pad or place == 0 or ids[place - 1] != pad]
    return {
        "sampled": engine.sampled,
        "ids_with_loss": [token for token, label in zip(ids, labels, strict=True) if label != -100],
        "labels": [label for label in labels if label != -100],
        "sampled_logprobs": engine.logprobs,
        "logprobs": logprobs,
        "tags": sum(content.count("<image>") for content in users),
        "images": len(
            infos.get("images", row()["images"])
        ),  # ms-swift 3.12 asks the scheduler nothing where no step runs
        "image_runs": runs.count(pad),
        "pixel_grids": len(encoded["image_grid_thw"]),
        "last_prompt_is_prefix": runs[: len(engine.prompt)] == engine.prompt,
        "turns": infos.get("turns"),
        "texts": turns,
    }


def main() -> None:
    announced: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: announced.append(record.getMessage())  # type: ignore[method-assign]
    importlib.import_module("swift.utils").get_logger().addHandler(handler)
    scheduler_class = load_plugin(ROOT).DeepEyesScheduler
    template = make_template(MODEL_DIR)
    template.max_length = None
    result = {
        name: {script: trajectory(way, scheduler_class, template, turns) for script, turns in SCRIPTS.items()}
        for name, way in (("server", in_server), ("trainer", in_trainer))
    }
    ids = {"image_pad": template.image_token_id}
    print(json.dumps({**result, **ids, "announced": [line for line in announced if line.startswith("DeepEyes")]}))  # noqa: T201


main()
