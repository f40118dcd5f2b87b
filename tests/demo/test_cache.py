"""What the demo keeps: a stage is made once for what made it, on one kind of processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepeyes.demo import stages
from deepeyes.demo.cache import PLUGIN, Cache, cache_directory, source_hash

ROOT = Path(__file__).resolve().parents[2]


class TestSourceHash:
    """What a stage's key holds of a checkout."""

    def test_it_follows_every_source_and_its_name(self, tmp_path: Path) -> None:
        (room := tmp_path / "deepeyes" / "room").mkdir(parents=True)
        hashes = set()
        for file, text in ((PLUGIN.name, "1"), (PLUGIN.name, "2"), ("deepeyes/a.py", "3"), ("deepeyes/room/a.py", "3")):
            (tmp_path / file).write_text(text)
            hashes.add(source_hash(tmp_path))
        (room / "a.py").rename(room / "b.py")
        assert len(hashes | {source_hash(tmp_path)}) == 5


class TestCache:
    """A stage is made once for what made it."""

    def test_same_inputs_reuse_and_others_do_not(self, tmp_path: Path) -> None:
        made: list[Path] = []
        cache = Cache(tmp_path, lambda _: None)
        first, again, other = (cache.stage("stage", made_by, made.append) for made_by in (1, 1, 2))
        assert first == again != other
        assert len(made) == 2

    def test_failed_stage_is_made_again(self, tmp_path: Path) -> None:
        def fail(_: Path) -> None:
            raise stages.DemoError("no")

        cache = Cache(tmp_path, lambda _: None)
        with pytest.raises(stages.DemoError):
            cache.stage("stage", 1, fail)
        assert cache.stage("stage", 1, lambda folder: (folder / "x").touch()).is_dir()

    @pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS"])
    def test_what_decides_how_sums_are_rounded_is_a_part_of_the_key(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        cache = Cache(tmp_path, lambda _: None)
        folders = set()
        for value in ("1", "2"):
            monkeypatch.setenv(name, value)
            folders.add(cache.stage("stage", 1, lambda _: None))
        assert len(folders) == 2

    def test_sources_are_a_part_of_the_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deepeyes.demo.cache.ROOT", tmp_path)
        cache = Cache(tmp_path / "cache", lambda _: None)
        folders = set()
        for text in ("1", "2"):
            (tmp_path / PLUGIN.name).write_text(text)
            folders.add(cache.stage("stage", 1, lambda _: None))
        assert len(folders) == 2

    def test_instruction_set_is_the_one_that_torch_uses(self) -> None:
        """In a process of its own, since torch chooses once."""
        script = "import os; from deepeyes.demo.cache import instruction_set; print(*instruction_set(os.environ))"
        command, env = [sys.executable, "-c", script], os.environ | {"ATEN_CPU_CAPABILITY": "default"}
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["DEFAULT", "default"]

    @pytest.mark.parametrize(
        ("env", "expected"),
        [
            ({"DEEPEYES_CACHE": "/a"}, "/a"),
            ({"XDG_CACHE_HOME": "/b"}, "/b/deepeyes-swift"),
            ({"DEEPEYES_CACHE": "here"}, f"{Path.cwd()}/here"),  # the stages run in another folder
        ],
    )
    def test_cache_is_where_the_user_wants_it(self, env: dict[str, str], expected: str) -> None:
        assert cache_directory(env) == Path(expected)

    def test_settings_of_the_users_own_training_do_not_reach_the_demo(self) -> None:
        env = stages.child_environment({"DEEPEYES_RULES": "official", "DEEPEYES_JUDGE": "server", "HOME": "/h"})
        assert "DEEPEYES_RULES" not in env
        assert (env["DEEPEYES_JUDGE"], env["HOME"]) == ("rule", "/h")
