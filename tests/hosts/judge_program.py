"""A judge as a program: it knows two right answers, writes down what it is asked, and can be cut off.

    python judge_program.py HOST PORT LOG [COMMAND]

The first part of the path of its URL is the rank that asks. To a question of rank 1 about an answer that begins with
`late` it never replies; COMMAND, where given, is run then: it takes the network away.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RIGHT = ("crimson", "scarlet")
HOST, PORT, LOG = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
CUT = shlex.split(sys.argv[4]) if len(sys.argv) > 4 else []
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "judge-72B"}]})

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        rank, answer = self.path.split("/")[1], prompt.rpartition("[Model answer] ")[2].strip()
        with LOCK, LOG.open("a") as file:
            file.write(json.dumps([rank, answer]) + "\n")
        if rank == "rank1" and answer.startswith("late"):
            if CUT:
                subprocess.run(CUT, check=False)
            self.close_connection = True
            return
        content = f"Judgement: {int(answer in RIGHT)}"
        self.reply({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]})

    def log_message(self, *_: object) -> None:
        """Says nothing."""


ThreadingHTTPServer((HOST, PORT), Handler).serve_forever()
