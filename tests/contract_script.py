"""Runs the plugin against one version of ms-swift: `python contract_script.py ROOT MODEL_DIR`, in an environment of it.

The last line of the output is JSON: what the version made of one scripted trajectory of three turns (a zoom, a call
that is refused, an answer), in the server's way and in the trainer's. Only inference itself is scripted.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import json
import sys
from types import SimpleNamespace
from typing import Any

from any_swift import NEW, load_plugin, make_template, picture, protocol
from PIL import Image

ROOT, MODEL_DIR = sys.argv[1:3]
TURNS = [
    (
        '<think>closer</think>\n<tool_call>\n{"name": "image_zoom_in_tool", "arguments": '
        '{"bbox_2d": [28, 56, 300, 200], "label": "mug"}}\n</tool_call>'
    ),
    '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [NaN]}}</tool_call>',
    "<think>I see</think><answer>The mug is red.</answer>",
]
INSTRUCTION = "\nThink, zoom, answer: <think>...</think> <tool_call>...</tool_call> <answer>...</answer> "
REWARDS = ("deepeyes_reward", "deepeyes_accuracy", "deepeyes_format", "deepeyes_tool")


def row() -> dict[str, Any]:
    question = "What colour is the mug?"
    return {
        "messages": [
            {"role": "system", "content": "You may call image_zoom_in_tool."},
            {"role": "user", "content": f"<image>\n{question}{INSTRUCTION}"},
        ],
        "images": [picture(420, 336)],
        "data_source": "vstar",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": "The mug is red.", "style": "model"},
        "extra_info": {"question": question, "answer": "The mug is red.", "index": "7", "split": "train"},
    }


class Engine:
    """Stands for vLLM: checks that swift's template can encode what it is asked, and answers from the script."""

    def __init__(self, template: Any) -> None:
        self.template = self.default_template = template
        self.tokenizer = template.tokenizer
        self.engine = self
        self.turn = 0
        self.image_tokens: list[int] = []

    def reply(self, request: Any) -> Any:
        self.template.set_mode("vllm" if NEW else "pt")
        inputs = request if isinstance(request, dict) else vars(request)
        messages = [dict(message) for message in inputs["messages"]]
        encoded = self.template.encode({"messages": messages, "images": list(inputs["images"])})
        self.image_tokens.append(list(encoded["input_ids"]).count(self.template.image_token_id))
        text = TURNS[self.turn]
        self.turn += 1
        ids = [*self.tokenizer.encode(text), self.tokenizer.convert_tokens_to_ids("<|im_end|>")]
        message = protocol.ChatMessage(role="assistant", content=text)
        kind = getattr(protocol, "RolloutResponseChoice", protocol.ChatCompletionResponseChoice)
        extra = {"token_ids": ids} if "token_ids" in kind.__dataclass_fields__ else {}
        choice = kind(index=0, message=message, finish_reason="stop", **extra)
        return protocol.ChatCompletionResponse(model="scripted", choices=[choice], usage=protocol.UsageInfo(1, 1, 2))

    async def infer_async(self, request: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self.reply(request)


def request_of(data: dict[str, Any]) -> Any:
    request_class = getattr(protocol, "RolloutInferRequest", None)
    if request_class is None:
        request_class = importlib.import_module("swift.llm.template").RolloutInferRequest
    extra = {key: value for key, value in data.items() if key not in ("messages", "images")}
    return request_class(messages=data["messages"], images=list(data["images"]), data_dict=extra)


def summary(data: dict[str, Any], messages: Any, infos: dict[str, Any], engine: Engine, scores: Any) -> dict[str, Any]:
    tags = sum(str(message["content"]).count("<image>") for message in messages if message["role"] == "user")
    sizes = [list(Image.open(io.BytesIO(base64.b64decode(image.split(",")[-1]))).size) for image in infos["images"]]
    return {
        "observations": [message["content"] for message in messages if message["role"] == "user"][1:],
        "tags": tags,
        "image_sizes": sizes,
        "image_tokens": engine.image_tokens,
        "infos": {key: infos[key] for key in ("num_zooms", "num_zoom_errors", "zooms", "num_turns")},
        "scores": scores,
        "row_kept": data == row(),
    }


def score(data: dict[str, Any], messages: Any, infos: dict[str, Any], key: str, orms: Any) -> dict[str, float]:
    columns = {name: [data[name]] for name in ("data_source", "env_name", "reward_model", "extra_info")}
    columns |= {"messages": [messages], "images": [infos["images"]], key: [infos], "trainer_state": None}
    made = {name: orms[name](**({"args": None} if NEW else {})) for name in REWARDS}
    return {name: reward([messages[-1]["content"]], **columns)[0] for name, reward in made.items()}


def server_way(orms: Any, multi_turns: Any) -> dict[str, Any]:
    """The scheduler behind `swift rollout`."""
    data, engine = row(), Engine(make_template(MODEL_DIR))
    request = request_of(row())
    scheduler = multi_turns["deepeyes_scheduler"](infer_engine=engine, max_turns=5)
    output = asyncio.run(scheduler.run(request, protocol.RequestConfig()))
    infos = output.rollout_infos
    return summary(data, output.messages, infos, engine, score(data, output.messages, infos, "rollout_infos", orms))


def trainer_way(orms: Any, multi_turns: Any, module: Any) -> dict[str, Any]:
    """The scheduler inside the trainer, without a server."""
    data, template = row(), make_template(MODEL_DIR)
    engine = Engine(template)
    kwargs = {"max_turns": 5, "tokenizer": template.tokenizer, "template": template}
    if not hasattr(module, "RolloutScheduler"):  # ms-swift 3.7 hands over the number of turns and nothing else
        trainer_class = importlib.import_module("swift.trainers.rlhf_trainer.grpo_trainer").GRPOTrainer
        trainer = SimpleNamespace(
            multi_turn_scheduler=multi_turns["deepeyes_scheduler"](max_turns=5),
            vllm_use_async_engine=False,
            _set_inputs_system=lambda _inputs: None,
            _infer=lambda inputs, *_: [engine.reply(one) for one in inputs],
        )
        trainer.inputs_to_rolloutrequest = lambda inputs: trainer_class.inputs_to_rolloutrequest(trainer, inputs)
        outputs = trainer_class._infer_single_or_multi_turn(trainer, [row()], None)  # noqa: SLF001
        messages, _, infos = outputs[0]
        return summary(data, messages, infos, engine, score(data, messages, infos, "multi_turn_infos", orms))
    if NEW:
        scheduler = multi_turns["deepeyes_scheduler"](**kwargs)
        run_multi_turn = importlib.import_module("swift.rollout.agent_loop").run_multi_turn
        requests = [request_of(row())]
        asyncio.run(scheduler.on_trajectory_start(requests))
        output_class = protocol.RolloutOutput
        first = [output_class(response=engine.reply(requests[0]))]
        (output,) = run_multi_turn(
            requests,
            first,
            scheduler,
            lambda pending, _config: [output_class(response=engine.reply(one)) for one in pending],
            protocol.RequestConfig(),
            5,
        )
    else:
        del kwargs["template"]
        mixin = importlib.import_module("swift.trainers.rlhf_trainer.rollout_mixin").RolloutTrainerMixin
        trainer = SimpleNamespace(
            args=SimpleNamespace(max_turns=5, vllm_server_pass_dataset=False),
            multi_turn_scheduler=multi_turns["deepeyes_scheduler"](**kwargs),
            _extract_logprobs_from_choice=lambda _choice: [],
            _rollout=lambda pending, _config: [protocol.RolloutOutput(response=engine.reply(one)) for one in pending],
            _postprocess_rollout_outputs=lambda _inputs, outputs: outputs,
        )
        trainer.inputs2requests = lambda inputs: mixin.inputs2requests(trainer, inputs)
        inputs = [{**row(), "request_id": "one"}]
        first = [protocol.RolloutOutput(response=engine.reply(request_of(row())))]
        (output,) = mixin._colocate_multi_turn_infer(trainer, inputs, first, None)  # noqa: SLF001
    infos = output.rollout_infos
    return summary(data, output.messages, infos, engine, score(data, output.messages, infos, "rollout_infos", orms))


def main() -> None:
    loaded = load_plugin(ROOT)
    name = "swift.rewards.orm" if NEW else "swift.plugin"
    module = importlib.import_module("swift.rollout.multi_turn" if NEW else "swift.plugin.multi_turn")
    orms = importlib.import_module(name).orms
    result = {
        "registered": sorted(name for name in orms if name.startswith("deepeyes")),
        "scheduler": module.multi_turns["deepeyes_scheduler"] is loaded.DeepEyesScheduler,
        # ms-swift 3.7 drives the scheduler from inside its vLLM engine, which can't be imported without vLLM.
        "server": server_way(orms, module.multi_turns) if hasattr(module, "RolloutScheduler") else None,
        "trainer": trainer_way(orms, module.multi_turns, module),
    }
    sys.stdout.write(json.dumps(result) + "\n")


main()
