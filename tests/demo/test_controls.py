"""GRPO of the demo with one thing broken must not learn: grey crops, a turned reward, or no loss on calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from servers import ROOT

from deepeyes import tiny_model
from deepeyes.demo import progress, stages, verdict
from demo.test_learns import LEVEL, Run, run_short_form

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(3600)]

GREY = """
import io
from PIL import Image
from deepeyes.images.encoding import image_bytes, to_data_uri
from swift.rollout import multi_turns

class GreyCrops(multi_turns["deepeyes_scheduler"]):
    def step(self, request, *words):
        result = super().step(request, *words)
        for at in range(1, len(request.images)):
            with Image.open(io.BytesIO(image_bytes(request.images[at]))) as crop:
                request.images[at] = to_data_uri(Image.new("RGB", crop.size, (128, 128, 128)))
        return result

multi_turns["deepeyes_scheduler"] = GreyCrops
"""
NO_LOSS_ON_CALLS = """
from swift.rollout import multi_turns

class Masked(multi_turns["deepeyes_scheduler"]):
    def get_response_token_data(self, request, choice, *words, **options):
        ids, mask = super().get_response_token_data(request, choice, *words, **options)
        calls = "<tool_call>" in choice.message.content
        return ids, [0] * (len(mask) - 1) + mask[-1:] if calls else mask  # swift wants some loss in a trajectory

multi_turns["deepeyes_scheduler"] = Masked
"""
MEASURE = """
import json, sys
from pathlib import Path
from deepeyes.demo import measure
count, seed = map(int, sys.argv[3:])
measure.measure(Path(sys.argv[1]), count, seed, list(measure.MODES), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module", params=(1, 2), ids=lambda seed: f"seed {seed}")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_short_form(tmp_path_factory.mktemp("demo"), request.param)


def broken(run: Run, folder: Path, *, plugin: str = "", weight: str = "1") -> tuple[dict[str, Any], list[str]]:
    """Train with the run's own command but for one thing; give what the policy does then, and what it lacks."""
    env = stages.child_environment(os.environ, OMP_NUM_THREADS="1")
    words = [word.replace(".unfinished", "") for word in json.loads((run.folder / "command.json").read_text())]
    words[words.index("--output_dir") + 1] = str(folder)
    words[words.index("--reward_weights") + 1] = weight
    if plugin:
        (folder / "broken.py").write_text(plugin, encoding="utf-8")
        words.insert(words.index("--external_plugins") + 2, str(folder / "broken.py"))
    (measured := folder / "measured").mkdir()

    def do(*command: str) -> None:
        argv = [sys.executable, *command]
        done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    do("-m", "swift.cli.rlhf", *words[2:])
    tiny_model.add_generate(checkpoint := progress.best_checkpoint(folder))
    do("-c", MEASURE, str(checkpoint), str(measured), str(run.report["plan"]["held_out"]), str(run.seed))
    after = {line["mode"]: line for line in progress.read_lines(measured)}
    lacks = verdict.lacks(run.report["before"], after, run.report["best_guess"], progress.read_steps(folder, "eval_"))
    sys.stdout.write("\n".join([after["TRUE_CROP"]["text"], *lacks]) + "\n")  # `-rP` shows it
    return after["TRUE_CROP"], lacks


PLACE = "the share of zooms to the right place did not rise"


class TestControls:
    """Each lacks more than the level that the short form may lack."""

    def test_run_itself_learns(self, run: Run) -> None:
        assert all(LEVEL.fullmatch(lack) for lack in run.report["lacks"])

    def test_grey_crops_do_not_teach_where_to_zoom(self, run: Run, tmp_path: Path) -> None:
        _, lacks = broken(run, tmp_path, plugin=GREY)
        assert any(lack.startswith(PLACE) for lack in lacks)

    def test_turned_reward_unlearns(self, run: Run, tmp_path: Path) -> None:
        after, lacks = broken(run, tmp_path, weight="-1")
        assert any(lack.startswith("accuracy did not rise") for lack in lacks)
        assert after["accuracy"] <= run.report["before"]["accuracy"]

    def test_without_loss_on_calls_where_to_zoom_is_not_learned(self, run: Run, tmp_path: Path) -> None:
        _, lacks = broken(run, tmp_path, plugin=NO_LOSS_ON_CALLS)
        assert any(lack.startswith(PLACE) for lack in lacks)
