"""What `report` reads."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from eval_world import (
    Script,
    always_a,
    evaluate,
    hrbench_rows,
    perfect,
    serving,
    write_tsv,
)
from PIL import Image

from deepeyes.answers import Trajectory, read_answer
from deepeyes.evaluation import session
from deepeyes.report import traces as report_traces
from deepeyes.scoring import Scored, score
from deepeyes.settings import Rules, Scoring
from deepeyes.traces import Tracer
from deepeyes.verdicts import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class TestTraces:
    """What `report` reads."""

    def test_trace_has_every_field_of_the_plugins_own(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--protocol", "training")
        lines = [json.loads(line) for line in (tmp_path / "run" / "trajectories-0.jsonl").read_text().splitlines()]
        assert len(lines) == 6 == len({record["group"] for record in report_traces.read_traces(tmp_path / "run")})
        trajectory = Trajectory(Scoring.VISUAL, "q", "r", ("<answer>r</answer>",))
        reading = read_answer(trajectory, Rules.CORRECTED)
        verdict = Verdict(correct=True, source="equal")
        scored = Scored(trajectory, reading, verdict, score(trajectory, reading, verdict))
        tracer = Tracer(tmp_path / "trace", "0")
        tracer.record([scored], {"data_source": ["vstar"]})
        tracer._thread.shutdown()  # noqa: SLF001 - waits until it is written
        own = json.loads((tmp_path / "trace" / "trajectories-0.jsonl").read_text())
        for line in lines:
            assert own.keys() <= line.keys()
            assert line["num_zooms"] == 1 == line["score"]["tool"]
            view, crop = (Image.open(tmp_path / "run" / "images" / name) for name in line["images"])
            assert list(view.size) == line["view_size"]
            x1, y1, x2, y2 = line["zooms"][0]["box"]
            exact = view.convert("RGB").crop((x1, y1, x2, y2))
            assert exact.tobytes() == crop.convert("RGB").tobytes()

    def test_page_misses_no_generation_and_the_hint_shows_all(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session, "MAX_TRAJECTORIES", 30)
        write_tsv(tmp_path / "hr_bench_4k.tsv", hrbench_rows())
        with serving(Script(always_a)) as script:
            for samples, limit in ((1, ""), (2, " --limit 40")):
                out = tmp_path / f"run{samples}"
                arguments = ("--bench", "hrbench4k", "--data", tmp_path, "--samples", samples)
                evaluate(out, script, *arguments)
                records = report_traces.read_traces(out)
                sizes = Counter(record["group"] for record in records)
                assert [record["group_size"] for record in records] == [sizes[record["group"]] for record in records]
                assert set(sizes.values()) == {samples}
                assert capsys.readouterr().err.endswith(f"bash deepeyes.sh report {out}{limit}\n")
