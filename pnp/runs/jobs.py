"""One job, one owner: the identity of a run, its lock, and what is left to do for it."""

import hashlib
import json
import os
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp import files, locks
from pnp.errors import UserError
from pnp.keys import NEUTRAL, original
from pnp.results import PARTIAL
from pnp.runs import directory, processes
from pnp.signals import listener

if TYPE_CHECKING:
    from filelock import SoftFileLease

# Files of an earlier run that a new one in the same folder must not find.
LEFTOVERS = (
    "metrics.json", "run.json", "band.json", "alarms.json", "error.txt", "report.html",
    "gaps.json", "metrics.partial.json",
    "checkpoints/*.ckpt", "tensorboard/events.*",
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
    if len(name.encode()) > 100:
        name = f"{name.encode()[:80].decode(errors='ignore')}-{identity({'name': name})[:8]}"
    return name or "default"


@dataclass
class Job:
    """A run directory that this process owns while the job is entered.

    Args:
        folder: the run directory.
        checkpoint: checkpoint to resume from; None starts anew.
        metrics: of a job that is already finished: nothing is left to do.
        lock: None on ranks other than 0, and of a finished job.
    """

    folder: Path
    checkpoint: Path | None = None
    metrics: dict[str, float] | None = None
    lock: "SoftFileLease | None" = field(default=None, repr=False)

    def __enter__(self) -> "Job":
        listener.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if self.lock and isinstance(error, Exception):
                text = str(error) if isinstance(error, UserError) else traceback.format_exc()
                with suppress(OSError):
                    files.write_text(self.folder / "error.txt", text)
        finally:
            listener.__exit__()
            if self.lock:
                self.lock.release()


def claim(folder: Path, config: dict[str, Any]) -> Job:
    """Find the run directory of a job and lock it.

    `resume` decides. `auto` looks in the run directory, then among its siblings, for the newest run
    of the same identity; a finished one is skipped, another one resumed. A path is resumed from.
    false starts anew. null means auto for the jobs of a multirun and for a requeued SLURM job, and
    anew otherwise.

    Raises:
        Busy: another process works on this job.
        UserError: `resume` names no checkpoint, or one of another config.
    """
    resume = config["resume"]
    if resume is None and (directory.is_multirun() or processes.slurm_life()[1]):
        resume = "auto"
    started_by_lightning = int(os.getenv("LOCAL_RANK") or 0) > 0
    if started_by_lightning or processes.started_outside()[0] > 0:
        shared = processes.agreed(Path(os.getenv("PNP_RUN_DIR") or folder))
        directory.remove_empty(folder, shared)
        return _plan(shared, config, resume, anew=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.lease(folder.parent / ".claim"):  # one process at a time looks among the siblings
        own, folder = folder, _find(folder, config, resume)
        directory.make(folder)
        directory.remove_empty(own, folder)
        lock = _lock(folder)
        try:
            job = _plan(folder, config, resume, anew=True)
            if job.metrics is None:
                _prepare(folder, config)
                job.lock = lock
            else:
                lock.release()
        except BaseException:
            lock.release()
            raise
    processes.agreed(folder)
    os.environ["PNP_RUN_DIR"] = str(folder)  # for the ranks that Lightning starts
    return job


def _lock(folder: Path) -> "SoftFileLease":
    """The lock of a run directory, acquired."""
    lock = locks.lease(folder / "lock")
    if processes.is_earlier_life(_record(folder).get("slurm")):
        lock.force_break()  # held on another node: nobody there renews it, and nobody waits for it
    if (owner := locks.acquire(lock)) is not None:
        raise Busy(
            f"{folder} is being written by {owner}. Wait for it, or give another "
            "hydra.run.dir=PATH."
        )
    return lock


def _prepare(folder: Path, config: dict[str, Any]) -> None:
    """Remove what an earlier life of this job left half-done, and say whose directory it is."""
    for part in folder.rglob(f"*{files.PART}"):
        part.unlink(missing_ok=True)
    for name in ("error.txt", "metrics.json"):
        (folder / name).unlink(missing_ok=True)
    directory.save_config(folder, config)
    record = {"identity": identity(config), "slurm": processes.slurm_life()}
    files.write_json(folder / "job.json", record)


def _find(folder: Path, config: dict[str, Any], resume: Any) -> Path:
    """The directory where this job was begun, else one where it may begin."""
    if resume != "auto":
        return folder
    name = identity(config)
    if _record(folder).get("identity") == name:
        return folder
    begun = [
        p for p in folder.parent.glob("*/job.json") if _record(p.parent).get("identity") == name
    ]
    if begun:
        return max(begun, key=lambda p: p.stat().st_mtime).parent
    taken = directory.saved_config(folder)
    if taken is not None and directory.is_multirun() and identity(taken) != name:
        return folder.with_name(f"{folder.name}_{name[:6]}")
    return folder


def _plan(folder: Path, config: dict[str, Any], resume: Any, *, anew: bool) -> Job:
    """Work left to do in `folder`; `anew` removes what an earlier run left there."""
    if resume and resume != "auto":
        checkpoint = directory.find_checkpoint(str(resume))
        if anew:
            directory.load_checkpoint(checkpoint, config)  # before anything of it is overwritten
            if checkpoint.resolve().parent.parent != folder.resolve():
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
        # The partial ones stay until all else is there, too: report, decider, what W&B gets.
        ended = finished.is_file() and not (folder / PARTIAL).exists()
        if ended and identity(old) == identity(config):
            return Job(folder, metrics=files.read_json(finished))
        return Job(folder, last if last.is_file() else None)
    if anew:
        _clear(folder)
    return Job(folder, last if not anew and last.is_file() else None)


def _clear(folder: Path) -> None:
    for pattern in LEFTOVERS:
        for file in folder.glob(pattern):
            file.unlink()


def _record(folder: Path) -> dict[str, Any]:
    """The `job.json` of a run directory; empty where there is none to be read."""
    try:
        return files.read_json(folder / "job.json", dict, {})
    except UserError:
        return {}
