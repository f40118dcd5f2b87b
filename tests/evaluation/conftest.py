"""What the tests of the evaluation share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from eval_world import write_vstar

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests are not those of the tests; the judge is the rule."""
    for name in ("MAX_PIXELS", "MAX_TURNS", "DEEPEYES_JUDGE_PATIENCE", "DEEPEYES_JUDGE_URLS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEEPEYES_JUDGE", "rule")


@pytest.fixture(scope="module")
def vstar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vstar(tmp_path_factory.mktemp("bench") / "vstar")
