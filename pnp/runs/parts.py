"""Config to the objects of a run: data, LightningModule, trainer, callbacks, loggers, hardware."""

import logging
import os
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp import auto
from pnp.errors import UserError, choice, number, whole
from pnp.keys import upgrade
from pnp.results import of_student
from pnp.runs.config import build, check_call, checked, mapping

if TYPE_CHECKING:
    import torch
    from lightning import Trainer

    from pnp.data import DataModule
    from pnp.method import SelfSupervised


TRUE = ("1", "true", "yes", "on")  # of WANDB_DISABLED
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "32", "16", "bf16")
# Keys of Lightning's Trainer that are not the user's, and what to use in their place.
OURS = {
    "default_root_dir": "the run directory is run_dir=PATH",
    "logger": "use logger=csv for metrics.csv alone, or wandb, tensorboard, mlflow, trackio",
    "callbacks": "they are the section callbacks, as in callbacks.monitor.every_n_epochs=2",
    "log_every_n_steps": "use method.log_every=10",
    "enable_model_summary": "the first line of a run counts the parameters",
    "enable_checkpointing": "leave checkpoints out with ~callbacks.checkpoints",
    "num_sanity_val_steps": "there is no validation loop; the monitor measures validation",
    "use_distributed_sampler": "the images are dealt to the processes by pnp-train",
}


def parts(config: dict[str, Any]) -> tuple["DataModule", "SelfSupervised", Any]:
    """Data, LightningModule, and an untrained copy of its backbone, from a plain config."""
    from pnp.backbones import backbone
    from pnp.networks import head, projector

    config = upgrade(config)
    method = dict(config["method"])
    data = build(config["data"], "data")
    views = build(config["views"], "views", size=data.size, mean=data.mean, std=data.std)
    model = {**config["model"], "in_channels": data.channels, "image_size": data.size}
    mlp = mapping("model.projector", model.pop("projector", None))
    mlp |= mapping("method.projector", method.pop("projector", None) or {})
    net = checked(backbone, "model", model)
    initial = deepcopy(net)
    on_top = method.pop("head", None)
    if on_top is not None:
        on_top = mapping("method.head", on_top)
    data.global_batch = method.pop("global_batch", None)
    if data.global_batch is not None:
        whole("method.global_batch", data.global_batch, 2)
    last = choice("method.channels_last", method["channels_last"], (True, False, "auto"))
    module = build(
        method,
        "method",
        backbone=net,
        projector=checked(projector, "model.projector", {"dim": net.dim, **mlp}),
        objective=build(config["objective"], "objective"),
        views=views,
        optim=build(config["optim"], "optim"),
        head=None
        if on_top is None
        else checked(head, "method.head", {**on_top, "dim": mlp["out"]}),
        predicts=on_top is not None and on_top["kind"] == "predictor",
        micro_batch=data.batch_size if data.global_batch else None,
        seed=config["seed"],
        channels_last=last is not False,
    )
    return data, module, initial


def build_trainer(config: dict[str, Any], folder: Path, data: "DataModule") -> "Trainer":
    """Lightning's Trainer with our loggers and callbacks; `data` decides `max_epochs=auto`."""
    import lightning
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from rich.console import Console

    from pnp.callbacks.progress import EpochLines, Progress

    options = dict(config["trainer"])
    for key, instead in OURS.items():
        if key in options:
            raise UserError(f"trainer.{key} is set by pnp-train itself: {instead}.")
    terminal = bool(options.pop("enable_progress_bar", True)) and Console().is_terminal
    known = {k: v for k, v in options.items() if v != "auto" and k != "tf32"}
    check_call(lightning.Trainer, known, "trainer")
    if options["max_epochs"] == "auto":
        options["max_epochs"] = auto.epochs(_steps_per_epoch(options, data))
    for key, least in (("max_epochs", -1), ("max_steps", -1), ("accumulate_grad_batches", 1)):
        if options[key] is not None:
            whole(f"trainer.{key}", options[key], least)
        if options[key] == 0:
            raise UserError(f"trainer.{key}=0 trains nothing: give 1 or more, or -1 for no limit.")
    if options.get("gradient_clip_val") is not None:
        number("trainer.gradient_clip_val", options["gradient_clip_val"], 0)
    options["accelerator"], options["precision"] = hardware(
        options["accelerator"], options["precision"]
    )
    torch.backends.cudnn.allow_tf32 = choice(
        "trainer.tf32", options.pop("tf32", True), (True, False)
    )
    if options.get("sync_batchnorm") == "auto":
        options["sync_batchnorm"] = options["accelerator"] != "cpu"
    if options.get("sync_batchnorm") and options["accelerator"] == "cpu":
        raise UserError(
            "trainer.sync_batchnorm=true: torch synchronises BatchNorm between GPUs only. On a CPU "
            "leave it at auto: each process then normalises its own share of the batch."
        )
    if options["accelerator"] == "cpu" and options["devices"] != "auto":
        whole("trainer.devices", options["devices"])  # of a CPU: processes
    callbacks = [*_callbacks(config, folder), Progress() if terminal else EpochLines()]
    try:
        with warnings.catch_warnings():
            ignore_known_warnings()
            return lightning.Trainer(
                **options,
                default_root_dir=folder,
                callbacks=callbacks,
                logger=loggers(config, folder, dummy=bool(options.get("fast_dev_run"))),
                log_every_n_steps=1,  # the module decides what is logged when
                enable_model_summary=False,
                enable_checkpointing="checkpoints" in (config["callbacks"] or {}),
                enable_progress_bar=terminal,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,  # our loader shards by itself
            )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"trainer: {error}") from error


def _steps_per_epoch(options: dict[str, Any], data: "DataModule") -> int:
    """Optimizer steps per epoch, before the processes of the trainer exist."""
    images = data.global_batch or data.batch_size
    if not data.global_batch:
        for key in ("devices", "num_nodes"):
            images *= count if isinstance(count := options.get(key), int) and count > 0 else 1
    return len(data.pretrain) // (images * (options["accumulate_grad_batches"] or 1))


def _callbacks(config: dict[str, Any], folder: Path) -> list[Any]:
    nodes = config["callbacks"] or {}
    extra: dict[str, dict[str, Any]] = {
        "checkpoints": {"folder": folder / "checkpoints", "config": config},
        "monitor": {"alarms": folder / "alarms.json"},
    }
    if "checkpoints" in nodes and config["method"].get("teacher", "ema") != "ema":
        extra["checkpoints"]["monitor"] = of_student(nodes["checkpoints"]["monitor"])
    return [build(node, f"callbacks.{name}", **extra.get(name, {})) for name, node in nodes.items()]


def hardware(
    accelerator: str, precision: str | int | None, section: str = "trainer."
) -> tuple[str, Any]:
    """Resolve `auto`, and refuse a GPU that is not there.

    bf16 autocast is chosen where the hardware multiplies bf16: CUDA GPUs since Ampere, CPUs with
    AVX512-BF16 or AMX. `section` is where the keys stand, for messages.
    """
    import torch

    gpu = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not gpu:
        raise UserError(
            f"{section}accelerator={accelerator}, but torch {torch.__version__} sees no CUDA GPU. "
            f"Check nvidia-smi and the installed torch build, or use {section}accelerator=cpu."
        )
    choice(f"{section}accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    if str(precision) not in PRECISIONS:
        raise UserError(
            f"{section}precision={precision}: weights, teacher and statistics are kept in 32 bits. "
            f"Use bf16-mixed or 32-true; {', '.join(PRECISIONS)} are possible."
        )
    if accelerator == "auto":
        accelerator = "gpu" if gpu else "cpu"
    if precision != "auto":
        return accelerator, precision
    if accelerator == "cpu":
        able = torch.cpu.get_capabilities()
        fast = able.get("avx512_bf16") or able.get("amx_bf16")
    else:
        fast = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return accelerator, "bf16-mixed" if fast else "32-true"


def placement(
    accelerator: str, precision: str | int | None, section: str = "trainer."
) -> tuple["torch.device", str, Callable[[], Any]]:
    """Device, precision and autocast context of work outside a Trainer; see `hardware`."""
    import torch

    accelerator, precision = hardware(accelerator, precision, section)
    device = torch.device("cuda" if accelerator in ("gpu", "cuda") else accelerator)
    known = ("32-true", "bf16-mixed", "16-mixed")
    choice(f"{section}precision", {"32": "32-true"}.get(str(precision), precision), known)
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(precision))
    return device, str(precision), partial(torch.autocast, device.type, kind, kind is not None)


def loggers(config: dict[str, Any], folder: Path, *, dummy: bool = False) -> list[Any]:
    """CSV always, beside it what `logger=` says; a sweep's jobs make one W&B group."""
    from pnp.loggers.csv import CSVLog

    chosen: list[Any] = [CSVLog(folder)]
    options = dict(config.get("wandb") or {})
    # W&B's own variables do what they do everywhere: they win over the configuration.
    given = os.environ.get("WANDB_MODE", "").replace("dryrun", "offline")
    given = "disabled" if os.environ.get("WANDB_DISABLED", "").lower() in TRUE else given
    if options and given:
        options["mode"] = given
    if options and options.get("mode") != "disabled" and not dummy:
        from pnp.loggers.wandb import WandbLog
        from pnp.runs import directory

        if directory.is_multirun():
            job = directory.hydra_job()
            options["name"] = options.get("name") or job.job.override_dirname
            options["group"] = options.get("group") or Path(job.sweep.dir).name
            if "WANDB_SWEEP_ID" not in os.environ:  # one id for all jobs would mix them up
                os.environ.pop("WANDB_RUN_ID", None)
        facts = {"folder": folder, "config": {**config, "commit": directory.commit()}}
        chosen.append(checked(WandbLog, "wandb", {**options, **facts}))
    if config.get("logger") and not dummy:
        from pnp.loggers.trackers import tracker

        facts = {"folder": folder, "config": config}
        chosen.append(checked(tracker, "logger", {**config["logger"], **facts}))
    return chosen


def quieten() -> None:
    """Lightning's banners say what our first line says."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Says which process died, when one did.
    launcher = "lightning.fabric.strategies.launchers.subprocess_script"
    logging.getLogger(launcher).setLevel(logging.INFO)


def ignore_known_warnings() -> None:
    """Notices that do not apply here, each for a reason."""
    ignore = partial(warnings.filterwarnings, "ignore")
    ignore(message=".*does not have many workers.*")  # resident data needs none
    ignore(message=".*exists and is not empty.*")  # resuming is the point
    ignore(message=".*LeafSpec.*")  # torch's own pytree notice
    ignore(message=".*`srun` command is available.*")  # one process on a machine with SLURM
    ignore(message=".*sync_dist=True.*")  # all ranks log what rank 0 measured
