"""The CPU: cores of this process, and malloc that reuses freed memory across training steps."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def cores() -> int:
    """Count the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of giving it back to the kernel.

    By default every large tensor of a step gets fresh pages, which the kernel clears one by one: a
    CPU trains 1.2 to 1.5 times as fast without (benchmarks/RESULTS.md). The process then stays as
    large as it has ever been.

    Returns:
        True if done; False with another C library, or where a variable MALLOC_… is set, which
        means that the user has chosen already.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, Windows, musl
        return False
    return bool(mallopt(TRIM_THRESHOLD, -1) and mallopt(MMAP_MAX, 0))
