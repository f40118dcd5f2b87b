"""Large blocks of memory go back to the system once they are free, and not into a heap that only grows.

glibc takes a block of more than 128 KiB from the system, but raises that limit up to 32 MiB when such a block is freed:
from then on the views and requests of 8K pictures come from the heap, where what is freed below anything that lives
stays. Three such pictures, played one after the other, left 600 MB behind; with a fixed limit they leave nothing.
"""

from __future__ import annotations

import ctypes
import sys

LARGE = 8 << 20  # bytes from which a block is one of its own; the system clears each, which takes time
M_MMAP_THRESHOLD = -3  # malloc.h of glibc


def give_back_large_blocks() -> bool:
    """Fixes the size from which a block comes from the system, for this process; tells whether that could be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE))
