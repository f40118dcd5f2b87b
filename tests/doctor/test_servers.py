"""Ports that are free, ours or another's."""

from __future__ import annotations

import socket
import threading

from doctor_world import ENGINE, free_port, http_server, only

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.servers import check_port, engine_of


class TestPort:
    def check(self, port: int) -> Finding:
        def is_ours(base: str) -> bool:
            return engine_of(base) is not None

        return only(check_port("port", "0.0.0.0", port, "ROLLOUT_PORT", is_ours))  # noqa: S104 - not bound

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
