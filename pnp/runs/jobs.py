"""One job, one owner: what identifies a run, who works on it, and what is left to do for it."""

import fcntl
import hashlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pnp import files
from pnp.errors import UserError
from pnp.keys import NEUTRAL, original
from pnp.runs import directory, processes
from pnp.signals import listener

BEAT = 20.0  # seconds between signs of life
STALE = 300.0  # seconds without one after which an owner on another machine is given up
# What a run in the same folder must not find of the one before it.
LEFTOVERS = (
    "metrics.json", "run.json", "band.json", "alarms.json", "error.txt", "report.html",
    "checkpoints/*.ckpt",
)  # fmt: skip


class Busy(UserError):
    """Another process works on this job."""


def identity(config: Mapping[str, Any]) -> str:
    """A hash of every key of a resolved config that may change a number.

    >>> identity({"seed": 1, "run_dir": "a"}) == identity({"seed": 1, "run_dir": "b"})
    True
    >>> identity({"seed": 1}) == identity({"seed": 2})
    False
    """
    keys = {k: v for k, v in original(config).items() if not k.startswith(NEUTRAL)}
    text = json.dumps(keys, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_name(overrides: str) -> str:
    """A folder name from a job's overrides: no slash, never too long, never empty.

    >>> run_name("data.root=/a/b_seed=1")
    'data.root=-a-b_seed=1'
    """
    name = overrides.replace("/", "-")
    if len(name.encode()) > 200:
        name = f"{name.encode()[:180].decode(errors='ignore')}-{identity({'name': name})[:8]}"
    return name or "default"


class Lock:
    """The file `lock` in a run directory: there while its owner lives and touches it.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "lock"
        self.stop = threading.Event()

    def owner(self) -> str | None:
        """Who holds it, in words; None if nobody does, or nobody alive."""
        try:
            text, age = self.file.read_text(), time.time() - self.file.stat().st_mtime
        except OSError:
            return None
        try:
            owner = json.loads(text)
        except ValueError:  # being written, or its machine died while writing
            return "a process that just started" if age < STALE else None
        return f"pid {owner['pid']} on {owner['host']}" if alive(owner, age) else None

    def acquire(self) -> bool:
        """Take it if nobody alive has it; call it inside `_alone`."""
        if self.owner() is not None:
            return False
        self.file.unlink(missing_ok=True)
        try:
            with self.file.open("x") as stream:
                json.dump(this_process(), stream)
        except FileExistsError:
            return False
        self.stop.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return True

    def release(self) -> None:
        """Give it back."""
        self.stop.set()
        self.file.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self.stop.wait(BEAT):
            with suppress(OSError):
                os.utime(self.file)


@dataclass
class Job:
    """A run directory that this process owns while the job is entered.

    Args:
        folder: the run directory.
        checkpoint: where to go on from; None starts anew.
        metrics: of a job that is finished already: nothing is to be done.
        lock: None on ranks other than 0.
    """

    folder: Path
    checkpoint: Path | None = None
    metrics: dict[str, float] | None = None
    lock: Lock | None = field(default=None, repr=False)

    def __enter__(self) -> "Job":
        listener.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if self.lock and isinstance(error, Exception):
                told = str(error) if isinstance(error, UserError) else traceback.format_exc()
                with suppress(OSError):
                    (self.folder / "error.txt").write_text(told)
            _finish_wandb(failed=error is not None)
        finally:
            listener.__exit__()
            if self.lock:
                self.lock.release()


def claim(cfg: Any, config: dict[str, Any]) -> Job:
    """Find the run directory of a job and take it.

    `resume` decides: `auto` looks in the run directory, then among its siblings, for the newest run
    of the same identity, and skips it when finished, goes on when not; a path goes on from there;
    false starts anew. null means auto for the jobs of a multirun and for a SLURM job that was
    requeued, and anew otherwise.

    Args:
        cfg: as Hydra composed it.
        config: the same as plain dicts, with `choices`.

    Raises:
        Busy: another process works on this job.
        UserError: `resume` names no checkpoint, or one of another config.
    """
    folder, resume = directory.run_directory(cfg), cfg.resume
    if resume is None and (directory.is_multirun() or int(os.getenv("SLURM_RESTART_COUNT") or 0)):
        resume = "auto"
    started_by_lightning = int(os.getenv("LOCAL_RANK") or 0) > 0
    if started_by_lightning or processes.started_outside()[0] > 0:
        made, folder = folder, processes.agreed(Path(os.getenv("PNP_RUN_DIR") or folder))
        _drop_empty(made, folder)
        return _plan(folder, config, resume, anew=False)
    with _alone(folder.parent):
        made, folder = folder, _find(folder, config, resume)
        lock = Lock(folder)
        if (owner := lock.owner()) is not None:
            raise Busy(
                f"{folder} is being written by {owner}. Wait for it, or give another "
                "hydra.run.dir=PATH."
            )
        directory.make(folder)
        _drop_empty(made, folder)
        job = _plan(folder, config, resume, anew=True)
        if job.metrics is None:
            lock.acquire()
            job.lock = lock
            for partial in folder.rglob("*.part"):
                partial.unlink(missing_ok=True)
            for name in ("error.txt", "metrics.json"):  # of this job's earlier life
                (folder / name).unlink(missing_ok=True)
            directory.save_config(folder, config)
            files.write_json(folder / "job.json", {"identity": identity(config)})
    processes.agreed(folder)
    os.environ["PNP_RUN_DIR"] = str(folder)  # for the ranks that Lightning starts
    return job


def _find(folder: Path, config: dict[str, Any], resume: Any) -> Path:
    """The directory where this job was begun, else one where it may begin."""
    if resume != "auto":
        return folder
    name = identity(config)
    if _identity_of(folder) == name:
        return folder
    begun = [p.parent for p in folder.parent.glob("*/job.json") if _identity_of(p.parent) == name]
    if begun:
        return max(begun, key=lambda p: (p / "job.json").stat().st_mtime)
    taken = directory.saved_config(folder)
    if taken is not None and directory.is_multirun() and identity(taken) != name:
        return folder.with_name(f"{folder.name}_{name[:6]}")
    return folder


def _plan(folder: Path, config: dict[str, Any], resume: Any, *, anew: bool) -> Job:
    """What is to be done in `folder`; `anew` clears away what an earlier run left."""
    if resume and resume != "auto":
        checkpoint = directory.find_checkpoint(str(resume))
        if anew:
            directory.load_checkpoint(checkpoint, config)  # before anything of it is overwritten
            if checkpoint.parents[1].resolve() != folder.resolve():
                _clear(folder)
        return Job(folder, checkpoint)
    old, last = directory.saved_config(folder), folder / "checkpoints" / "last.ckpt"
    if resume == "auto" and old is not None:
        if keys := directory.differences(old, config):
            raise UserError(
                f"{folder} holds a run of another config; these keys differ (there -> now):\n  "
                + "\n  ".join(keys)
                + "\nGive the same values, another hydra.run.dir=PATH, or resume=false to "
                "replace it."
            )
        finished = folder / "metrics.json"
        if finished.is_file() and identity(old) == identity(config):
            return Job(folder, metrics=json.loads(finished.read_text()))
        return Job(folder, last if last.is_file() else None)
    if anew:
        _clear(folder)
    return Job(folder, last if not anew and last.is_file() else None)


def _clear(folder: Path) -> None:
    for pattern in LEFTOVERS:
        for file in folder.glob(pattern):
            file.unlink()


def _drop_empty(made: Path, folder: Path) -> None:
    """Remove the directory that Hydra made when the run lives elsewhere."""
    if made.resolve() != folder.resolve():
        for path in (made / "checkpoints", made / "figures", made):
            with suppress(OSError):
                path.rmdir()


def _identity_of(folder: Path) -> str | None:
    try:
        return json.loads((folder / "job.json").read_text())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Only one process at a time chooses among the run directories of `parent`."""
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / ".choosing").open("w") as stream:
        with suppress(OSError):  # a file system without locks: the lock file alone must do
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def this_process() -> dict[str, Any]:
    """What tells this process from every other, for `alive`."""
    return {
        "pid": os.getpid(),
        "host": _host(),
        "started": _started(os.getpid()),
        "slurm": os.getenv("SLURM_JOB_ID"),
    }


def _host() -> str:
    """This machine and its numbering of processes: containers may share a name, but not that."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def alive(owner: dict[str, Any], age: float) -> bool:
    """Whether the process described by `this_process` still runs.

    Args:
        owner: its description.
        age: seconds since its last sign of life; what counts if it is on another machine.
    """
    if owner["host"] == _host():
        return (started := _started(owner["pid"])) is not None and started == owner["started"]
    # A requeued job keeps its number: the owner is our own earlier life on another node.
    if owner["slurm"] is not None and owner["slurm"] == os.getenv("SLURM_JOB_ID"):
        return False
    return age < STALE


def _started(pid: int) -> str | None:
    """When a process began, as the kernel counts it; None if there is none (a zombie is none)."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:  # no /proc: a number that was given again looks alive until its lock is stale
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _finish_wandb(*, failed: bool) -> None:
    """Close the W&B run: the next job of a sweep must not write into it."""
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=int(failed))
