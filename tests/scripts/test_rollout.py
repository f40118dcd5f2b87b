"""`deepeyes.sh rollout`."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sandbox import LAYOUTS, assert_refused, free_port, option, read_command

if TYPE_CHECKING:
    from sandbox import Sandbox


class TestRollout:
    """`deepeyes.sh rollout`."""

    @pytest.mark.parametrize("layout", LAYOUTS)
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
        busy = set(call["env"]["CUDA_VISIBLE_DEVICES"].split(",")) & set(train_env["CUDA_VISIBLE_DEVICES"].split(","))
        assert layout in {"nodes", "cpu"} or not busy

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
