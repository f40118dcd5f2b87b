"""One row, loaded with swift and encoded with the model's template."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.dataset.official import REQUIRED_COLUMNS
from deepeyes.doctor.data import registered_files
from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import Command
from deepeyes.launch import module_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepeyes.doctor.plan import Plan

ROW_TIMEOUT = 240.0  # seconds to import swift and load one row; ten on an idle machine


def check_row(plan: Plan) -> list[Finding]:
    """Loads one row with swift and encodes it with the template of the model, in a process of its own."""
    names = plan.train.options.get("dataset", ())
    registered = registered_files(plan.train.get("custom_dataset_info"))
    path = registered.get(names[0], names[0]).partition("#")[0] if names else ""
    if not Path(path).is_file():
        return []  # `check_data` has said it
    order = {"dataset": path, "options": {name: list(values) for name, values in plan.train.options.items()}}
    environment = {**os.environ, **plan.train.environment, "CUDA_VISIBLE_DEVICES": ""}
    program = module_command("deepeyes.doctor", "--row", json.dumps(order))
    try:
        done = subprocess.run(  # noqa: S603 - this very file
            program, capture_output=True, text=True, timeout=ROW_TIMEOUT, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"swift did not load a row of {path} in {ROW_TIMEOUT:.0f} s; is {plan.train.get('model')} on its way?"
        return [Finding("one row", Level.WARNING, text, "bash deepeyes.sh doctor  # once more, later")]
    try:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [
            Finding("one row", Level.ERROR, f"swift can't load a row of {path} for {plan.train.get('model')}: {last}")
        ]
    room = plan.rollout.number("vllm_max_model_len", 0)
    text = f"{facts['tokens']} tokens, {facts['image_tokens']} of them image; columns {', '.join(facts['columns'])}"
    if room and facts["tokens"] >= room:
        return [
            Finding("one row", Level.ERROR, f"{text}; expected fewer than MAX_MODEL_LEN={room}", "MAX_PIXELS=602112")
        ]
    if missing := [name for name in REQUIRED_COLUMNS if name not in facts["columns"]]:
        return [Finding("one row", Level.ERROR, f"swift drops {', '.join(missing)}", "--remove_unused_columns false")]
    return [Finding("one row", Level.OK, text)]


def load_row(order: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the first row of a file as training does, and counts its tokens. Runs in a process of its own."""
    from swift import get_processor, get_template  # noqa: PLC0415 - takes ten seconds or more
    from swift.dataset import load_dataset  # noqa: PLC0415 - likewise

    command = Command(options={name: tuple(values) for name, values in order["options"].items()})
    rows, _ = load_dataset(
        [order["dataset"]],
        columns=json.loads(command.get("columns", "{}")),
        streaming=True,  # the first row alone; a whole file is converted first otherwise
        remove_unused_columns=command.get("remove_unused_columns") == "true",
        strict=True,
    )
    row = next(iter(rows))
    processor = get_processor(command.get("model"), model_type=command.get("model_type") or None, download_model=False)
    template = get_template(
        processor,
        template_type=command.get("template") or None,
        max_pixels=command.number("max_pixels", 0) or None,
    )
    tokens = template.encode({"messages": row["messages"], "images": row["images"]})["input_ids"]
    image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return {
        "tokens": len(tokens),
        "image_tokens": sum(int(token) == image_token for token in tokens),
        "columns": sorted(name for name, value in row.items() if value is not None),
    }
