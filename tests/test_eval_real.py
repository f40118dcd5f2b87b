"""Evaluation for real: a model that zooms, behind `swift deploy` on vLLM, and a run that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import demo_task
import demo_warmup
import eval_report
import pytest
from eval_world import Script, Seen, evaluate, perfect, serving, write_vstar

import deepeyes_plugin as plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SWIFT = Path(sys.executable).with_name("swift")
START = 900
"""Seconds that vLLM may take to start on a busy CPU."""


def start(*arguments: object, log: Path, **env: str) -> subprocess.Popen[bytes]:
    """Starts a program in a process group of its own."""
    environment = {**os.environ, "SWIFT": str(SWIFT), "DEEPEYES_JUDGE": "rule", **env}
    with log.open("wb") as file:
        return subprocess.Popen(
            [str(word) for word in arguments],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd=ROOT,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a program and all that it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def policy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's policy before GRPO: it zooms to the card and reads the crop, or guesses at once."""
    target = tmp_path_factory.mktemp("policy") / "model"
    demo_warmup.warm_up(tiny_model, target, demo_warmup.WarmupSettings(), lambda *_: None)
    return target


@pytest.fixture(scope="module")
def url(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The policy behind `swift deploy` on vLLM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("deploy") / "log"
    model = ("--model", policy, "--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl", "--served_model_name", "tiny")
    vllm = ("--infer_backend", "vllm", "--torch_dtype", "float32", "--vllm_enforce_eager", "true")
    place = ("--vllm_max_model_len", 1024, "--host", "127.0.0.1", "--port", port)
    server = start(SWIFT, "deploy", *model, *vllm, *place, log=log, VLLM_CPU_KVCACHE_SPACE="1")
    deadline = time.monotonic() + START
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, f"no server in {START} s: {log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                break
        except OSError:
            time.sleep(1)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        stop(server)


def run(log: Path, *arguments: object) -> subprocess.Popen[bytes]:
    return start("bash", ROOT / "deepeyes.sh", "eval", *arguments, log=log)


@pytest.mark.lengthy
class TestDeployed:
    """`swift deploy` with vLLM, through the command that the README gives."""

    @pytest.mark.timeout(2400)  # with the warm-up and the start of vLLM, on a busy CPU
    def test_zoom_beats_blank_crops_and_no_zoom_on_the_held_out_set(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pictures = demo_task.sample_pictures(48, seed=3, split="eval")
        rows = [demo_task.row(at, picture, "eval") for at, picture in enumerate(pictures)]
        bench = demo_task.write_parquet(rows, tmp_path / "held_out.parquet")
        common = ("--bench", bench, "--max-pixels", demo_task.MAX_PIXELS, "--crop-source", "original")
        common = (*common, "--max-turns", 2, "--max-tokens", 80, "--judge", "rule")
        log = tmp_path / "zoom.log"
        assert run(log, *common, "--url", url, "--out", tmp_path / "zoom").wait() == 0, log.read_text()[-3000:]
        zoom = json.loads((tmp_path / "zoom" / "report.json").read_text())
        monkeypatch.setattr(plugin, "SETTINGS", plugin.SETTINGS)  # the command line puts its own in their place
        server = Script(perfect, url=url)
        blank = evaluate(tmp_path / "blank", server, *common, "--blank-crops")[1]
        plain = evaluate(tmp_path / "plain", server, *common, "--no-tool")[1]
        # The server counts just the tokens of our view, 4 x 4: with one before, one after and a changed line break.
        assert (zoom["view_tokens"]["size"], zoom["view_tokens"]["expected"]) == ([112, 112], 16)
        assert zoom["view_tokens"]["seen"] in (18, 19)
        assert zoom["view_tokens"]["note"] is None
        assert zoom["all"]["answers"] == blank["all"]["answers"] == plain["all"]["answers"] == 48
        assert zoom["all"]["zooms"] >= 24 <= blank["all"]["zooms"]
        assert plain["all"]["zooms"] == 0
        assert zoom["all"]["low"] > demo_task.CHANCE >= max(blank["all"]["low"], plain["all"]["low"])
        for other in (blank, plain):
            assert eval_report.compare_runs(other, zoom)[0]["all"]["p_value"] < 0.01


class TestInterrupted:
    """Ctrl-C in the middle of a run."""

    def test_what_was_finished_is_kept_and_the_rest_is_asked_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plugin, "SETTINGS", plugin.SETTINGS)  # the command line puts its own in their place
        bench = write_vstar(tmp_path / "vstar")

        def slow(seen: Seen) -> str:
            time.sleep(0.2 if len(script.seen) < 6 else 3)
            return perfect(seen)

        out, log = tmp_path / "run", tmp_path / "log"
        with serving(Script(slow)) as script:
            evaluation = run(log, "--bench", bench, "--url", script.url, "--out", out, "--concurrency", 1)
            answers = out / "answers.jsonl"
            deadline = time.monotonic() + 300
            while not (answers.is_file() and answers.read_bytes().count(b"\n") >= 2):
                assert evaluation.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            os.killpg(evaluation.pid, signal.SIGINT)
            assert evaluation.wait(60) == 130, log.read_text()
            assert "the same command goes on from there" in log.read_text()
            finished = {json.loads(line)["id"] for line in answers.read_text().splitlines()}
            assert 2 <= len(finished) < 6
            script.policy, script.seen = perfect, []
            status, report = evaluate(out, script, "--bench", bench)
        assert (status, report["all"]["answers"], len(script.seen)) == (0, 6, 2 * (6 - len(finished)))
