"""`deepeyes.sh rollout`."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sandbox import WITH_A_SERVER, assert_refused, devices, free_port, option, read_command

if TYPE_CHECKING:
    from sandbox import Sandbox


class TestRollout:
    """`deepeyes.sh rollout`."""

    @pytest.mark.parametrize("layout", WITH_A_SERVER)
    def test_both_sides_agree(self, sandbox: Sandbox, layout: str) -> None:
        assert (
            sandbox.run("deepeyes.sh", "rollout", "--x", "1", LAYOUT=layout, ROLLOUT_PORT=str(free_port())).returncode
            == 0
        )
        (call,) = sandbox.calls
        train_env, train = read_command(sandbox.run("deepeyes.sh", "--dry-run", LAYOUT=layout).stdout)
        assert call["argv"][0] == "rollout"
        assert call["argv"][-2:] == ["--x", "1"]
        assert call["env"]["MAX_PIXELS"] == train_env["MAX_PIXELS"]
        for name in ("model", "external_plugins", "multi_turn_scheduler", "max_turns"):
            assert option(call["argv"], name) == option(train, name)
        assert layout == "nodes" or not set(devices(call["env"])) & set(devices(train_env))
        assert sandbox.programs == [["--for", "rollout", "--", "--x", "1"]]

    def test_a_taken_port_is_refused_before_swift_moves_to_another(self, sandbox: Sandbox) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = str(server.getsockname()[1])
            assert_refused(sandbox.run("deepeyes.sh", "rollout", ROLLOUT_PORT=port), rf"ROLLOUT_PORT={port} is taken")
        assert sandbox.calls == []

    def test_a_port_that_closed_connections_hold_is_waited_for(self, sandbox: Sandbox) -> None:
        with closing(socket.socket()) as holder:
            holder.bind(("127.0.0.1", 0))  # nothing listens, yet swift could not bind it
            port = str(holder.getsockname()[1])
            released = threading.Timer(2, holder.close)
            released.start()
            result = sandbox.run("deepeyes.sh", "rollout", ROLLOUT_PORT=port)
            released.join()
        assert (result.returncode, len(sandbox.calls)) == (0, 1)
        assert f"port {port} is not free yet" in result.stderr

    def test_preflight_stops_it_on_an_error(self, sandbox: Sandbox) -> None:
        settings = {"ROLLOUT_PORT": str(free_port()), "BAD": "rollout"}
        result = sandbox.run("deepeyes.sh", "rollout", **settings)
        assert result.returncode == 1
        assert "DOCTOR=false bash deepeyes.sh rollout" in result.stderr
        assert sandbox.calls == []
        assert sandbox.run("deepeyes.sh", "rollout", DOCTOR="false", **settings).returncode == 0

    @pytest.mark.parametrize("layout", ["colocate8", "one"])
    def test_a_layout_without_a_server_says_so(self, sandbox: Sandbox, layout: str) -> None:
        assert_refused(sandbox.run("deepeyes.sh", "rollout", LAYOUT=layout), rf"LAYOUT={layout} has no rollout server")

    @pytest.mark.parametrize(("tensor_parallel", "copies"), [("1", "8"), ("4", "2"), ("8", "1")])
    def test_gpus_are_shared_by_copies_of_a_large_policy(
        self, sandbox: Sandbox, tensor_parallel: str, copies: str
    ) -> None:
        settings = {"ROLLOUT_GPUS": "0,1,2,3,4,5,6,7", "ROLLOUT_TENSOR_PARALLEL": tensor_parallel}
        _, argv = read_command(sandbox.run("deepeyes.sh", "rollout", "--dry-run", **settings).stdout)
        assert option(argv, "vllm_tensor_parallel_size") == [tensor_parallel]
        assert option(argv, "vllm_data_parallel_size") == [copies]

    def test_gpus_that_do_not_fit_are_refused(self, sandbox: Sandbox) -> None:
        settings = {"ROLLOUT_GPUS": "0,1,2", "ROLLOUT_TENSOR_PARALLEL": "2"}
        assert_refused(sandbox.run("deepeyes.sh", "rollout", **settings), r"does not divide the 3 GPUs of ROLLOUT_GPUS")

    @pytest.mark.parametrize(
        ("settings", "rank"),
        [
            ({"LAYOUT": "lora4"}, "64"),
            ({"LAYOUT": "lora4", "LORA_RANK": "16"}, "16"),
            ({"TUNER": "lora"}, "64"),
            ({"LAYOUT": "lora4", "TRAIN_VISION": "true"}, None),
            ({"LAYOUT": "lora4", "TUNER": "full"}, None),
        ],
    )
    def test_an_adapter_is_sent_as_one_where_vllm_takes_it(
        self, sandbox: Sandbox, settings: dict[str, str], rank: str | None
    ) -> None:
        _, argv = read_command(sandbox.run("deepeyes.sh", "rollout", "--dry-run", **settings).stdout)
        if rank is None:
            assert "--vllm_enable_lora" not in argv
            return
        assert (option(argv, "vllm_enable_lora"), option(argv, "vllm_max_lora_rank")) == (["true"], [rank])
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", **settings).stdout)
        assert option(argv, "lora_rank") == [rank]
        assert_refused(
            sandbox.run("deepeyes.sh", "train", "--lora_rank", "512", DOCTOR="false", **settings),
            r"(?s)set LORA_RANK=512",
            lines=2,
        )

    def test_it_listens_at_one_address(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "rollout", ROLLOUT_HOST="10.0.0.8,10.0.0.9")
        assert_refused(result, r"ROLLOUT_HOST=10\.0\.0\.8,10\.0\.0\.9 names several")
