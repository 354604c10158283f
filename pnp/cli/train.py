"""`pnp-train`: config -> data, network, trainer -> checkpoints, metrics.json, report.html."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    job = jobs.claim(directory.run_directory(cfg), config)
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
    from pnp.runs.parts import build_trainer, ignore_known_warnings, parts, quieten

    quieten()
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
    try:
        with warnings.catch_warnings():
            ignore_known_warnings()
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        facts["training_seconds"] = round(time.time() - started, 1)
        metrics = finish(folder, config, trainer, module, initial, data, facts)
    except BaseException:
        for logger in trainer.loggers:  # Lightning does so for failures of its own part only
            logger.finalize("failed")
        raise
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
