"""`pnp-train`: config -> data, network, trainer -> checkpoints, metrics.json, report.html."""

import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError

if TYPE_CHECKING:
    from lightning import Callback, Trainer

    from pnp.data import DataModule
    from pnp.method import SelfSupervised


def train(cfg: Any, watchers: Sequence["Callback"] = ()) -> dict[str, float]:
    """Train, evaluate and report one run, as the config says.

    Args:
        cfg: a composed `conf/train.yaml`.
        watchers: Lightning callbacks beside those of the config.

    Returns:
        The flat metrics of `metrics.json`: `test/<probe>/<network>`, `reference/<name>/<probe>`.

    Raises:
        UserError: anything about the input that cannot work.
        pnp.signals.Interrupted: stopped by a signal (Ctrl-C, SIGTERM, …); the state is saved.
    """
    from pnp.runs import directory, jobs, processes
    from pnp.runs.config import plain

    facts = directory.facts()
    processes.check(cfg.trainer, directory.in_multirun())
    processes.end_with_parent()
    config = {key: value for key, value in plain(cfg).items() if key != "hydra"}
    config["choices"] = directory.choices()
    job = jobs.claim(cfg, config)
    if job.metrics is not None:
        print(f"already finished: {job.folder}")
        return job.metrics
    with job:
        return fit(job.folder, job.checkpoint, config, facts, watchers)


def fit(
    folder: Path,
    checkpoint: Path | None,
    config: dict[str, Any],
    facts: dict[str, Any],
    watchers: Sequence["Callback"] = (),
) -> dict[str, float]:
    """Train in `folder`, from `checkpoint` on where there is one, and finish the run."""
    started = time.time()
    import lightning

    from pnp import files
    from pnp.cpu import keep_freed_memory
    from pnp.distributed import leave_at_exit
    from pnp.runs import directory

    _quieten()
    keep_freed_memory()
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    data, module, initial = parts(config)
    trainer = build_trainer(config, folder)
    trainer.callbacks.extend(watchers)  # pyright: ignore[reportAttributeAccessIssue]
    step = 0
    if checkpoint:
        step = int(directory.load_checkpoint(checkpoint, config)["global_step"])
    trainer.loggers[0].continue_from(step)  # pyright: ignore[reportAttributeAccessIssue]
    if trainer.is_global_zero:
        _announce(trainer, module, data, config, folder, step)
        files.write_json(folder / "splits.json", data.split_record())
    with warnings.catch_warnings():
        _ignore_known_warnings()
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    fitted = time.time()
    facts["training_seconds"] = round(fitted - started, 1)
    metrics = finish(folder, config, trainer, module, initial, data, facts)
    leave_at_exit()
    return metrics


def finish(
    folder: Path,
    config: dict[str, Any],
    trainer: "Trainer",
    module: "SelfSupervised",
    initial: Any,
    data: "DataModule",
    facts: dict[str, Any],
) -> dict[str, float]:
    """Judge the trained networks and write what a run leaves behind."""
    from pnp.evaluation import evaluate
    from pnp.runs.config import build

    started = time.time()
    protocol = build(config["evaluation"], "evaluation")
    setting = evaluate.Setting(
        data,
        module.views,
        trainer.strategy.root_device,
        module.memory_format,
        trainer.precision_plugin.forward_context,
        str(trainer.precision),
        folder / "features" if protocol.cache else None,
    )
    metrics = evaluate.judge(
        folder, module.networks, evaluate.references(protocol, initial), setting, protocol
    )
    if not trainer.is_global_zero:
        return {}
    facts["evaluation_seconds"] = round(time.time() - started, 1)
    facts["precision"] = str(trainer.precision)
    facts["splits"] = data.split_record()
    evaluate.write(folder, metrics, facts)
    for logger in trainer.loggers[1:]:
        logger.finish()  # pyright: ignore[reportAttributeAccessIssue]
    return metrics


def parts(config: dict[str, Any]) -> tuple["DataModule", "SelfSupervised", Any]:
    """Data, LightningModule, and an untrained copy of its backbone, from a plain config."""
    from pnp.backbones import backbone
    from pnp.networks import head, projector
    from pnp.runs.config import build, check_call

    method, objective = dict(config["method"]), dict(config["objective"])
    data = build(config["data"], "data")
    views = build(config["views"], "views", size=data.size, mean=data.mean, std=data.std)
    model = {**config["model"], "in_channels": data.channels, "image_size": data.size}
    mlp = {**model.pop("projector"), **(method.pop("projector", None) or {})}
    check_call(backbone, model, "model")
    net = backbone(**model)
    check_call(projector, {"dim": net.dim, **mlp}, "model.projector")
    initial = deepcopy(net)
    on_top = method.pop("head", None)
    data.global_batch = objective.pop("global_batch", None)
    last = method["channels_last"]
    if last not in (True, False, "auto"):
        raise UserError(f"method.channels_last={last!r}: choose auto, true or false.")
    module = build(
        method,
        "method",
        backbone=net,
        projector=projector(net.dim, **mlp),  # pyright: ignore[reportArgumentType]
        objective=build(objective, "objective"),
        views=views,
        optim=build(config["optim"], "optim"),
        head=None if on_top is None else head(dim=mlp["out"], **on_top),
        predicts=on_top is not None and on_top["kind"] == "predictor",
        micro_batch=data.batch_size if data.global_batch else None,
        seed=config["seed"],
        channels_last=last is not False,
    )
    return data, module, initial


def build_trainer(config: dict[str, Any], folder: Path) -> "Trainer":
    """Lightning's Trainer with our loggers and callbacks."""
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from pnp.callbacks.progress import EpochLines, Progress
    from pnp.runs.config import build, check_call

    options = dict(config["trainer"])
    check_call(lightning.Trainer, {k: v for k, v in options.items() if v != "auto"}, "trainer")
    for key, least in (("max_epochs", -1), ("max_steps", -1), ("accumulate_grad_batches", 1)):
        if options[key] is not None and options[key] < least:
            raise UserError(f"trainer.{key}={options[key]} must be at least {least}.")
    options["accelerator"], options["precision"] = hardware(
        options["accelerator"], options["precision"]
    )
    if options.get("sync_batchnorm") == "auto":
        options["sync_batchnorm"] = options["accelerator"] != "cpu"
    if options.get("sync_batchnorm") and options["accelerator"] == "cpu":
        raise UserError(
            "trainer.sync_batchnorm=true: torch synchronises BatchNorm between GPUs only. On a CPU "
            "leave it at auto: each process then normalises its own share of the batch."
        )
    watchers: list[Any] = []
    for name, node in (config["callbacks"] or {}).items():
        extra: dict[str, Any] = {}
        if name == "checkpoints":
            extra = {"folder": folder / "checkpoints", "config": config}
            if config["method"].get("teacher", "ema") != "ema":
                extra["monitor"] = node["monitor"].replace("teacher", "student")
        if name == "monitor":
            extra = {"alarms": folder / "alarms.json"}
        watchers.append(build(node, f"callbacks.{name}", **extra))
    from rich.console import Console

    watchers.append(Progress() if Console().is_terminal else EpochLines())
    quick = bool(options.get("fast_dev_run"))
    try:
        return lightning.Trainer(
            **options,
            default_root_dir=folder,
            callbacks=watchers,
            logger=loggers(config, folder, dummy=quick),
            log_every_n_steps=1,  # the module decides what is logged when
            enable_model_summary=False,
            enable_checkpointing=any(name == "checkpoints" for name in config["callbacks"] or {}),
            enable_progress_bar=Console().is_terminal,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # our loader shards by itself
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {error}") from error


def hardware(accelerator: str, precision: str | int | None) -> tuple[str, Any]:
    """Resolve `auto`, and refuse a GPU that is not there.

    bf16 autocast is chosen where the hardware multiplies bf16: CUDA GPUs since Ampere, CPUs with
    AVX512-BF16 or AMX.
    """
    import torch

    gpu = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not gpu:
        raise UserError(
            f"trainer.accelerator={accelerator}, but torch {torch.__version__} sees no CUDA GPU. "
            "Check nvidia-smi and the installed torch build, or use trainer.accelerator=cpu."
        )
    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise UserError(f"trainer.accelerator={accelerator!r} is unknown: choose auto, cpu or gpu.")
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


def loggers(config: dict[str, Any], folder: Path, *, dummy: bool = False) -> list[Any]:
    """CSV always, W&B beside it unless `logger=csv`; a sweep's jobs make one W&B group."""
    from hydra.core.hydra_config import HydraConfig

    from pnp.loggers.csv import CSVLog

    chosen: list[Any] = [CSVLog(folder)]
    options = dict(config.get("wandb") or {})
    if options and not dummy:
        from pnp.loggers.wandb import WandbLog
        from pnp.runs import directory
        from pnp.runs.config import check_call

        job = HydraConfig.get() if HydraConfig.initialized() else None
        if job is not None and job.mode is not None and job.mode.name == "MULTIRUN":
            options["name"] = options.get("name") or job.job.override_dirname
            options["group"] = options.get("group") or Path(job.sweep.dir).name
        check_call(WandbLog, {"folder": folder, **options}, "wandb")
        chosen.append(WandbLog(folder, {**config, "commit": directory.commit()}, **options))
    return chosen


def _announce(
    trainer: "Trainer",
    module: "SelfSupervised",
    data: "DataModule",
    config: dict[str, Any],
    folder: Path,
    step: int,
) -> None:
    """The first line: what runs on what."""
    from rich.console import Console

    parameters = sum(p.numel() for p in module.student.parameters())
    batch = data.global_batch or data.batch_size * trainer.world_size
    batch *= trainer.accumulate_grad_batches
    device = trainer.strategy.root_device
    facts = [
        f"[bold]P¬P SSL[/] {data.dataset} ({len(data.pretrain):,} images "
        f"{data.channels}×{data.size}×{data.size})",
        f"{config['model']['name']} ({parameters:,} parameters)",
        str(device),
        str(trainer.precision),
        f"lr {module.optim.effective_lr(batch):.2g} at batch {batch}",
        str(folder),
        *([f"resumed at step {step}"] if step else []),
    ]
    Console(soft_wrap=True, highlight=False).print(" · ".join(facts))


def _quieten() -> None:
    """Lightning's banners say what our first line says."""
    import logging

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Says which process died, when one did.
    launcher = "lightning.fabric.strategies.launchers.subprocess_script"
    logging.getLogger(launcher).setLevel(logging.INFO)


def _ignore_known_warnings() -> None:
    """Notices that do not apply here, each for a reason."""
    ignore = partial(warnings.filterwarnings, "ignore")
    ignore(message=".*does not have many workers.*")  # resident data needs none
    ignore(message=".*exists and is not empty.*")  # resuming is the point
    ignore(message=".*LeafSpec.*")  # torch's own pytree notice
    ignore(message=".*sync_dist=True.*")  # all ranks log what rank 0 measured


def run(cfg: Any) -> float | None:
    """What Hydra calls; returns the number a sweep may optimise (never a test number)."""
    metrics = train(cfg)
    return metrics.get("validation/knn/teacher", metrics.get("validation/knn/student"))


def main() -> None:
    """Console script `pnp-train`."""
    from pnp.runs.launch import launch

    launch("train", run)


if __name__ == "__main__":
    main()
