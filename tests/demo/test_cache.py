"""What the demo keeps: a stage is made once for what made it, on one kind of processor."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from deepeyes.demo import stages
from deepeyes.demo.cache import PLUGIN_FILES, Cache, cache_directory

ROOT = Path(__file__).resolve().parents[2]


class TestPluginFiles:
    """What a stage's key holds of the plugin."""

    def test_they_are_all_that_the_plugin_imports_of_the_package(self) -> None:
        tree = ast.parse((ROOT / "deepeyes_plugin.py").read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        graph = grimp.build_graph("deepeyes")
        mine = {module for module in modules if module in graph.modules}
        needed = mine.union(*(graph.find_upstream_modules(module) for module in mine))
        files = {f"deepeyes.{file.removesuffix('.py').replace('/', '.')}" for file in PLUGIN_FILES[1:]}
        assert len(needed) > 10
        assert needed - {"deepeyes"} <= {name.removesuffix(".__init__") for name in files}


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
