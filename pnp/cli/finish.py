"""After training: evaluate the frozen networks, draw, write metrics.json and report.html."""

import time
from pathlib import Path
from typing import Any

import lightning
import torch
from rich import print as say
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from pnp import geometry
from pnp.cli import rundir
from pnp.cli.build import build
from pnp.data import DataModule
from pnp.evaluation.figures import draw_pca, draw_views
from pnp.evaluation.protocol import FIT, REPORT, Pixels, Protocol, probe, split_features
from pnp.method import SelfSupervised
from pnp.seeds import generator

PROTOCOL = (
    "Frozen backbone features (before the projector) of images without augmentation. Probes are "
    "fitted on train + validation; the linear probe's l2 is chosen on validation (fitted on train). "
    "Test numbers are on calibration + test, with 95 % Clopper-Pearson intervals. Weights: the last "
    "step's, selected by nothing. References: raw pixels, and the same backbone before training."
)


def finish(
    folder: Path,
    config: dict[str, Any],
    trainer: lightning.Trainer,
    module: SelfSupervised,
    initial: nn.Module,
    data: DataModule,
    *,
    started: float,
    fitted: float,
) -> dict[str, float]:
    """Evaluate, draw, and write what a run leaves behind; returns the flat metrics."""
    from pnp.report import write_report

    if not trainer.is_global_zero:
        return {}
    protocol: Protocol = build(config["evaluation"], "evaluation")
    networks: dict[str, nn.Module] = {
        "student": module.student.backbone,
        "teacher": module.teacher.network.backbone,  # pyright: ignore[reportAssignmentType]
    }
    known: dict[str, nn.Module] = {"pixels": Pixels(), "random": initial}
    references = {name: known[name] for name in protocol.references}
    device = trainer.strategy.root_device
    metrics: dict[str, float] = {}
    features: dict[str, dict[str, torch.Tensor]] = {}
    splits = (*FIT, *REPORT) if protocol.test else FIT
    images = sum(len(data.splits[name]) for name in splits)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        for name, network in {**networks, **references}.items():
            task = bar.add_task(f"evaluating {name}", total=images)
            features[name] = split_features(
                network.to(device, memory_format=module.memory_format),  # pyright: ignore[reportCallIssue]
                data,
                module.views.plain,
                splits,
                device=device,
                memory_format=module.memory_format,
                autocast=trainer.precision_plugin.forward_context,
                advance=lambda done, task=task: bar.advance(task, done),
            )
            for key, value in probe(features[name], data, protocol).items():
                # test/knn/ci_low -> test/knn/student/ci_low; pixels and random are references.
                split, kind, *rest = key.split("/")
                place = f"reference/{name}" if name in references else split
                if name in references and split != "test":
                    continue
                owner = [] if name in references else [name]
                metrics["/".join([place, kind, *owner, *rest])] = value
    for name in networks:
        for key, value in geometry.describe(
            features[name]["validation"], data.splits["validation"].labels
        ).items():
            metrics[f"validation/features/{name}/{key}"] = value

    _draw(folder, module, data, features["teacher"]["validation"])
    rundir.write_json(folder / "metrics.json", metrics)
    ended = time.time()
    rundir.write_json(
        folder / "run.json",
        {
            **rundir.facts(started, ended),
            "training_seconds": round(fitted - started, 1),
            "evaluation_seconds": round(ended - fitted, 1),
            "splits": data.split_record(),
            "protocol": PROTOCOL,
        },
    )
    report = write_report(folder)
    _say(metrics, report)
    return metrics


def _draw(folder: Path, module: SelfSupervised, data: DataModule, features: torch.Tensor) -> None:
    shown = data.splits["validation"].batch(torch.arange(min(10, len(data.splits["validation"]))))
    views = module.views(
        shown.to(module.device), generator(module.seed, device=module.device)
    ).cpu()
    few = views[:4]
    figures = folder / "figures"
    draw_views(
        figures / "views.png", shown.cpu(), few, torch.tensor(data.mean), torch.tensor(data.std)
    )
    held_out = data.splits["validation"]
    count = min(2000, len(held_out))
    labels = None if held_out.labels is None else held_out.labels[:count]
    draw_pca(figures / "pca.png", features[:count], labels, data.classes)
    rundir.write_json(
        figures / "captions.json",
        {
            "views": "Validation images (top) and the views the networks are trained on.",
            "pca": "Teacher backbone features of validation images on their first two principal axes.",
        },
    )


def _say(metrics: dict[str, float], report: Path) -> None:
    """The final table on the terminal."""
    from rich.table import Table

    rows = {
        "teacher": ("test/linear/teacher", "test/knn/teacher"),
        "student": ("test/linear/student", "test/knn/student"),
        "raw pixels": ("reference/pixels/linear", "reference/pixels/knn"),
        "random network": ("reference/random/linear", "reference/random/knn"),
    }
    table = Table("frozen features of", "linear probe", "kNN")
    for name, keys in rows.items():
        if keys[0] in metrics:
            table.add_row(name, *(f"{metrics[key]:.4f}" for key in keys))
    if table.rows:
        say(table)
    say(f"report: {report}")
