"""Questions under way are bounded by what their pictures take in memory, not by their number alone."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from eval_world import Script, Seen, answer, evaluate, serving

from deepeyes.evaluation import running
from deepeyes.playing.families import FAMILIES
from deepeyes.playing.pictures import Viewer
from deepeyes.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def picture_bytes(vstar: Path) -> int:
    """What one question over a picture of the small V*Bench is taken to weigh."""
    viewer = Viewer(FAMILIES["qwen2.5-vl"], Settings(), 1 << 20)
    return max(viewer.weight(path.read_bytes()) for path in vstar.rglob("*.png"))


@pytest.mark.parametrize("room", [1, 2, 6])
def test_no_more_are_let_in_than_there_is_room_for(
    vstar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def slowly(_seen: Seen) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.3)
        with lock:
            under_way -= 1
        return answer("A")

    monkeypatch.setattr(running, "IN_FLIGHT_BYTES", room * picture_bytes(vstar))
    with serving(Script(slowly)) as script:
        arguments = ("--bench", "vstar", "--data", vstar, "--no-tool", "--skip-view-check", "--concurrency", 16)
        assert evaluate(tmp_path / "run", script, *arguments)[1]["all"]["answers"] == 6
    assert most <= room
    assert most > 1 or room == 1


def test_one_that_is_larger_than_all_the_room_is_let_in_alone(
    vstar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "IN_FLIGHT_BYTES", 1)
    with serving(Script(lambda _: answer("A"))) as script:
        assert evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)[1]["all"]["answers"] == 6
