"""Settings of a test's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepeyes.settings import Settings


from deepeyes.environment import read_settings


@pytest.fixture
def load_core(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Reads settings of the test's own, and leaves no others in the environment."""

    def load(**environment: str) -> Settings:
        for name in [name for name in os.environ if name.startswith("DEEPEYES_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return read_settings(os.environ)

    return load
