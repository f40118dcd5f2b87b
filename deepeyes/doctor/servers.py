"""Ports, and what answers behind them."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from deepeyes.doctor.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable

HTTP_TIMEOUT = 5.0  # seconds for one reply of a server


def request(method: str, url: str, key: str = "") -> tuple[int, Any]:
    """Returns the status and the JSON of a reply; None for a body that is none.

    Raises:
        OSError: Nothing answers, or not in time.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    body = b"{}" if method == "POST" else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, body, headers, method=method), timeout=HTTP_TIMEOUT) as reply:  # noqa: S310 - the user's own server, over http(s)
            status, content = reply.status, reply.read(1 << 20)
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read(1 << 20)
    try:
        return status, json.loads(content)
    except ValueError:
        return status, None


def reason_of(error: OSError) -> object:
    """Returns what happened, which urllib wraps."""
    return getattr(error, "reason", error)


def is_free(port: int) -> bool:
    """Tells whether swift could bind a port: on every address, as it does before it takes the next port in silence."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def reachable(host: str) -> str:
    """Returns the address at which a server that listens on `host` answers from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read from a setting, not bound to


def engine_of(base: str) -> dict[str, Any] | None:
    """Returns what a rollout server says of itself; None where something else answers.

    Raises:
        OSError: Nothing answers.
    """
    status, reply = request("POST", f"{base}/get_engine_type/")
    return reply if status == 200 and isinstance(reply, dict) and "engine_type" in reply else None  # noqa: PLR2004 - HTTP OK


def models_of(base: str, key: str) -> list[str] | None:
    """Returns the models that an OpenAI-compatible server serves; None where something else answers.

    Raises:
        OSError: Nothing answers.
    """
    status, reply = request("GET", f"{base}/models", key)
    try:
        return [str(model["id"]) for model in reply["data"]] if status == 200 else None  # noqa: PLR2004 - HTTP OK
    except (LookupError, TypeError):
        return None


def check_port(check: str, host: str, port: int, variable: str, is_ours: Callable[[str], bool]) -> list[Finding]:
    """Tells whether a port is free, or held by the very server that is about to be started."""
    if is_free(port):
        return [Finding(check, Level.OK, f"{host}:{port} is free")]
    try:
        ours = is_ours(f"http://{reachable(host)}:{port}")
    except OSError:
        ours = False
    if ours:
        return [
            Finding(check, Level.WARNING, f"{host}:{port} is held by such a server already; there is none to start")
        ]
    mend = f"{variable}={port + 100} for all commands, or stop what holds it"
    return [Finding(check, Level.ERROR, f"{host}:{port} is held by something else", mend)]
