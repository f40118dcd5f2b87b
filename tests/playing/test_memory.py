"""What large blocks leave goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from deepeyes.playing.memory import give_back_large_blocks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "fixed":
    assert give_back_large_blocks()
bytearray(30 << 20)  # freed: glibc takes blocks of such a size from its heap from now on
before = resident()
kept = []
for _ in range(4):
    large = bytearray(b"x") * (20 << 20)
    kept.append(bytearray(b"y") * (100 << 10))  # lives above it
    del large
print((resident() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_block_is_given_back_though_a_small_one_was_taken_after_it() -> None:
    left = {
        side: int(subprocess.check_output([sys.executable, "-c", PROGRAM, side], cwd=ROOT, text=True))
        for side in ("fixed", "as it comes")
    }
    assert left["fixed"] < 5
    assert left["as it comes"] > 15
