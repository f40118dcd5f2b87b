"""What every test shares: no GPU, no network, and the tiny checkpoint."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Read when torch, transformers and swift are first imported, by a test file or by a program that a test starts.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"

# A run in the background is deaf to SIGINT, and so is all that it starts; but some tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a random Qwen2.5-VL checkpoint with the real tokenizer, once a run."""
    import tiny_model  # noqa: PLC0415 - torch is not for tests that need no model

    return tiny_model.build(tmp_path_factory.mktemp("tiny_model"))
