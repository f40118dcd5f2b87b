"""Settings: what is read, and how a bad value is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from swift_env import ROOT

from deepeyes.environment import read_settings
from deepeyes.errors import DataError, SettingsError
from deepeyes.settings import Coordinates, CropSource, JudgeKind, Rules, Scoring, Settings

if TYPE_CHECKING:
    from pathlib import Path


class TestReadSettings:
    def test_empty_environment_gives_the_defaults(self) -> None:
        settings = read_settings({"DEEPEYES_RULES": "", "PATH": "/bin"})
        assert settings == Settings()
        assert settings.judge.urls == ("http://127.0.0.1:18901/v1",)

    def test_every_variable_is_read(self, tmp_path: Path) -> None:
        prompt = tmp_path / "prompt.txt"
        prompt.write_text("{question} {reference} {answer}")
        settings = read_settings(
            {
                "DEEPEYES_JUDGE": "rule",
                "DEEPEYES_JUDGE_URLS": "http://a:1, https://b/api/v1/ ,http://a:1/v1",
                "DEEPEYES_JUDGE_MODEL": "judge",
                "DEEPEYES_JUDGE_API_KEY": "secret",
                "DEEPEYES_JUDGE_CONCURRENCY": "3",
                "DEEPEYES_JUDGE_TIMEOUT": "1.5",
                "DEEPEYES_JUDGE_PATIENCE": "9",
                "DEEPEYES_JUDGE_PROMPT_VISUAL": str(prompt),
                "DEEPEYES_RULES": "official",
                "DEEPEYES_SOURCES": "my_vqa=visual, my_geometry=math",
                "DEEPEYES_COORDINATES": "norm1000",
                "DEEPEYES_CROP_SOURCE": "original",
                "DEEPEYES_TRACE_DIR": str(tmp_path),
            }
        )
        judge = settings.judge
        assert (judge.kind, judge.model, judge.api_key) == (JudgeKind.RULE, "judge", "secret")
        assert judge.urls == ("http://a:1/v1", "https://b/api/v1")
        assert (judge.concurrency, judge.timeout, judge.patience) == (3, 1.5, 9)
        assert judge.visual_prompt == "{question} {reference} {answer}"
        assert settings.sources == (("my_vqa", Scoring.VISUAL), ("my_geometry", Scoring.MATH))
        assert (settings.rules, settings.coordinates) == (Rules.OFFICIAL, Coordinates.NORM1000)
        assert (settings.crop_source, settings.trace_dir) == (CropSource.ORIGINAL, tmp_path)

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("DEEPEYES_JUDGE", "llm", "'server' or 'rule'"),
            ("DEEPEYES_RULES", "Official", "'corrected' or 'official'"),
            ("DEEPEYES_COORDINATES", "relative", "'auto' or 'pixel' or 'norm1000'"),
            ("DEEPEYES_CROP_SOURCE", "full", "'view' or 'original'"),
            ("DEEPEYES_JUDGE_CONCURRENCY", "2.5", "a whole number above 0"),
            ("DEEPEYES_JUDGE_CONCURRENCY", "0", "a whole number above 0"),
            ("DEEPEYES_JUDGE_TIMEOUT", "soon", "a number above 0"),
            ("DEEPEYES_JUDGE_PATIENCE", "nan", "a number above 0"),
            ("DEEPEYES_JUDGE_PATIENCE", "-1", "a number above 0"),
            ("DEEPEYES_JUDGE_URLS", "localhost:8000", "URLs like"),
            ("DEEPEYES_JUDGE_URLS", "http://a/v1,", "URLs like"),
            ("DEEPEYES_SOURCES", "my_vqa", "name=visual or name=math"),
            ("DEEPEYES_SOURCES", "=math", "name=visual or name=math"),
            ("DEEPEYES_JUDGE_PROMPT_MATH", "/no/such/file", "a readable text file"),
        ],
    )
    def test_bad_value_is_refused_with_name_value_and_what_is_allowed(
        self, name: str, value: str, expected: str
    ) -> None:
        with pytest.raises(SettingsError, match=re.escape(f"{name}={value!r}: expected")) as caught:
            read_settings({name: value})
        assert expected in str(caught.value)

    def test_prompt_without_a_field_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "prompt.txt").write_text("{question} {answer}")
        with pytest.raises(SettingsError, match=r"lacks \{reference\}"):
            read_settings({"DEEPEYES_JUDGE_PROMPT_MATH": str(tmp_path / "prompt.txt")})

    def test_bad_value_stops_the_import(self) -> None:
        code = "import os; os.environ['DEEPEYES_RULES'] = 'strict'; import deepeyes_plugin"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        message = "DEEPEYES_RULES='strict': expected 'corrected' or 'official'"
        assert done.stderr.splitlines()[-1].endswith(f"SettingsError: {message}")

    def test_key_is_not_shown(self) -> None:
        assert "secret" not in repr(read_settings({"DEEPEYES_JUDGE_API_KEY": "secret"}))


class TestScoringOf:
    def test_official_and_own_sources_are_known(self) -> None:
        settings = read_settings({"DEEPEYES_SOURCES": "mine=math"})
        found = {name: settings.scoring_of(name) for name in ("vstar", "chart", "thinklite_eureka", "mine")}
        visual, math = Scoring.VISUAL, Scoring.MATH
        assert found == {"vstar": visual, "chart": visual, "thinklite_eureka": math, "mine": math}

    @pytest.mark.parametrize("source", ["mine", None, 3, ""])
    def test_unknown_source_names_the_known_ones_and_the_setting(self, source: object) -> None:
        with pytest.raises(DataError, match=r"known are chart, thinklite_eureka, vstar.*DEEPEYES_SOURCES="):
            Settings().scoring_of(source)
