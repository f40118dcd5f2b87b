"""Fixtures of the scripts' tests."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sandbox import Sandbox, make_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Give a checkout without .venv, where the only swift is a stub."""
    return make_sandbox(tmp_path)


@pytest.fixture
def rollout_port() -> Iterator[str]:
    """Give a port at which something listens, as the rollout server would."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield str(server.getsockname()[1])
