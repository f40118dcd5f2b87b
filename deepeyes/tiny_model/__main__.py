"""`python -m deepeyes.tiny_model DIRECTORY` builds a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deepeyes.tiny_model import build


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line words; those of the process by default.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description="Build a tiny Qwen2.5-VL checkpoint with random weights.")
    parser.add_argument("directory", type=Path, help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    options = parser.parse_args(arguments)
    try:
        directory = build(options.directory, seed=options.seed)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        print(f"tiny_model: {error}", file=sys.stderr)
        return 1
    print(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
