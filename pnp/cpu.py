"""The CPU: cores of this process, waiting threads that sleep, malloc that reuses freed memory."""

import ctypes
import math
import os
import shutil
import sys
from pathlib import Path

SPINS = "1000"  # about as long as it takes to sleep and wake up
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def cores() -> int:
    """Count the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shared_memory(place: Path = Path("/dev/shm")) -> float:
    """Bytes free for what processes hand to each other; infinite outside Linux, which has no file.

    Containers often have little (Docker: 64 MB) or none; a process that writes more is killed.
    """
    if sys.platform != "linux":
        return math.inf
    return shutil.disk_usage(place).free if os.access(place, os.W_OK) else 0


def sleep_at_barriers() -> None:
    """Make OpenMP's threads sleep soon when they wait for each other; call before torch starts.

    A thread that waits at the end of a loop looks again and again, by libgomp's default 300,000
    times, which is 20 ms where a pause takes 140 cycles. Alone on the machine the others come in
    microseconds. Where another process has their core, the waiting thread takes the time that they
    need, at every loop: training comes to a tenth of its speed (benchmarks/RESULTS.md). Numbers are
    the same either way. A variable of the user's own is left alone.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"  # for Intel's and LLVM's runtime, too
        os.environ["GOMP_SPINCOUNT"] = SPINS


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
