"""Many requests at once, one call in five of the model failing; see `soak`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).with_name("soak.py")


def soak(seconds: float, at_once: int) -> dict[str, Any]:
    words = [sys.executable, str(SOAK), str(seconds), str(at_once)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class TestSoak:
    @pytest.mark.parametrize(
        ("seconds", "at_once"), [(4, 40), pytest.param(60, 200, marks=[pytest.mark.lengthy, pytest.mark.timeout(600)])]
    )
    def test_no_request_is_lost_or_mixed_up_and_memory_is_flat(self, seconds: float, at_once: int) -> None:
        found = soak(seconds, at_once)
        counts, memory = found["counts"], found["memory"]
        sent = counts.pop("sent")
        assert not [kind for kind in counts if kind.startswith(("LOST", "MIXED", "no error"))], counts
        assert sum(counts.values()) == sent
        assert sent >= at_once
        assert counts["right"] > 0.5 * sent
        assert set(counts) <= {"right", "status 502", "status 429", "error in the stream"}
        assert found["under_way_at_the_end"] == 0
        if seconds > 30:
            assert max(memory[len(memory) // 2 :]) < 1.1 * max(memory[: len(memory) // 2]), memory
