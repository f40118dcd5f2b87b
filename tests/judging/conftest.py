"""Fixtures of the judge's tests."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest
from asking import settings
from judge_server import JudgeServer

from deepeyes.judging.client import JudgeClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as one:
        yield one


@pytest.fixture
def other() -> Iterator[JudgeServer]:
    with JudgeServer() as one:
        yield one


@pytest.fixture
def connect() -> Iterator[Callable[..., JudgeClient]]:
    """Makes clients, and closes them in the end."""
    with contextlib.ExitStack() as stack:

        def make(*servers: JudgeServer, **changes: Any) -> JudgeClient:
            return stack.enter_context(contextlib.closing(JudgeClient(settings(*servers, **changes))))

        yield make


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What swift's logger, which does not propagate, is given."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("swift")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)  # as swift sets it
    yield lines
    logger.setLevel(level)
    logger.removeHandler(handler)
