"""The model: whether it is there, or could be fetched."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.doctor.findings import Finding, Level

if TYPE_CHECKING:
    from deepeyes.doctor.plan import Command

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_TIMEOUT = 3.0  # seconds to reach a hub
WEIGHTS = ("safetensors", "bin", "pt")
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def check_model(command: Command, variable: str) -> list[Finding]:
    """Tells whether a model is there.

    Args:
        command: The command that loads it.
        variable: The setting that names it.
    """
    name = command.get("model")
    folder, mend = Path(name).expanduser(), f"{variable}=/path/to/a/checkpoint"
    if not folder.exists():
        if not HUB_ID.fullmatch(name):
            found = f"{name!r} is neither a folder nor a hub id, which has the form OWNER/NAME"
            return [Finding("model", Level.ERROR, found, mend)]
        return [_check_hub(name, mend)]
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            merge = f"swift export --merge_lora true --adapters {folder}"
            return [Finding("model", Level.ERROR, f"{folder} is an adapter; expected a whole model", merge)]
        return [Finding("model", Level.ERROR, f"{folder} has no config.json", mend)]
    if not any(next(folder.glob(f"*.{kind}"), None) for kind in WEIGHTS):
        return [Finding("model", Level.ERROR, f"{folder} holds no weights", mend)]
    return [Finding("model", Level.OK, str(folder))]


def _check_hub(name: str, mend: str) -> Finding:
    """Looks for a model in the cache of the hub that swift asks, and then for the hub."""
    place, host = _cache_of(name)
    if place.exists():
        return Finding("model", Level.OK, f"{name} in {place}")
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True") and host == "huggingface.co":
        return Finding(
            "model", Level.WARNING, f"{name} is not in {place}, and HF_HUB_OFFLINE forbids fetching it", mend
        )
    if not any(os.environ.get(proxy) for proxy in PROXIES) and not _is_reachable(host):
        return Finding("model", Level.WARNING, f"{name} is not in {place}, and {host} can't be reached", mend)
    return Finding("model", Level.OK, f"{name}, which is downloaded from {host}")


def _cache_of(name: str) -> tuple[Path, str]:
    """Returns where swift keeps a model, and the host that it comes from."""
    home = Path.home() / ".cache"
    if os.environ.get("USE_HF") in ("1", "true", "True"):
        base = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or home / "huggingface") / "hub")
        return base / f"models--{name.replace('/', '--')}", "huggingface.co"
    base = Path(os.environ.get("MODELSCOPE_CACHE") or home / "modelscope" / "hub")
    return base / "models" / name.replace(".", "___"), "www.modelscope.cn"


def _is_reachable(host: str) -> bool:
    try:
        with socket.create_connection((host, 443), timeout=HUB_TIMEOUT):
            return True
    except OSError:
        return False
