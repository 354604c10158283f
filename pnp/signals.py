"""Signals that ask a run to stop: it saves, leaves, and tells the scheduler."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any, ClassVar

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# What SLURM (--signal=USR1@120) and submitit (USR2) send before the time is up: start me again.
REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """Stopped by a signal; the state is saved. Not an `Exception`: nothing may swallow it."""

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status that shells give it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


class Listener:
    """While entered, a signal raises `Interrupted`: at once, or where deferring code asks for it.

    `deferred` is set by code that must finish what it does first; it looks at `seen`. A second
    Ctrl-C does not wait. Listeners nest, and share `leaving`: when one has raised, what cleans up
    is not disturbed by a signal that the next one out receives.
    """

    leaving: ClassVar[bool] = False

    def __init__(self) -> None:
        self.seen, self.deferred = 0, False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Listener":
        self.seen, self.deferred, Listener.leaving = 0, False, False
        self.before = {number: signal.getsignal(number) for number in STOPPING}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        before, self.before, self.seen, self.deferred = self.before, {}, 0, False
        for number, handler in before.items():
            if handler is not None and _in_main_thread():
                signal.signal(number, handler)

    @property
    def raised(self) -> int:
        """The signal that `Interrupted` was raised for while this is entered; 0 for none."""
        return self.seen if Listener.leaving else 0

    def install(self) -> None:
        """Put our handler in place (again), if entered and in the main thread."""
        if self.before and _in_main_thread():
            for number in STOPPING:
                signal.signal(number, self.receive)

    def receive(self, signum: int, *_: object) -> None:
        """The handler."""
        impatient = signum == signal.SIGINT == self.seen
        self.seen = self.seen or signum
        if impatient or not (self.deferred or Listener.leaving):
            Listener.leaving = True
            raise Interrupted(signum)


# Signals belong to the process, and so does their listener.
listener = Listener()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def requeue(signum: int) -> None:
    """Once the state is saved: have a preempted SLURM job started again.

    Inside submitit its own handler does it; elsewhere `scontrol requeue`. Nothing happens for
    other signals, outside of SLURM, and on ranks other than 0.
    """
    if signum not in REQUEUE:
        return
    handler = signal.getsignal(signum)
    if callable(handler):
        handler(signum, None)
        return
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False
        )
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = f"scontrol: {error.strerror}"
    outcome = f"could not requeue: {problem}" if problem else "requeued"
    print(f"SLURM job {job}: {outcome}", file=sys.stderr)
