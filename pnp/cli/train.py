"""`pnp-train`: config -> data, network, trainer -> checkpoints, metrics.json, report.html."""

import os
import time
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError

if TYPE_CHECKING:
    from lightning import Trainer

    from pnp.data import DataModule
    from pnp.method import SelfSupervised


def train(cfg: Any) -> dict[str, float]:
    """Train, evaluate and report one run, as the config says.

    Args:
        cfg: a composed `conf/train.yaml`.

    Returns:
        The flat metrics of `metrics.json`: `test/<probe>/<network>`, `reference/<name>/<probe>`.

    Raises:
        UserError: anything about the input that cannot work.
        pnp.callbacks.checkpoints.Interrupted: stopped by Ctrl-C; the state is saved.
    """
    started = time.time()
    from pnp.cli import rundir
    from pnp.cli.build import plain

    facts = rundir.facts()
    folder = rundir.run_directory(cfg)
    config = {key: value for key, value in plain(cfg).items() if key != "hydra"}
    config["choices"] = rundir.choices()
    checkpoint = None
    if cfg.resume:
        checkpoint = rundir.find_checkpoint(str(cfg.resume), folder, config)
        if cfg.resume == "auto" and checkpoint:
            folder = _move_to(checkpoint.parents[1], folder)
    if cfg.resume and (metrics := finished(folder, config)) is not None:
        print(f"already finished: {folder}")
        return metrics

    import lightning

    _quieten()
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    data, module, initial = parts(config)
    trainer = build_trainer(config, folder)
    step = 0
    if checkpoint:
        step = int(rundir.load_checkpoint(checkpoint, config)["global_step"])
    trainer.loggers[0].continue_from(step)  # pyright: ignore[reportAttributeAccessIssue]
    if trainer.is_global_zero:
        _announce(trainer, module, data, config, folder, step)
        rundir.save_config(folder, config)
        rundir.write_json(folder / "splits.json", data.split_record())
    with warnings.catch_warnings():
        _ignore_known_warnings()
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    fitted = time.time()
    if not trainer.is_global_zero:
        return {}
    facts["training_seconds"] = round(fitted - started, 1)
    return finish(folder, config, trainer, module, initial, data, facts)


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
    from pnp.cli import judge
    from pnp.cli.build import build

    started = time.time()
    protocol = build(config["evaluation"], "evaluation")
    setting = judge.Setting(
        data,
        module.views,
        trainer.strategy.root_device,
        module.memory_format,
        trainer.precision_plugin.forward_context,
        str(trainer.precision),
        folder / "features" if protocol.cache else None,
    )
    networks = {"student": module.student, "teacher": module.teacher.network}
    metrics = judge.judge(folder, networks, judge.references(protocol, initial), setting, protocol)
    facts["evaluation_seconds"] = round(time.time() - started, 1)
    facts["splits"] = data.split_record()
    judge.write(folder, metrics, facts)
    return metrics


def parts(config: dict[str, Any]) -> tuple["DataModule", "SelfSupervised", Any]:
    """Data, LightningModule, and an untrained copy of its backbone, from a plain config."""
    from pnp.backbones import backbone
    from pnp.cli.build import build, check_call
    from pnp.heads import projector

    data = build(config["data"], "data")
    views = build(config["views"], "views", size=data.size, mean=data.mean, std=data.std)
    model = {**config["model"], "in_channels": data.channels, "image_size": data.size}
    head = model.pop("projector")
    check_call(backbone, model, "model")
    net = backbone(**model)
    check_call(projector, {"dim": net.dim, **head}, "model.projector")
    initial = deepcopy(net)
    last = config["method"]["channels_last"]
    if last not in (True, False, "auto"):
        raise UserError(f"method.channels_last={last!r}: choose auto, true or false.")
    module = build(
        config["method"],
        "method",
        backbone=net,
        projector=projector(net.dim, **head),  # pyright: ignore[reportArgumentType]
        objective=build(config["objective"], "objective"),
        views=views,
        optim=build(config["optim"], "optim"),
        seed=config["seed"],
        channels_last=last is not False,
    )
    return data, module, initial


def build_trainer(config: dict[str, Any], folder: Path) -> "Trainer":
    """Lightning's Trainer with our loggers and callbacks."""
    import lightning

    from pnp.callbacks.progress import EpochLines, Progress
    from pnp.cli.build import build, check_call

    options = dict(config["trainer"])
    check_call(lightning.Trainer, {k: v for k, v in options.items() if v != "auto"}, "trainer")
    for key, least in (("max_epochs", -1), ("max_steps", -1), ("accumulate_grad_batches", 1)):
        if options[key] is not None and options[key] < least:
            raise UserError(f"trainer.{key}={options[key]} must be at least {least}.")
    options["accelerator"], options["precision"] = hardware(
        options["accelerator"], options["precision"]
    )
    watchers: list[Any] = []
    for name, node in (config["callbacks"] or {}).items():
        extra: dict[str, Any] = {}
        if name == "checkpoints":
            extra = {"folder": folder / "checkpoints", "config": config}
        if name == "monitor":
            extra = {"alarms": folder / "alarms.json"}
        watchers.append(build(node, f"callbacks.{name}", **extra))
    from rich.console import Console

    watchers.append(Progress() if Console().is_terminal else EpochLines())
    quick = bool(options.get("fast_dev_run"))
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
    """CSV always, W&B beside it unless `logger=csv`."""
    from pnp.loggers import CSVLog

    chosen: list[Any] = [CSVLog(folder)]
    options = config.get("wandb")
    if options and not dummy:
        # W&B speaks before its own `silent` setting is read; whoever sets the variable decides.
        os.environ.setdefault("WANDB_SILENT", "true")
        from lightning.pytorch.loggers import WandbLogger

        if options["mode"] not in ("offline", "online"):
            raise UserError(
                f"wandb.mode={options['mode']!r}: choose offline, online, or logger=csv."
            )
        wandb = WandbLogger(
            save_dir=folder,
            settings={"silent": True, "console": "off"},
            config=config,
            name=options["name"] or folder.name,
            **{key: options[key] for key in ("mode", "project", "entity", "group", "tags")},
        )
        chosen.append(wandb)
    return chosen


def finished(folder: Path, config: dict[str, Any]) -> dict[str, float] | None:
    """The metrics of a run that is already done with this config in this folder."""
    import json

    from pnp.cli import rundir

    file, old = folder / "metrics.json", rundir.saved_config(folder)
    if not file.is_file() or old is None or rundir.differences(old, config):
        return None
    return json.loads(file.read_text())


def _move_to(found: Path, made: Path) -> Path:
    """Continue in the directory of the run that was found; drop the empty one Hydra made."""
    if found.resolve() != made.resolve():
        for name in ("checkpoints", "figures", ""):
            path = made / name
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    return found


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
    batch = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
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


def _ignore_known_warnings() -> None:
    """Notices that do not apply here, each for a reason."""
    ignore = partial(warnings.filterwarnings, "ignore")
    ignore(message=".*does not have many workers.*")  # resident data needs none
    ignore(message=".*exists and is not empty.*")  # resuming is the point
    ignore(message=".*LeafSpec.*")  # torch's own pytree notice


def run(cfg: Any) -> float | None:
    """What Hydra calls; returns the number a sweep may optimise (never a test number)."""
    import sys

    from pnp.callbacks.checkpoints import Interrupted

    try:
        metrics = train(cfg)
    except Interrupted:
        print("stopped; the state is saved. Go on with: pnp-train … resume=auto", file=sys.stderr)
        sys.exit(130)
    return metrics.get("validation/knn/teacher")


def main() -> None:
    """Console script `pnp-train`."""
    from pnp.cli.app import launch

    launch("train", run)


if __name__ == "__main__":
    main()
