"""Missing official files arrive whole, by the hubs' own clients."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

from row_maker import CHART, ROOT, THINKLITE, VSTAR, make_row, picture, run_program, save

from deepeyes.data.cli import main
from deepeyes.data.download import arrived
from deepeyes.dataset.official import HUBS, OFFICIAL, SCHEMA


class FakeHub(BaseHTTPRequestHandler):
    """Answers what the two clients ask for; the first transfer of the file breaks off half way."""

    protocol_version = "HTTP/1.1"
    content = b""
    seen: list[tuple[str, str | None]] = []  # noqa: RUF012 - set for each test

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        digest = hashlib.sha256(self.content).hexdigest()
        if "/resolve/" in url.path or "FilePath" in parse_qs(url.query):
            self.send_file(digest)
        elif url.path.startswith("/api/v1/") and url.path.endswith("/repo/tree"):
            file = {"Path": VSTAR, "Name": VSTAR, "Type": "blob", "Size": len(self.content), "Sha256": digest}
            self.send_json({"Code": 200, "Success": True, "Data": {"Files": [file], "TotalCount": 1}})
        elif "/tree/" in url.path:
            lfs = {"oid": digest, "size": len(self.content), "pointerSize": 130}
            self.send_json([{"type": "file", "path": VSTAR, "size": len(self.content), "oid": "b" * 40, "lfs": lfs}])
        elif "/revision/" in url.path:
            self.send_json({"id": HUBS["huggingface"], "sha": "a" * 40, "siblings": [{"rfilename": VSTAR}]})
        else:
            self.send_json({"Code": 200, "Success": True, "Data": {}})

    def send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, digest: str) -> None:
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        part = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        first = not self.seen
        self.seen.append((self.path, self.headers.get("Range")))
        self.wfile.write(part[: len(part) // 2] if first else part)
        self.close_connection = first


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    # The clients write pieces of 10 MB: half of the file must be more than that, or there is nothing to go on from.
    image = {"bytes": picture(1, (1000, 1000), "BMP"), "path": None}
    table = pa.Table.from_pylist([make_row(n, images=[image]) for n in range(10)], SCHEMA)
    pq.write_table(table, tmp_path / "served.parquet", use_dictionary=False, compression="NONE")
    FakeHub.content = (tmp_path / "served.parquet").read_bytes()
    FakeHub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class TestDownload:
    """The hubs' own clients, against a server on this machine."""

    @pytest.mark.parametrize("name", ["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])
    def test_missing_file_arrives_whole_though_the_transfer_breaks(self, tmp_path: Path, hub: str, name: str) -> None:
        directory = tmp_path / "data"
        directory.mkdir()
        for other in (CHART, THINKLITE):
            save(directory / other, [make_row(1)])
        save(directory / "mine.parquet", [make_row(1)])
        done = run_program(
            directory,
            "--hub",
            name,
            HF_ENDPOINT=hub,
            HF_HUB_OFFLINE="0",
            HF_HOME=str(tmp_path / "hf"),
            MODELSCOPE_ENDPOINT=hub,
            MODELSCOPE_CACHE=str(tmp_path / "ms"),
            NO_PROXY="127.0.0.1",
            no_proxy="127.0.0.1",
        )
        assert (directory / VSTAR).is_file(), done.stderr
        assert (directory / VSTAR).read_bytes() == FakeHub.content
        assert all(HUBS[name] in path for path, _ in FakeHub.seen)
        assert FakeHub.seen[0][1] in (None, "bytes=0-")
        start = int((FakeHub.seen[-1][1] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        assert start > 0, FakeHub.seen  # it went on where it had broken off
        assert all(f"{file}: " in done.stdout for file in (*OFFICIAL, "mine.parquet"))
        assert done.returncode == 1  # small files under official names are not the published ones

    @pytest.mark.parametrize(
        ("hub", "parts"),
        [
            ("modelscope", [f"{VSTAR}.incomplete", f"{VSTAR}_0_9", f"sub/{VSTAR}_10_19"]),
            ("huggingface", [f".cache/huggingface/download/x.{OFFICIAL[VSTAR].sha256}.incomplete"]),
        ],
    )
    def test_parts_that_the_client_goes_on_from_need_no_room(self, tmp_path: Path, hub: str, parts: list[str]) -> None:
        others = [f"out/{VSTAR}.part", f"{CHART}.incomplete", "x.00.1a2b3c4d.incomplete"]
        for part in (*parts, *others):
            (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part).write_bytes(b"0123456789")
        assert arrived(tmp_path, VSTAR, hub) == 10 * len(parts)

    def test_hub_out_of_reach_ends_with_one_line(self, tmp_path: Path) -> None:
        for other in (CHART, THINKLITE):
            save(tmp_path / other, [make_row(1)])
        part = tmp_path / ".cache" / "huggingface" / f"x.{OFFICIAL[VSTAR].sha256}.incomplete"
        part.parent.mkdir(parents=True)
        part.touch()
        os.truncate(part, OFFICIAL[VSTAR].size - 100_000_000)
        done = run_program(tmp_path, "--hub", "huggingface", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
        assert done.returncode == 2
        assert "downloading 1 files, 0.1 GB, from huggingface" in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert f"gave no {VSTAR}; is the hub in reach (HF_HUB_OFFLINE is set)?" in last
        assert last.endswith(f"Or put {VSTAR} into {tmp_path} yourself.")


class TestFolder:
    def test_folder_that_does_not_exist_is_not_made_without_being_asked(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(tmp_path / "typo"), "--hub", "huggingface"]) == 2
        told = capsys.readouterr().err
        assert "does not exist" in told
        assert "4.8 GB" in told
        assert told.strip().endswith(f"bash deepeyes.sh data {tmp_path / 'typo'} --download")
        assert not (tmp_path / "typo").exists()

    def test_slip_in_the_name_of_a_file_names_the_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "rows.jsonl").touch()
        assert main([str(tmp_path / "rows.jsnl"), "--hub", "none"]) == 2
        assert f"did you mean {tmp_path / 'rows.jsonl'}?" in capsys.readouterr().err

    def test_download_makes_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path / "new"), "--download", "--hub", "none"]) == 2
        assert "lacks data_0.1.2" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("answer", "told"), [("n\n", b"--download"), ("\n", b"--download"), ("y\n", b"lacks data_0.1.2")]
    )
    def test_on_a_terminal_it_asks(self, tmp_path: Path, answer: str, told: bytes) -> None:
        process, terminal = pty.fork()
        if process == 0:
            command = [sys.executable, "-m", "deepeyes.data", str(tmp_path / "typo"), "--hub", "none"]
            os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT)})  # noqa: S606 - in a fork
        said = b""
        while b"[y/N]" not in said:
            said += os.read(terminal, 1024)
        os.write(terminal, answer.encode())
        with contextlib.suppress(OSError):  # what a closed terminal reads as
            while more := os.read(terminal, 1024):
                said += more
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2
        assert told in said.replace(b"\r\n", b"")
