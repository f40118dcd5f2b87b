"""What every test shares: no GPU, no network, and the tiny checkpoint."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from deepeyes.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Read when torch, transformers and swift are first imported, by a test file or by a program that a test starts.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"

# Two files run at a time, and trainings of both would meet on torch's default port.
with socket.create_server(("127.0.0.1", 0)) as _probe:
    os.environ["MASTER_PORT"] = str(_probe.getsockname()[1])

LONGEST_FIRST = (
    "test_learns",
    "test_rollout_real",
    "test_client_real",
    "test_contract",
    "test_token_exact",
    "test_client",
)
"""Files that start first, so that at the end both processes have something to do."""

# A run in the background is deaf to SIGINT, and so is all that it starts; but some tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files, not the tests in them."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the plugin's own logger says, which hands nothing on to pytest's."""
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.propagate = propagate


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a random Qwen2.5-VL checkpoint with the real tokenizer, once a run."""
    from deepeyes import tiny_model  # noqa: PLC0415 - torch is not for tests that need no model

    return tiny_model.build(tmp_path_factory.mktemp("tiny_model"))
