"""The C library's allocator, told to keep what one training step frees: the next wants it again."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have glibc reuse freed memory instead of giving it back to the kernel.

    By default every large tensor of a step gets fresh pages, which the kernel clears one by one: a
    CPU trains 1.2 to 1.5 times as fast without (benchmarks/RESULTS.md). The process then stays as
    large as it has ever been.

    Returns:
        Whether it was done: not on another C library, nor where a variable MALLOC_… says that
        somebody has settings of their own.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, Windows, musl
        return False
    return bool(mallopt(TRIM_THRESHOLD, -1) and mallopt(MMAP_MAX, 0))
