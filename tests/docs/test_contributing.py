"""CONTRIBUTING.md: what it names is there, and its example of a reward works."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pages import PROJECT, Page, inline_code

import deepeyes_plugin as plugin

PAGE = Page(PROJECT / "CONTRIBUTING.md")
PATHS = [code for code in inline_code(PAGE.text) if re.fullmatch(r"[\w./]+(?:\.(?:py|md|sh|toml)|/)", code)]
INVENTED = re.compile(r"NAME|^mine\.py$|^(?:turns|calls)\b")
"""Files that the reader makes, and names within a folder that was named before."""


class TestPaths:
    @pytest.mark.parametrize("path", [path for path in PATHS if not INVENTED.search(path)])
    def test_file_or_folder_exists(self, path: str) -> None:
        assert (PROJECT / path).exists()


class TestReward:
    """The example, run as the file that it says it is."""

    LONG = "the door of the old house"

    @pytest.mark.parametrize(
        ("answer", "reference", "value"), [("red", "red", 1.0), (LONG, LONG, 0.0), ("", "red", 0.0)]
    )
    def test_it_rewards_what_it_says(
        self, monkeypatch: pytest.MonkeyPatch, answer: str, reference: str, value: float
    ) -> None:
        """On answers that need no judge."""
        (example,) = (block for language, block in PAGE.blocks if language == "python")
        names: dict[str, Any] = {}
        monkeypatch.setitem(plugin.orms, "brief", None)
        exec(example, names)  # noqa: S102 - the text of our own page
        columns = {
            "data_source": ["vstar"],
            "reward_model": [{"ground_truth": reference}],
            "extra_info": [{"question": "Which colour?"}],
            "env_name": [""],
            "messages": [[{"role": "user", "content": "Which colour?"}]],
        }
        assert plugin.orms["brief"]()([f"<answer>{answer}</answer>"], **columns) == [value]
