"""`deploy_judge.sh`."""

from __future__ import annotations

import signal
import socket
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sandbox import assert_refused, free_port, option, read_command

if TYPE_CHECKING:
    from sandbox import Sandbox


class TestJudge:
    """`deploy_judge.sh`."""

    def test_dry_run_prints_one_line_a_replica_and_no_key(self, sandbox: Sandbox) -> None:
        settings = {"JUDGE_REPLICAS": "2", "DEEPEYES_JUDGE_API_KEY": "s3cret key", "JUDGE_PORT": "20001"}
        result = sandbox.run("deploy_judge.sh", "--dry-run", "--seed", "1", **settings)
        commands = [read_command(line) for line in result.stdout.splitlines()]
        assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in commands] == ["4,5", "6,7"]
        assert [option(argv, "port") for _, argv in commands] == [["20001"], ["20002"]]
        assert [option(argv, "vllm_tensor_parallel_size") for _, argv in commands] == [["2"], ["2"]]
        assert all(argv[-2:] == ["--seed", "1"] for _, argv in commands)
        assert result.stdout.count('--api_key "$DEEPEYES_JUDGE_API_KEY" ') == 2
        assert "s3cret" not in result.stdout + result.stderr

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"JUDGE_HOST": "192.0.2.7"}, r"JUDGE_HOST=192.0.2.7 lets other machines in; set DEEPEYES_JUDGE_API_KEY"),
            ({"JUDGE_REPLICAS": "3"}, r"JUDGE_REPLICAS=3 do not share the 4 GPUs"),
            ({"JUDGE_GPUS": "all"}, r"JUDGE_GPUS=all must list GPUs"),
            ({"JUDGE_PORT": "99999"}, r"JUDGE_PORT=99999 must be below 65536"),
            ({"JUDGE_MODEL": "./gone"}, r"JUDGE_MODEL=./gone is no folder"),
        ],
    )
    def test_a_wrong_setting_ends_with_one_line(self, sandbox: Sandbox, settings: dict[str, str], message: str) -> None:
        assert_refused(sandbox.run("deploy_judge.sh", **settings), message)
        assert sandbox.calls == []

    def test_it_waits_for_every_replica_prints_the_urls_and_stops_them_all(self, sandbox: Sandbox) -> None:
        port = free_port()
        settings = {"JUDGE_REPLICAS": "2", "JUDGE_PORT": str(port), "DEEPEYES_JUDGE_API_KEY": "k"}
        with subprocess.Popen(
            sandbox.command("deploy_judge.sh"), env=sandbox.env | settings, cwd="/", stdout=subprocess.PIPE, text=True
        ) as judge:
            assert judge.stdout is not None
            line = judge.stdout.readline()
            judge.send_signal(signal.SIGINT)
            assert judge.wait(timeout=120) == 130
        assert line == f"export DEEPEYES_JUDGE_URLS=http://127.0.0.1:{port}/v1,http://127.0.0.1:{port + 1}/v1\n"
        assert {call["env"]["CUDA_VISIBLE_DEVICES"] for call in sandbox.calls} == {"4,5", "6,7"}
        for replica in (port, port + 1):
            with pytest.raises(ConnectionRefusedError), closing(socket.create_connection(("127.0.0.1", replica))):
                pass

    def test_a_replica_that_dies_ends_it_with_the_end_of_its_log_while_others_load(self, sandbox: Sandbox) -> None:
        port = free_port()
        settings = {"JUDGE_PORT": str(port), "JUDGE_REPLICAS": "2"}
        result = sandbox.run("deploy_judge.sh", "--mute", "--die", str(port + 1), **settings)
        assert result.returncode == 1
        assert result.stdout == ""
        assert "the stub has no memory left" in result.stderr
        assert f"the judge on port {port + 1} ended before it answered" in result.stderr

    @pytest.mark.parametrize("argument", ["--host", "--port=80", "--api_key"])
    def test_what_decides_who_gets_in_is_no_argument(self, sandbox: Sandbox, argument: str) -> None:
        assert_refused(sandbox.run("deploy_judge.sh", argument, "0.0.0.0"), rf"{argument} is set by JUDGE_HOST")  # noqa: S104
        assert sandbox.calls == []

    def test_a_replica_that_never_answers_is_given_up(self, sandbox: Sandbox) -> None:
        settings = {"JUDGE_PORT": str(free_port()), "JUDGE_START_TIMEOUT": "1"}
        result = sandbox.run("deploy_judge.sh", "--mute", **settings)
        assert result.returncode == 1
        assert "did not answer in JUDGE_START_TIMEOUT=1 seconds" in result.stderr

    def test_preflight_stops_it_on_an_error(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deploy_judge.sh", "--seed", "1", JUDGE_PORT=str(free_port()), BAD="judge")
        assert result.returncode == 1
        assert "DOCTOR=false bash deploy_judge.sh" in result.stderr
        assert sandbox.calls == []
        assert sandbox.programs == [["--for", "judge", "--", "--seed", "1"]]
