"""The run directory: its place, its configuration, its checkpoints, its provenance."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp import files
from pnp.errors import UserError
from pnp.keys import BESIDE_TRAINING, NEUTRAL, original, upgrade

if TYPE_CHECKING:
    from pnp.data import DataModule
    from pnp.weights import Fit


# A run goes on with larger ones: its schedule is then that of the longer run.
LENGTH = ("trainer.max_epochs", "trainer.max_steps")
# Entries of every checkpoint, those that a resumed run needs beside them, and their types.
STATE = {"state_dict": dict, "config": dict, "global_step": int}
PROGRESS = {
    "epoch": int, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list,
}  # fmt: skip


def run_directory(cfg: Any) -> Path:
    """Make and return the directory of this run: `run_dir`, else Hydra's run directory."""
    job = hydra_job()
    if cfg.get("run_dir"):
        path = Path(str(cfg.run_dir))
        if job is not None and "output_dir" in job.runtime:
            remove_empty(Path(job.runtime.output_dir), path)
    elif job is not None:
        path = Path(job.runtime.output_dir)
    elif "hydra" in cfg:
        path = Path(cfg.hydra.run.dir)
    else:
        raise UserError("run_dir is null outside of Hydra: set run_dir=PATH.")
    make(path)
    return path


def remove_empty(own: Path, folder: Path) -> None:
    """Remove the directory that Hydra made for us when the run lives in another one."""
    if own.resolve() != folder.resolve():
        for path in (own / "checkpoints", own / "figures", own):
            with suppress(OSError):  # not there, or something else is in it
                path.rmdir()


def make(path: Path) -> None:
    """Make a run directory.

    Raises:
        UserError: it cannot be written.
    """
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        (path / "figures").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the run directory {path}: {error.strerror}. Set hydra.run.dir=PATH."
        ) from error


def hydra_job() -> Any:
    """Hydra's own section of the configuration; None where Hydra does not run us."""
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get() if HydraConfig.initialized() else None


def is_multirun() -> bool:
    """Tell whether this is one job of `-m`, in whatever process it runs."""
    job = hydra_job()
    return job is not None and job.mode is not None and job.mode.name == "MULTIRUN"


def in_multirun() -> bool:
    """Tell whether this is one job of `-m`, in the process that runs all of them."""
    return is_multirun() and "submitit" not in str(hydra_job().launcher.get("_target_", ""))


def overrides() -> list[str]:
    """The words of the command line that set keys, where Hydra runs us."""
    job = hydra_job()
    return [] if job is None else list(job.overrides.task)


def choices() -> dict[str, str]:
    """The option chosen in each config group, where Hydra runs us."""
    job = hydra_job()
    groups = {} if job is None else job.runtime.choices
    return {
        str(k): str(v) for k, v in groups.items() if "/" not in str(k) and v not in (None, "null")
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old -> new` for every key that matters and differs."""
    a, b = original(old), original(new)
    free = (*NEUTRAL, *BESIDE_TRAINING, *(LENGTH if extends(old, new) else ()))
    return [
        f"{key}: {a.get(key, 'absent')} -> {b.get(key, 'absent')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not key.startswith(free)
    ]


def extends(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Tell whether `new` is `old` with more epochs or steps, and nothing else."""
    a, b = original(old), original(new)
    longer = [key for key in LENGTH if a.get(key) != b.get(key)]
    return bool(longer) and all(_longer(a.get(key), b.get(key)) for key in longer)


def _longer(old: object, new: object) -> bool:
    """Tell whether a limit was raised or lifted; -1 and null are no limit."""
    if not isinstance(new, int) or new < 0:
        return new != "auto"
    return old == "auto" or (isinstance(old, int) and 0 <= old < new)


def saved_config(folder: Path) -> dict[str, Any] | None:
    """The `config.yaml` of a run directory; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    file = folder / "config.yaml"
    return files.read_yaml(file) if file.is_file() else None


def save_config(folder: Path, config: dict[str, Any]) -> None:
    """Write `config.yaml`."""
    from omegaconf import OmegaConf

    files.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))


def find_checkpoint(path: str | Path, key: str = "resume") -> Path:
    """The checkpoint file of a path: a run directory or a checkpoint. `key` is for the message.

    Raises:
        UserError: the path has no checkpoint.
    """
    path = Path(str(path))  # a name of digits comes as a number
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{key}={path}: found no checkpoint at {file}. Give a run directory of pnp-train or a "
            ".ckpt file."
        )
    return file


def load_checkpoint(file: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a checkpoint safely (`weights_only=True`), and check that it belongs to `config`.

    Raises:
        UserError: not a readable checkpoint of this program, or one of another config: the message
            names the keys that differ.
    """
    from pnp import weights

    try:
        checkpoint = weights.read(file, "checkpoint")
    except UserError as error:
        raise UserError(f"{error} It is not a checkpoint of pnp-train.") from error
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    needed = STATE if config is None else STATE | PROGRESS
    lacking = [key for key, kind in needed.items() if not isinstance(entries.get(key), kind)]
    if lacking:
        raise UserError(
            f"{file} is not a checkpoint of pnp-train: it lacks {', '.join(lacking)}. "
            "Weights alone are evaluated with pnp-evaluate backbone=NAME state_dict=FILE."
        )
    checkpoint["config"] = upgrade(checkpoint["config"])
    if config is not None and (keys := differences(checkpoint["config"], config)):
        raise UserError(
            f"{file} belongs to another config; these keys differ (checkpoint -> now):\n  "
            + "\n  ".join(keys)
            + "\nGive the same values, or start a new run without resume."
        )
    return checkpoint


def refuse_misfit(file: Path, found: "Fit") -> None:
    """Refuse a checkpoint whose weights are not all those of the run's networks.

    Raises:
        UserError: says what fits and what does not, on one screen.
    """
    if not found.whole:
        raise UserError(
            f"{file} does not fit the networks of its configuration:\n{found.describe()}\n"
            "It is of another version, or was changed. Its weights are evaluated with pnp-evaluate "
            f"backbone=NAME state_dict={file}."
        )


def check_splits(
    file: Path,
    checkpoint: Mapping[str, Any],
    data: "DataModule",
    instead: str = "train again with resume=false",
) -> None:
    """Refuse other images than those that a checkpoint was trained, chosen and judged on.

    Args:
        file: the checkpoint.
        checkpoint: its content; one of an earlier version has its record in `splits.json`.
        data: there is now.
        instead: of putting the images back.

    Raises:
        UserError: names the splits that differ.
    """
    beside = file.resolve().parent.parent / "splits.json"
    then = checkpoint.get("splits") or files.read_json(beside, dict, {})
    changed = []
    for name, now in data.split_record().items():
        old = then.get(name, now)
        key = "content" if "content" in old and "content" in now else "digest"
        if old[key] != now[key]:
            counts = f"{old['count']:,} images then, {now['count']:,} now"
            same = old["count"] == now["count"]
            changed.append(f"{name} (as many images, but other ones)" if same else
                           f"{name} ({counts})")  # fmt: skip
    if changed:
        where = f" in {data.root}" if data.root else ""
        raise UserError(
            f"the images{where} are not those that {file} was trained on: {', '.join(changed)}. "
            "Images that it has learnt from could now be judged. Put them back as they were, or "
            f"{instead}."
        )


def check_images(run: Path, config: Mapping[str, Any], **words: str) -> None:
    """Refuse to take a run as done, or to compare with it, when its files have changed since.

    Args:
        run: its directory.
        config: of which the data are built; those that are no files of the user cannot change.
        words: `instead` of `check_splits`.

    Raises:
        UserError: names the splits that differ.
    """
    if any(config["data"].get(key) for key in ("root", "images")):
        from pnp.runs.config import build

        data = build(config["data"], "data")
        check_splits(run / "checkpoints" / "last.ckpt", {}, data, **words)


def provenance() -> dict[str, Any]:
    """Command, code and machine; call it when the run starts, while the code is what it runs."""
    import torch

    command = "train(cfg)"
    if "pnp-train" in sys.argv[0]:
        command = " ".join(["pnp-train", *sys.argv[1:]])
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "commit": commit(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}" + (f", {gpu}" if gpu else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str | None:
    """The commit of the checkout this code runs from, marked when modified; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed as a package: any repository around is not ours
        return None
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
