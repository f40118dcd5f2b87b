"""The endpoint sees what the policy saw in training."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from eval_world import (
    Script,
    Seen,
    always_a,
    answer,
    call,
    evaluate,
    perfect,
    serving,
    write_own,
)
from PIL import Image
from qwen_vl_utils import fetch_image, vision_process

from deepeyes.calls import parse_call
from deepeyes.playing.families import FAMILIES
from deepeyes.playing.pictures import Viewer
from deepeyes.playing.prompts import own_prompt
from deepeyes.settings import Coordinates, Rules, Settings

if TYPE_CHECKING:
    from pathlib import Path


class TestFidelity:
    """The endpoint sees what the policy saw in training."""

    @pytest.mark.parametrize("size", [(640, 480), (3001, 1999), (30, 500), (57, 57), (9, 9)])
    @pytest.mark.parametrize("max_pixels", [602112, 602111, 100000])
    def test_view_is_that_of_swift_under_max_pixels(
        self, size: tuple[int, int], max_pixels: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = Image.effect_noise(size, 90).convert("RGB")
        monkeypatch.setattr(
            vision_process, "IMAGE_MAX_TOKEN_NUM", max_pixels // 28**2
        )  # what swift does with MAX_PIXELS
        template = Viewer(FAMILIES["qwen2.5-vl"], Settings(), max_pixels)
        ours, theirs = template.scale(image), fetch_image({"image": image})
        assert ours.size == theirs.size
        assert ours.tobytes() == theirs.tobytes()
        assert template.scale(ours).tobytes() == ours.tobytes()

    @pytest.mark.parametrize("source", ["view", "original"])
    def test_crop_is_that_part_of_the_view_or_original(self, tmp_path: Path, source: str) -> None:
        image = Image.effect_noise((1200, 900), 90).convert("RGB")
        (tmp_path / "direct_attributes").mkdir()
        image.save(tmp_path / "direct_attributes" / "one.png")
        note = {"question": "Which?", "options": ["this", "that"]}
        (tmp_path / "direct_attributes" / "one.json").write_text(json.dumps(note))
        with serving(Script(lambda seen: call([28, 56, 140, 112]) if seen.turn == 1 else answer("A"))) as script:
            arguments = ("--bench", tmp_path, "--max-pixels", 448 * 336, "--crop-source", source)
            evaluate(tmp_path / "run", script, *arguments)
        view = fetch_image({"image": image, "max_pixels": 448 * 336})
        crop = view.crop((28, 56, 140, 112))
        if source == "original":
            x, y = 1200 / view.width, 900 / view.height
            crop = image.crop((int(28 * x), int(56 * y), -int(-140 * x // 1), -int(-112 * y // 1)))
            crop = fetch_image({"image": crop, "max_pixels": 448 * 336})
        assert [seen.tobytes() for seen in script.seen[-1].images] == [view.tobytes(), crop.tobytes()]

    def test_box_of_qwen3_is_in_thousandths_of_the_view(self, vstar: Path, tmp_path: Path) -> None:
        def thousandths(seen: Seen) -> str:
            x1, y1, x2, y2 = seen.square(seen.images[0])
            width, height = seen.images[0].size
            box = [1000 * x1 // width, 1000 * y1 // height, 1000 * x2 // width, 1000 * y2 // height]
            return call(box) if seen.turn == 1 else answer(seen.right())

        with serving(Script(thousandths, patch=16)) as script:
            arguments = ("--bench", "vstar", "--data", vstar, "--family", "qwen3-vl")
            status, report = evaluate(tmp_path / "run", script, *arguments)
        assert (status, report["all"]["accuracy"], report["coordinates"]) == (0, 1, "norm1000")
        assert script.seen[0].images[0].size == (320, 256)
        assert max(seen.images[-1].width for seen in script.seen if seen.turn == 2) < 100

    def test_observation_repeats_the_instruction_around_the_crop(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 1)
        system, question, _, observation = script.seen[-1].texts
        instruction = own_prompt(Coordinates.PIXEL, tool=True).instruction
        assert question.startswith("[image 1]\nQuestion: What is the color of the square?\nOptions:\nA. ")
        assert question.endswith(instruction)
        assert observation == f"<tool_response>[image 2]{instruction}</tool_response>"
        schema = json.loads(re.search(r"<tools>\n(.*)\n</tools>", system)[1])  # type: ignore[index]
        assert schema["function"]["parameters"]["required"] == ["bbox_2d"]
        example = re.search(r"<tool_call>\n(.*)\n</tool_call>", system)[1]  # type: ignore[index]
        assert parse_call(example, Rules.OFFICIAL).label is not None

    def test_prompt_can_be_that_of_the_training_rows(self, vstar: Path, tmp_path: Path) -> None:
        rows = write_own(tmp_path / "own.parquet")
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 1, "--prompt-from", rows)
        assert script.seen[0].texts[0] == "own system turn"
        assert (
            script.seen[-1].texts[-1]
            == "<tool_response>[image 2]\nAnswer in <answer></answer>, my way.</tool_response>"
        )

    @pytest.mark.parametrize(
        ("arguments", "notes"),
        [
            ((), ["the prompt is the evaluation's own, not what training showed; --prompt-from PARQUET takes that of"]),
            (("--prompt-from", "own"), []),
            (("--no-tool",), ["without the tool the prompt is the evaluation's own"]),
            (("--no-tool", "--prompt-from", "own"), ["without the tool the prompt is the evaluation's own; --prompt-"]),
            (("--bench", "own"), []),
            (("--bench", "own", "--no-tool"), ["without the tool the prompt is the evaluation's own"]),
            (
                ("--bench", "own", "--prompt-from", "own"),
                ["the rows bring their own prompt; --prompt-from is not used"],
            ),
        ],
    )
    def test_prompt_that_is_not_of_the_training_rows_is_noted(
        self, vstar: Path, tmp_path: Path, arguments: tuple[str, ...], notes: list[str]
    ) -> None:
        rows = write_own(tmp_path / "own.parquet")
        words = [rows if word == "own" else word for word in ("--bench", "vstar", "--data", vstar, *arguments)]
        with serving(Script(perfect if "own" not in arguments[:2] else always_a)) as script:
            _, report = evaluate(tmp_path / "run", script, *words, "--limit", 1)
        told = [note for note in report["notes"] if "prompt" in note]
        assert [text.startswith(note) for text, note in zip(told, notes, strict=True)] == [True] * len(notes)

    def test_server_that_scales_views_again_is_refused(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--bench", "vstar", "--data", vstar)
        with serving(Script(perfect, patch=16)) as script:
            status, report = evaluate(tmp_path / "run", script, *arguments)
            assert (status, report, script.seen) == (1, {}, [])
            assert "makes 82 tokens of a view of 308 x 252 pixels, where 99 to 107" in capsys.readouterr().err
            script.check = lambda _: pytest.fail("it was asked")
            assert evaluate(tmp_path / "run", script, *arguments, "--skip-view-check")[0] == 0

    def test_server_that_scales_small_crops_up_is_noted(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect, least=64)) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 1)
        assert "makes 66 tokens of a crop of 4" in report["notes"][1]
