"""One run, from its configuration to its report: fit, evaluate, write."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback, Timer
from rich.console import Console
from rich.markup import escape

from pnp import auto, files, weights
from pnp.cpu import keep_freed_memory
from pnp.data.describe import describe, flip_hint
from pnp.distributed import leave_at_exit
from pnp.errors import UserError
from pnp.evaluation import evaluate
from pnp.loggers import trackers
from pnp.loggers.wandb import WandbLog
from pnp.runs import directory, encoders, reopen
from pnp.runs.config import build
from pnp.runs.finish import mark_finished, write_results
from pnp.runs.parts import build_trainer, ignore_known_warnings, parts, quieten

if TYPE_CHECKING:
    from lightning import Callback, Trainer

    from pnp.data import DataModule
    from pnp.method import SelfSupervised


def fit(
    folder: Path,
    config: dict[str, Any],
    checkpoint: Path | None,
    facts: dict[str, Any],
    callbacks: Sequence["Callback"] = (),
) -> dict[str, float]:
    """Train in `folder`, from `checkpoint` on if there is one, evaluate, and write the results.

    Args:
        folder: the run directory, locked by this process.
        config: resolved.
        checkpoint: to resume from.
        facts: further entries of `run.json`.
        callbacks: beside those of the config.

    Returns:
        The metrics on rank 0, nothing on the others.
    """
    quieten()
    keep_freed_memory()
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    data, module, untrained = parts(config)
    evaluate.band_targets(data, build(config["evaluation"], "evaluation"))  # mistakes come early
    trainer = build_trainer(config, folder, data)
    timer = Timer(verbose=False)  # its state is in the checkpoints: a resumed run goes on counting
    trainer.callbacks.extend([timer, *callbacks])  # pyright: ignore[reportAttributeAccessIssue]
    step = 0
    if checkpoint:
        saved = directory.load_checkpoint(checkpoint, config)
        found = weights.fit(module, saved["state_dict"])
        directory.refuse_misfit(checkpoint, replace(found, left=[found.prefix, *found.left])
                                if found.prefix else found)  # fmt: skip
        directory.check_splits(checkpoint, saved, data)
        step = int(saved["global_step"])
        if directory.extends(saved["config"], config) and trainer.is_global_zero:
            print(f"goes on beyond its end, at step {step}: learning rate and momentum follow the "
                  "schedule of the longer run")  # fmt: skip
    trainer.loggers[0].continue_from(step)  # pyright: ignore[reportAttributeAccessIssue]
    if trainer.is_global_zero:
        header = partial(print_header, data=data, config=config, folder=folder, step=step)
        # The number of steps is known once the processes are there.
        trainer.callbacks.insert(0, LambdaCallback(on_train_start=header))  # pyright: ignore[reportAttributeAccessIssue]
        files.write_json(folder / "splits.json", data.split_record())
    try:
        with warnings.catch_warnings():
            ignore_known_warnings()
            try:
                trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                if checkpoint is None or timer.start_time() or isinstance(error, UserError):
                    raise
                raise UserError(
                    f"{checkpoint} cannot be resumed, it was changed or damaged "
                    f"({type(error).__name__}: {error}). resume=false starts anew."
                ) from error
        facts = {
            **facts,
            "training_seconds": round(timer.time_elapsed(), 1),
            "auto": automatic(trainer, module, data, config),
        }
        content = {"config": config, "global_step": trainer.global_step}
        run = reopen.Run(folder / "checkpoints" / "last.ckpt", content, data, module, untrained)
        metrics = finish(folder, run, trainer, facts)
    except BaseException:
        for logger in trainer.loggers:  # Lightning does so for failures of its own part only
            logger.finalize("failed")
        raise
    leave_at_exit()
    return metrics


def finish(
    folder: Path, run: reopen.Run, trainer: "Trainer", facts: dict[str, Any]
) -> dict[str, float]:
    """Evaluate the trained networks and write the results; every rank has to call it."""
    started, data, module = time.time(), run.data, run.module
    protocol = build(run.checkpoint["config"]["evaluation"], "evaluation")
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    autocast = trainer.precision_plugin.forward_context
    cache = folder / "features" if protocol.cache else None
    setting = evaluate.Setting(
        data, module.views, device, module.memory_format, autocast, precision, cache
    )
    references = evaluate.references(protocol, run.untrained)
    rows = evaluate.evaluate_networks(folder, module.networks, references, setting, protocol)
    if not trainer.is_global_zero:
        return {}
    facts = {
        **facts,
        "evaluation_seconds": round(time.time() - started, 1),
        "precision": precision,
        "splits": data.split_record(),
    }
    metrics = write_results(folder, rows, facts, protocol)
    for logger in trainer.loggers[1:]:
        if isinstance(logger, WandbLog):
            logger.finish()
        else:
            trackers.end(logger, metrics, trainer.global_step)
    alone = not directory.in_multirun()
    if alone and (decider := encoders.write_own(run, folder, protocol, device)):
        print(f"decider: pnp-decide apply decider={decider} images=FOLDER")
    mark_finished(folder)
    return metrics


def automatic(
    trainer: "Trainer", module: "SelfSupervised", data: "DataModule", config: dict[str, Any]
) -> dict[str, float]:
    """Values of the keys that are `auto` in the config; see `pnp.auto`."""
    steps = module.total_steps
    values = {
        "data.batch_size": data.batch_size,
        "trainer.max_epochs": trainer.max_epochs,
        "optim.lr": module.optim.effective_lr(256, steps),
        "method.momentum": module.teacher and auto.momentum(steps),
        "method.average": module.average and auto.momentum(steps),
        "method.concat_views": module.together,
    }
    given = files.flatten(config)
    return {k: v for k, v in values.items() if given.get(k) == "auto" and v is not None}


def judgement(data: "DataModule", evaluation: dict[str, Any]) -> str:
    """The numbers that the run will end with, in a sentence."""
    split = "test" if evaluation["test"] else "validation"
    beside = [{"pixels": "raw pixels", "random": "the untrained network"}[name]
              for name in evaluation["references"] if split == "test"]  # fmt: skip
    probes = "linear probe and kNN" if data.classes else "matched views (no labels)"
    against = f" against {' and '.join(beside)}" if beside else ""
    asked = data.classes or evaluation["concepts"]
    band = "; certified bands of P, ¬P or uncertain" if asked and evaluation["band"] else ""
    return f"{probes} on {split}, student and teacher{against}{band if split == 'test' else ''}"


def print_header(
    trainer: "Trainer",
    module: "SelfSupervised",
    *,
    data: "DataModule",
    config: dict[str, Any],
    folder: Path,
    step: int,
) -> None:
    """Print the first lines of a run: what runs where, how long, and what `auto` has become."""
    parameters = sum(p.numel() for p in module.student.parameters())
    batch, steps = module.global_batch, module.total_steps
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    if device.type == "cuda" and precision == "32-true" and torch.backends.cudnn.allow_tf32:
        precision += " (convolutions in TF32)"
    words = [
        f"{data.dataset} ({len(data.pretrain):,} images {data.channels}×{data.size}×{data.size})",
        f"{config['model']['name']} ({parameters:,} parameters)",
        str(device),
        precision,
        f"lr {module.optim.effective_lr(batch, steps):.2g} at batch {batch}, {steps:,} steps",
        str(folder),
        *([f"resumed at step {step}"] if step else []),
    ]
    console = Console(soft_wrap=True, highlight=False)
    console.print("[bold]P¬P SSL[/]", escape(" · ".join(words)))
    understood, *hints = describe(data)
    console.print(f"data: {escape(understood)}")
    console.print(f"judged: {judgement(data, config['evaluation'])}")
    if module.views.flip and (hint := flip_hint(data.classes)):
        hints.append(hint)
    for hint in hints:
        console.print(f"[yellow]note:[/] {escape(hint)}")
    if chosen := automatic(trainer, module, data, config):
        words = {k: str(v).lower() if isinstance(v, bool) else f"{v:g}" for k, v in chosen.items()}
        settings = ", ".join(f"{key}={value}" for key, value in words.items())
        print(f"auto, from {len(data.pretrain):,} images and {steps:,} steps: {settings}")
