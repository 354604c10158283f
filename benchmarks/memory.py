"""Peak memory of one call on Linux: the kernel's high-water mark, set back before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path


def level(key: str) -> float:
    """MiB of a line of /proc/self/status: VmRSS, VmHWM, RssAnon."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024


def trim() -> None:
    """Give what has been freed back to the kernel (glibc)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def extra_peak(run: Callable[[], object]) -> float:
    """MiB of resident memory that `run` needs at its worst moment, above what was there before."""
    trim()  # what earlier calls freed would otherwise be reused
    Path("/proc/self/clear_refs").write_text("5")
    before = level("VmRSS")
    run()
    return level("VmHWM") - before
