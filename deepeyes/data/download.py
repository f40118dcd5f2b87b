"""The official files, downloaded by the hubs' own clients, and the files that a command line names."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from typing import TYPE_CHECKING

from deepeyes.dataset.official import HUBS, OFFICIAL
from deepeyes.dataset.reading import DATA_SUFFIXES, data_files, is_prepared
from deepeyes.dataset.writing import full_disk, require_room
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def find_files(paths: Sequence[Path], hub: str, may_create: Callable[[Path], bool]) -> list[Path]:
    """Returns the files to check: those named, and those in a folder.

    Missing official files are downloaded into a folder that is empty or holds one of them, unless `--out` wrote it.

    Args:
        paths: What the command line names.
        hub: A key of `HUBS`, or `none`.
        may_create: Tells whether a folder that does not exist is to be made, and the official files downloaded into it.

    Raises:
        DataFileError: A path is no data file, a folder does not exist, or a download failed.
    """
    files: list[Path] = []
    for path in paths:
        if path.suffix in DATA_SUFFIXES and path.is_file():
            files.append(path)
            continue
        if path.suffix in DATA_SUFFIXES or path.is_file():
            raise DataFileError(f"{path} is no file that ends in {', '.join(DATA_SUFFIXES)}; expected one, or a folder")
        if not path.is_dir() and not may_create(path):
            raise DataFileError(
                f"{path} does not exist{_nearest(path)}. To make it and download the official files into it, "
                f"{_total()}: bash deepeyes.sh data {shlex.quote(str(path))} --download"
            )
        files += _in_folder(path, hub)
    return list(dict.fromkeys(files))


def ask(path: Path) -> bool:
    """Asks on a terminal whether to make a folder and download into it; elsewhere the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(
        f"{path} does not exist. Make it and download the official files, {_total()}? [y/N] ", end="", file=sys.stderr
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _nearest(path: Path) -> str:
    """Returns the name beside a missing path that is most like it, as a question; nothing where none is."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    found = difflib.get_close_matches(path.name, beside, 1, 0.8)
    return f"; did you mean {path.parent / found[0]}?" if found else ""


def _total() -> str:
    return f"{sum(file.size for file in OFFICIAL.values()) / 1e9:.1f} GB"


def _in_folder(folder: Path, hub: str) -> list[Path]:
    there = data_files(folder)
    missing = [name for name in OFFICIAL if not (folder / name).is_file()]
    if not there or (missing and not any(map(is_prepared, there))):
        if there and len(missing) == len(OFFICIAL):
            told = f"{folder} holds own data, which is checked alone; name another folder for the official files"
            print(told, file=sys.stderr)
        else:
            download(folder, missing, hub)
    return data_files(folder)


def download(directory: Path, names: Sequence[str], hub: str) -> None:
    """Downloads official files with the hub's own client, which resumes what was interrupted.

    Raises:
        DataFileError: The disk has no room, or the client failed; whole files stay for the next attempt, and parts if
            the client goes on from them.
    """
    by_hand = f"Or put {', '.join(names)} into {directory} yourself."
    if hub == "none":
        raise DataFileError(f"{directory} lacks {', '.join(names)}; download them with --hub {' or '.join(HUBS)}")
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(max(0, OFFICIAL[name].size - arrived(directory, name, hub)) for name in names)
    require_room(directory, needed)
    print(f"downloading {len(names)} files, {needed / 1e9:.1f} GB, from {hub} into {directory}", file=sys.stderr)
    patterns = [f"*{name}" for name in names]
    try:
        if hub == "huggingface":
            from huggingface_hub import snapshot_download  # noqa: PLC0415 - only where it is used

            snapshot_download(HUBS[hub], repo_type="dataset", local_dir=directory, allow_patterns=patterns)
        else:
            from modelscope.hub.snapshot_download import dataset_snapshot_download  # noqa: PLC0415 - takes seconds

            dataset_snapshot_download(HUBS[hub], local_dir=str(directory), allow_patterns=patterns)
    except Exception as error:
        if isinstance(error, OSError) and (full := full_disk(error, directory, needed)):
            raise full from error
        other = next(name for name in HUBS if name != hub)
        raise DataFileError(
            f"the download from {hub} failed: {type(error).__name__}: {error}. Run the same command to resume, or try "
            f"--hub {other}. {by_hand}"
        ) from error
    for name in names:  # some repositories keep their files in a folder of their own
        place = next(directory.rglob(name), None)
        if place is None:
            offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") and hub == "huggingface" else ""
            raise DataFileError(f"{HUBS[hub]} on {hub} gave no {name}; is the hub in reach{offline}? {by_hand}")
        if place.parent != directory:
            place.rename(directory / name)


def arrived(directory: Path, name: str, hub: str) -> int:
    """Returns the bytes of an official file that an earlier download left and the hub's client goes on from.

    ModelScope's keeps a single stream in NAME.incomplete and parallel ones in NAME_START_END. Hugging Face's keeps
    HASH.SHA256.incomplete in its older versions; newer ones start a file anew.
    """
    patterns = {
        "modelscope": (f"{name}.incomplete", f"{name}_*"),
        "huggingface": (f"*.{OFFICIAL[name].sha256}.incomplete",),
    }
    return sum(part.stat().st_size for pattern in patterns[hub] for part in directory.rglob(pattern))
