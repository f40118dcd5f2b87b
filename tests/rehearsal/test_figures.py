"""From what processes write down to the table, and from a log to what mends it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from deepeyes.rehearsal.advice import advise
from deepeyes.rehearsal.measured import METHODS, PHASES, figures_of, read_measurements
from deepeyes.rehearsal.rows import REFERENCE, make_picture, write_rows


def measured(what: str, value: float, step: int, rank: int = 0) -> dict[str, float]:
    return {"what": what, "value": value, "step": step, "rank": rank}  # type: ignore[dict-item]


class TestFigures:
    def test_the_slowest_rank_counts_and_the_first_step_stands_apart(self) -> None:
        lines = []
        for step, scale in ((0, 10), (1, 1), (2, 3)):
            lines += [measured("rollout", 6 * scale, step), measured("sync", 2 * scale, step)]
            lines += [measured("reward", 1 * scale, step, rank) for rank in range(2)]
            lines += [measured("step", 5 * scale, step, 1)] + [measured("step", 5 * scale, step)] * 2
        figures = figures_of([*lines, measured("tokens", 900, 0), measured("tokens", 700, 1), measured("save", 4, 2)])
        assert figures.first == {"rollout": 40, "reward": 10, "training": 30, "sync": 20, "step": 100}
        assert figures.seconds == {"rollout": 8, "reward": 2, "training": 6, "sync": 4, "step": 20}
        assert (figures.steps, figures.tokens, figures.save) == (3, 900, 4)

    @pytest.mark.parametrize("trainer", METHODS)
    def test_every_method_that_is_timed_is_one_of_swifts(self, trainer: str) -> None:
        """By the text of its sources: those of Megatron can't be imported here."""
        swift = Path(str(importlib.util.find_spec("swift").origin)).parent
        files = [file for name in ("trainers", trainer.split(".")[1]) for file in (swift / name).rglob("*.py")]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        assert re.search(rf"^class {trainer.rpartition('.')[2]}\b", text, re.MULTILINE)
        methods = set(re.findall(r"^    def (\w+)\(self", text, re.MULTILINE))
        assert set(METHODS[trainer]) <= methods
        assert set(METHODS[trainer].values()) == {*PHASES, "save"}

    def test_nothing_at_all_is_no_figure(self, tmp_path: Path) -> None:
        figures = figures_of(read_measurements(tmp_path))
        assert (figures.steps, figures.seconds, figures.tokens) == (0, {}, 0)

    def test_files_of_all_processes_are_read(self, tmp_path: Path) -> None:
        for process in (7, 8):
            (tmp_path / f"measured-{process}.jsonl").write_text(json.dumps(measured("tokens", process, 0)) + "\n")
        assert figures_of(read_measurements(tmp_path)).tokens == 8


class TestAdvice:
    @pytest.mark.parametrize(
        ("program", "log", "setting"),
        [
            ("training", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "MAX_TURNS"),
            ("resumed", "torch.OutOfMemoryError: CUDA out of memory.", "TUNER=lora"),
            ("training", "JudgeError: no judge answered for 60 s", "--judge rule"),
            ("training", "ValueError: No available memory for the cache blocks.", "--vllm_gpu_memory_utilization"),
            ("rollout", "ValueError: No available memory for the cache blocks.", "ROLLOUT_TENSOR_PARALLEL"),
            ("rollout", "the KV cache needed (4 GiB) is larger than the available (2 GiB)", "MAX_COMPLETION_LENGTH"),
            ("rollout", "CUDA out of memory", "ROLLOUT_TENSOR_PARALLEL"),
            ("training", "OSError: [Errno 28] No space left on device", "TMPDIR"),
        ],
    )
    def test_it_names_the_setting(self, program: str, log: str, setting: str) -> None:
        advice = advise(program, f"Traceback\n{log}\n")
        assert advice is not None
        assert setting in advice.mend

    def test_what_is_not_known_has_none(self) -> None:
        assert advise("training", "KeyError: 'x'") is None


class TestRows:
    @pytest.mark.parametrize("max_pixels", [50_176, 602_112])
    def test_a_picture_is_larger_than_its_view(self, max_pixels: int) -> None:
        width, height = make_picture(max_pixels, seed=0).size
        assert width * height >= 3 * max_pixels

    def test_each_row_has_a_picture_of_its_own(self, tmp_path: Path) -> None:
        rows = [json.loads(line) for line in write_rows(tmp_path, 3, 50_176, words=5).read_text().splitlines()]
        assert len({Image.open(row["images"][0]).tobytes() for row in rows}) == 3
        assert {row["reward_model"]["ground_truth"] for row in rows} == {REFERENCE}
