"""For `--external_plugins` of a test: swift's own engine plays, and then each sampled turn becomes one of a script.

`SCRIPT` holds it as JSON: the model's end of a turn, and the turns of each trajectory of a group, in the order of the
batch.
"""

from __future__ import annotations

import json
import os
from typing import Any

from swift.infer_engine import TransformersEngine

END, GROUP = json.loads(os.environ["SCRIPT"])
_infer = TransformersEngine.infer


def infer(engine: Any, infer_requests: Any, *args: Any, **kwargs: Any) -> Any:
    """Has the engine infer, and replaces what it sampled."""
    replies = _infer(engine, infer_requests, *args, **kwargs)
    tokenizer = engine.template.tokenizer
    for place, (request, reply) in enumerate(zip(infer_requests, replies, strict=True)):
        turns, choice = GROUP[place % len(GROUP)], reply.choices[0]
        choice.message.content = turns[sum(message["role"] == "assistant" for message in request.messages)]
        choice.token_ids = tokenizer.encode(choice.message.content, add_special_tokens=False)
        choice.token_ids.append(tokenizer.convert_tokens_to_ids(END))
        choice.finish_reason, choice.logprobs = "stop", None
    return replies


TransformersEngine.infer = infer
