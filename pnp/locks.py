"""Locks between processes, on any file system they share: a lease that its holder renews."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import SoftFileLease

BEAT = 20.0  # seconds between two renewals
LEASE = 120.0  # seconds without a renewal after which others may take the lock


def lease(file: Path) -> "SoftFileLease":
    """A lock that exists as a file; entering it waits.

    On the same machine the lock of a dead process is free at once; on another one when it was not
    renewed for `LEASE` seconds. No locks of the file system are needed.
    """
    from filelock import SoftFileLease

    # Any thread may release it: the context is not the thread's that acquired it.
    return SoftFileLease(file, lease_duration=LEASE, heartbeat_interval=BEAT, thread_local=False)


def acquire(lock: "SoftFileLease") -> str | None:
    """Acquire a lock unless a living process holds it; that process in words, None if acquired.

    Waits only where the holder is silent: a lease is over when nobody renewed it while we looked.
    """
    from filelock import Timeout

    try:
        silent = time.time() - Path(lock.lock_file).stat().st_mtime > 2 * BEAT
    except OSError:
        silent = False
    try:
        lock.acquire(timeout=LEASE + BEAT if silent else 0.2)
    except Timeout:
        owner = lock.owner
        return (
            "a process that just started"
            if owner is None
            else f"pid {owner.pid} on {owner.hostname}"
        )
    return None
