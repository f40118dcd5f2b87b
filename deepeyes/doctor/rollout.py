"""The rollout server: whether it plays turns, with the trainer's settings."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import psutil

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import Command, parse_command
from deepeyes.doctor.servers import engine_of, reachable, reason_of

if TYPE_CHECKING:
    from deepeyes.doctor.plan import Plan

# Variables of the plugin that change what a trajectory is, so that both sides must have the same.
SHARED_VARIABLES = ("MAX_PIXELS", "DEEPEYES_RULES", "DEEPEYES_COORDINATES", "DEEPEYES_CROP_SOURCE", "DEEPEYES_SOURCES")
SHARED_OPTIONS = ("model", "multi_turn_scheduler", "max_turns", "max_pixels", "vllm_max_model_len")
TEMPLATE_OPTIONS = ("enable_thinking", "response_prefix", "system", "template", "norm_bbox")
"""Given to one side alone, they train on a text that was never sampled, in silence."""


def check_rollout(plan: Plan) -> list[Finding]:
    """Compares every rollout server with the trainer, as far as it can be known."""
    hosts = plan.train.options.get("vllm_server_host") or ("127.0.0.1",)
    ports = plan.train.options.get("vllm_server_port") or ("8000",)
    servers = zip(hosts, ports, strict=False)  # the script lists as many of each
    return [finding for host, port in servers for finding in check_server(plan, host, int(port))]


def check_server(plan: Plan, host: str, port: int) -> list[Finding]:
    """Compares one rollout server with the trainer."""
    base, mend = f"http://{reachable(host)}:{port}", "bash deepeyes.sh rollout  # with the same settings as train"
    try:
        engine = engine_of(base)
    except OSError as error:
        return [Finding("rollout server", Level.ERROR, f"nothing answers at {base}: {reason_of(error)}", mend)]
    if engine is None:
        text = f"what answers at {base} is no rollout server"
        return [Finding("rollout server", Level.ERROR, text, f"{mend}, ROLLOUT_PORT for both")]
    findings = []
    if engine["engine_type"] != "AsyncLLMEngine":
        text = f"{engine['engine_type']} at {base}; expected AsyncLLMEngine (--vllm_use_async_engine true)"
        findings.append(Finding("rollout server", Level.ERROR, text, mend))
    if not engine.get("enable_multi_turn"):
        findings.append(
            Finding("rollout server", Level.ERROR, f"no multi-turn scheduler at {base}: no tool runs", mend)
        )
    return [
        *(findings or [Finding("rollout server", Level.OK, f"multi-turn {engine['engine_type']} at {base}")]),
        *compare_rollout(plan, find_server(host, port), mend),
    ]


def find_server(host: str, port: int) -> Command | None:
    """Returns command line and environment of the process that listens on a port here, if we may see it."""
    try:
        if host not in ("127.0.0.1", "localhost", "0.0.0.0", socket.gethostname()):  # noqa: S104 - compared, not bound
            return None
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                process = psutil.Process(connection.pid)
                return Command(process.environ(), parse_command(process.cmdline()).options)
    except (psutil.Error, OSError):
        pass
    return None


def compare_rollout(plan: Plan, server: Command | None, mend: str) -> list[Finding]:
    """Compares settings of the rollout server with those that this environment would give it."""
    names = ", ".join((*SHARED_OPTIONS, *SHARED_VARIABLES[:1]))
    if server is None or "multi_turn_scheduler" not in server.options:
        text = f"not known: the server does not tell {names}, and its process is not to be seen from here"
        return [Finding("rollout settings", Level.WARNING, text, "start both with the same variables, see deepeyes.sh")]
    ours = {**os.environ, **plan.rollout.environment}
    pairs = {name: (server.get(name), plan.rollout.get(name)) for name in SHARED_OPTIONS}
    pairs |= {name: (server.environment.get(name, ""), ours.get(name, "")) for name in SHARED_VARIABLES}
    for name in ("max_turns", "max_pixels", *TEMPLATE_OPTIONS):
        pairs[name] = (server.get(name), plan.train.get(name))
    if server.number("vllm_max_model_len", 0) > plan.rollout.number("vllm_max_model_len", 0):
        del pairs["vllm_max_model_len"]  # more room does no harm
    differ = [
        f"{name} is {there or 'unset'} there, {here or 'unset'} here"
        for name, (there, here) in pairs.items()
        if there != here
    ]
    if differ:
        return [Finding("rollout settings", Level.ERROR, "; ".join(differ), mend)]
    return [Finding("rollout settings", Level.OK, f"{names} are the trainer's")]
