"""Two protocols: what the authors' evaluation shows a model, and what training did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from eval_world import Script, Seen, always_a, answer, call, evaluate, perfect, serving
from PIL import Image

from deepeyes.evaluation import cli
from deepeyes.evaluation.protocol import paper
from deepeyes.playing.families import FAMILIES

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 7168  # pixels: twice the side of the largest view, so that stripes a pixel wide are averaged away
CARD = (3000, 3000, 3200, 3200)


def write_stripes(folder: Path) -> Path:
    """A large grey picture; a card on it has stripes of one pixel."""
    (folder / "direct_attributes").mkdir(parents=True)
    image = Image.new("L", (SIDE, SIDE), 128)
    stripes = np.zeros((200, 200), np.uint8)
    stripes[::2] = 255
    image.paste(Image.fromarray(stripes), CARD[:2])
    image.save(folder / "direct_attributes" / "one.png", compress_level=1)
    note = {"question": "Which way do the stripes run?", "options": ["horizontal", "vertical"]}
    (folder / "direct_attributes" / "one.json").write_text(json.dumps(note))
    return folder


def reads_stripes(seen: Seen) -> str:
    """Zooms to the card, and says which way its stripes run; where there are none to be seen it says A."""
    if seen.turn == 1 and "image_zoom_in_tool" in seen.texts[0]:
        return call([place // 2 for place in CARD])
    pixels = np.asarray(seen.images[-1].convert("L")).astype(int)
    if len(seen.images) == 1:
        pixels = pixels[1510:1590, 1510:1590]
    along, across = (np.abs(np.diff(pixels, axis=axis)).mean() for axis in (1, 0))
    if max(along, across) < 5:
        return answer("A")
    return answer(seen.letter("horizontal" if across > along else "vertical"))


class TestPaper:
    def test_stripes_that_only_the_original_shows_are_read_with_the_tool_and_not_without(self, tmp_path: Path) -> None:
        bench = write_stripes(tmp_path / "stripes")
        arguments = ("--bench", "vstar", "--data", bench, "--options", "cycle", "--skip-view-check")
        with serving(Script(reads_stripes)) as script:
            report = evaluate(tmp_path / "zoom", script, *arguments)[1]
            plain = evaluate(tmp_path / "plain", script, *arguments, "--no-tool")[1]
        assert (report["all"]["accuracy"], report["all"]["answers"], report["all"]["zooms"]) == (1, 2, 2)
        assert (plain["all"]["accuracy"], plain["all"]["answers"]) == (0.5, 2)
        assert script.seen[0].images[0].size == (3584, 3584)
        assert report["all"]["shrunk"] == 2

    def test_limits_are_those_of_the_authors(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(lambda _: call([10, 10, 100, 100]))) as script:
            report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 1)[1]
        assert max(seen.turn for seen in script.seen) == 11
        assert {(seen.body["max_tokens"], seen.body["temperature"]) for seen in script.seen} == {(10240, 0.0)}
        names = ("protocol", "max_pixels", "crop_source", "differs")
        assert [report[name] for name in names] == ["paper", 16384 * 28 * 28, "original", []]
        assert paper(FAMILIES["qwen3-vl"]).max_pixels == 16384 * 32 * 32

    def test_what_a_flag_changes_is_told_and_kept(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = (
            "--bench",
            "vstar",
            "--data",
            vstar,
            "--max-turns",
            3,
            "--crop-source",
            "view",
            "--max-tokens",
            10240,
        )
        with serving(Script(perfect)) as script:
            report = evaluate(tmp_path / "run", script, *arguments)[1]
        assert report["differs"] == ["max_turns is 3, not 11", "crop_source is view, not original"]
        assert "unlike the protocol paper: max_turns is 3, not 11; crop_source is view" in capsys.readouterr().out


class TestTraining:
    def test_limits_are_those_of_training_and_its_environment(
        self, vstar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MAX_TURNS", "3")
        arguments = ("--bench", "vstar", "--data", vstar, "--limit", 1, "--protocol", "training")
        with serving(Script(lambda _: call([10, 10, 100, 100]))) as script:
            report = evaluate(tmp_path / "run", script, *arguments)[1]
        assert max(seen.turn for seen in script.seen) == 3
        assert [report[name] for name in ("max_tokens", "max_pixels", "crop_source")] == [2048, 602112, "view"]
        assert script.seen[0].question.rpartition("\n")[0].endswith("Answer with the letter of the right option.")

    def test_setting_that_is_not_allowed_is_wrong_usage(
        self, vstar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DEEPEYES_RULES", "strict")
        words = ["--bench", "vstar", "--data", str(vstar), "--url", "http://127.0.0.1:9/v1", "--model", "m"]
        assert cli.main(words) == 2
        assert "DEEPEYES_RULES='strict'" in capsys.readouterr().err


class TestUrl:
    def test_url_without_its_scheme_is_wrong_usage(self, vstar: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["--bench", "vstar", "--data", str(vstar), "--url", "127.0.0.1:8000/v1"])
        assert "expected a base URL, as http://127.0.0.1:8000/v1" in capsys.readouterr().err


class TestDryRun:
    def test_one_prompt_and_one_view_are_shown_and_nobody_is_asked(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words: list[Any] = ["--bench", "vstar", "--data", vstar, "--dry-run", "--out", tmp_path / "dry"]
        assert cli.main([str(word) for word in words]) == 0
        told = capsys.readouterr().out
        assert "image_zoom_in_tool" in told
        assert "[the view: 308 x 252 pixels, 99 tokens, of a picture of 320 x 240" in told
        assert Image.open(tmp_path / "dry" / "dry-run-view.webp").size == (308, 252)

    def test_fixed_order_is_warned_of_where_one_letter_is_always_right(self, vstar: Path, tmp_path: Path) -> None:
        arguments = ("--bench", "vstar", "--data", vstar)
        with serving(Script(always_a)) as script:
            kept = evaluate(tmp_path / "keep", script, *arguments, "--options", "keep")[1]
            shuffled = evaluate(tmp_path / "shuffle", script, *arguments)[1]
        assert any("the right answer is A everywhere" in note for note in kept["notes"])
        assert not any("everywhere" in note for note in shuffled["notes"])
