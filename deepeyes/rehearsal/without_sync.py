"""`swift rlhf` on a CPU next to a rollout server: weights go over NCCL, which a CPU lacks, so none are sent.

It is for rehearsals alone: a policy that trains without the server hearing of it is off-policy.
"""

import sys

from swift.pipelines import rlhf_main
from swift.rlhf_trainers import VLLMClient

SYNC = (
    "init_communicator",
    "close_communicator",
    "update_named_param",
    "update_flattened_params",
    "update_adapter_param",
    "update_adapter_flattened_param",
    "process_weights_after_loading",
)


def send_nothing(*_: object, **__: object) -> None:
    """Stands for a transfer."""


if __name__ == "__main__":
    for name in SYNC:
        setattr(VLLMClient, name, send_nothing)
    rlhf_main(sys.argv[2:])  # after the word `rlhf`, which swift's own command line takes too
