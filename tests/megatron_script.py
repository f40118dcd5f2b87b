"""Parses the arguments of `megatron rlhf` with swift's own class, and prints what it understood as JSON.

mcore_bridge, which builds the model, imports Transformer Engine, which is there for CUDA only. Swift's argument classes
take two look-ups from it and no more, so it is left out.
"""

import importlib.machinery
import json
import sys
from unittest.mock import MagicMock

for name in ("mcore_bridge", "mcore_bridge.model", "mcore_bridge.utils"):
    module = MagicMock()
    module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None, is_package=True), []
    sys.modules[name] = module

from swift.megatron.arguments import MegatronRLHFArguments  # noqa: E402 - after what stands in for mcore_bridge
from swift.utils import parse_args  # noqa: E402 - likewise

args, rest = parse_args(MegatronRLHFArguments, [*sys.argv[1:], "--skip_megatron_init", "true"])
names = [
    *("loss_scale", "multi_turn_scheduler", "max_turns", "reward_weights", "columns", "beta", "lr", "lr_decay_style"),
    *("vllm_server_pass_dataset", "freeze_vit", "tensor_model_parallel_size", "sequence_parallel"),
    *("global_batch_size", "generation_batch_size", "micro_batch_size", "num_generations"),
]
sys.stdout.write(json.dumps({"rest": rest} | {name: getattr(args, name) for name in names}) + "\n")
