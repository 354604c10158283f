"""Several processes of one run: who started them, and one run directory for all."""

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pnp import files
from pnp.errors import UserError


def started_outside(env: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, processes) as torchrun or srun started us; (0, 1) if neither did.

    >>> started_outside({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "pnp"})
    (3, 8)
    >>> started_outside({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "bash"})
    (0, 1)
    """
    if "TORCHELASTIC_RUN_ID" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"])
    # A shell inside an allocation has the variables too, but is alone.
    if "SLURM_PROCID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return int(env["SLURM_PROCID"]), int(env.get("SLURM_NTASKS", "1"))
    return 0, 1


def slurm_life() -> tuple[str | None, int]:
    """The SLURM job that this process belongs to, None if it does not, and its requeues so far."""
    return os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def is_earlier_life(life: Sequence[Any] | None) -> bool:
    """Tell whether `slurm_life` of another process is this job before it was requeued."""
    job, requeues = slurm_life()
    return life is not None and job is not None and life[0] == job and life[1] < requeues


def check(trainer: Mapping[str, Any], multirun: bool) -> None:
    """Refuse processes that would hang or train the wrong thing.

    Args:
        trainer: the config's section.
        multirun: this is one job of `-m`, in the process that runs all of them.

    Raises:
        UserError: several processes inside a multirun, or not as many as the trainer expects.
    """
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    if "SLURM_NTASKS" in os.environ and "SLURM_PROCID" not in os.environ:
        # A shell of salloc, whatever its name: Lightning knows one by these names only.
        os.environ["SLURM_JOB_NAME"] = "interactive"
    _, world = started_outside()
    if isinstance(nodes, int) and nodes > 1 and world == 1 and "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={nodes}, but nothing says where the others are: start it on every "
            "node with torchrun --nnodes or srun."
        )
    several = world > 1 or (isinstance(devices, int) and devices > 1)
    if multirun and several:
        raise UserError(
            f"trainer.devices={devices} inside a multirun: the processes of a job would run the "
            "whole sweep again. Start one pnp-train per job (a shell loop, or "
            "hydra/launcher=submitit_slurm, where each job has its own processes), or sweep with "
            "trainer.devices=1."
        )
    counted = isinstance(devices, int) and isinstance(nodes, int)
    if world > 1 and counted and devices * nodes != world:
        if "SLURM_PROCID" in os.environ and "SLURM_STEP_NUM_TASKS" not in os.environ:
            raise UserError(
                f"SLURM_NTASKS={world}, but trainer.devices={devices} × trainer.num_nodes={nodes}. "
                f"Start one process here with: env -u SLURM_NTASKS -u SLURM_PROCID pnp-train …; or "
                f"all {world} with: srun pnp-train trainer=ddp trainer.devices={world} …"
            )
        raise UserError(
            f"{world} processes were started, but trainer.devices={devices} × "
            f"trainer.num_nodes={nodes} expects {devices * nodes}. Add trainer=ddp and the two "
            "numbers that multiply to it."
        )


def agreed(folder: Path, patience: float = 60.0) -> Path:
    """The run directory of rank 0, for every process that torchrun or srun started.

    Each of them has resolved `${now:…}` by itself, up to a second apart.

    Raises:
        UserError: rank 0 did not say within `patience` seconds.
    """
    rank, world = started_outside()
    if world == 1:
        return folder
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from pnp.distributed import broadcast_from_store

        return Path(broadcast_from_store("run_dir", str(folder)))
    # Rank 0 of srun writes it down beside the run directories, in a file named after the job step.
    keys = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    name = "-".join(os.environ.get(key, "0") for key in keys)
    note = folder.parent / f".run-{name}"
    if rank == 0:
        files.write_text(note, str(folder))
        return folder
    deadline = time.monotonic() + patience
    while not note.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"rank {rank} waited {patience:.0f} s for rank 0 to write {note}. Do all nodes see "
                "the same folder? Set run_dir=PATH on a shared file system."
            )
        time.sleep(0.05)
    return Path(files.read_text(note))


def end_with_parent(period: float = 5.0) -> None:
    """In a process that rank 0 started: end when rank 0 is gone, instead of waiting for it forever.

    Rank 0 ends the others when one of them dies; torchrun and srun look after their processes
    themselves.
    """
    parent = os.getppid()
    if started_outside()[1] > 1 or os.environ.get("LOCAL_RANK", "0") == "0":
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(period)
        print(f"rank 0 (process {parent}) is gone: this process ends too.", file=sys.stderr)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
