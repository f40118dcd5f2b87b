"""The guide to own data, taken at its word."""

from __future__ import annotations

import json
import re

from row_maker import ROOT, run_program


class TestGuide:
    def test_example_passes_with_the_settings_of_the_guide(self) -> None:
        guide = ROOT / "docs" / "own_data.md"
        exports = dict(re.findall(r"^export (\w+)=(\S+)", guide.read_text(encoding="utf-8"), re.MULTILINE))
        assert set(exports) == {"DEEPEYES_SOURCES", "ROOT_IMAGE_DIR"}
        exports["ROOT_IMAGE_DIR"] = str(guide.parent.parent / exports["ROOT_IMAGE_DIR"])
        done = run_program(guide.with_name("own_data_example.jsonl"), "--json", "--workers", "1", **exports)
        (found,) = json.loads(done.stdout)["files"]
        assert (done.returncode, found["problems"], found["notes"]) == (0, {}, {})
