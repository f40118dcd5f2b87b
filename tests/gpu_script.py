"""Parses the arguments of `swift rlhf` or `megatron rlhf` with swift's own class, as on GPUs, and prints them as JSON.

What this machine lacks is left out: the rollout server; mcore_bridge, which builds the model and imports Transformer
Engine, made for CUDA only, and of which swift's argument classes take two look-ups; the collectives of DeepSpeed, which
it compiles first.
"""

import importlib.machinery
import json
import sys
from unittest.mock import MagicMock

for name in ("mcore_bridge", "mcore_bridge.model", "mcore_bridge.utils"):
    module = MagicMock()
    module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None, is_package=True), []
    sys.modules[name] = module

import deepspeed.comm  # noqa: E402 - after what stands in for mcore_bridge
import swift.rlhf_trainers  # noqa: E402
import torch.distributed  # noqa: E402
import transformers.training_args  # noqa: E402
from swift.arguments import RLHFArguments  # noqa: E402
from swift.megatron.arguments import MegatronRLHFArguments  # noqa: E402
from swift.utils import parse_args  # noqa: E402

swift.rlhf_trainers.VLLMClient = MagicMock()
transformers.training_args.is_torch_bf16_gpu_available = lambda: True
deepspeed.comm.init_distributed = lambda **_: torch.distributed.init_process_group("gloo")

program, words = sys.argv[1], sys.argv[2:]
kind = MegatronRLHFArguments if program == "megatron" else RLHFArguments
args, rest = parse_args(kind, [*words, "--skip_megatron_init", "true"] if program == "megatron" else words)
names = [
    *("loss_scale", "multi_turn_scheduler", "max_turns", "reward_weights", "columns", "beta", "lr", "lr_decay_style"),
    *("vllm_server_pass_dataset", "freeze_vit", "tensor_model_parallel_size", "sequence_parallel", "deepspeed"),
    *("global_batch_size", "generation_batch_size", "micro_batch_size", "num_generations", "finetune", "mcore_model"),
]
sys.stdout.write(json.dumps({"rest": rest} | {name: getattr(args, name, None) for name in names}) + "\n")
