"""What the scripts that run under any version of ms-swift share: its modules, wherever that version keeps them."""

from __future__ import annotations

import base64
import importlib
import io
import sys
from typing import Any

from PIL import Image

try:
    protocol = importlib.import_module("swift.infer_engine.protocol")
    NEW = True  # ms-swift 4
except ImportError:
    protocol = importlib.import_module("swift.llm.infer.protocol")
    NEW = False


def load_plugin(root: str) -> Any:
    """Loads the plugin as `--external_plugins` does."""
    utils = importlib.import_module("swift.utils")
    if hasattr(utils, "import_external_file"):
        return utils.import_external_file(f"{root}/deepeyes_plugin.py")
    sys.path.insert(0, root)
    return importlib.import_module("deepeyes_plugin")


def make_template(model: str) -> Any:
    """The template of Qwen2.5-VL for the checkpoint in a folder."""
    if NEW:
        get_processor = importlib.import_module("swift.model").get_processor
        get_template = importlib.import_module("swift.template").get_template
        return get_template(get_processor(model, model_type="qwen2_5_vl"), template_type="qwen2_5_vl")
    llm = importlib.import_module("swift.llm")
    _, processor = llm.get_model_tokenizer(model, model_type="qwen2_5_vl", load_model=False)
    return llm.get_template("qwen2_5_vl", processor)


def picture(width: int, height: int) -> str:
    """A picture as base64 of a PNG."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
