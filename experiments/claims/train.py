"""One run of the ledger: train in this process, measure everything that a claim may ask for.

`run` takes the overrides of `pnp-train`, returns one row. Batches are measured while training
(`Watch`), held-out images, probes and the band of the student at the end.
"""

import math
import os
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from pnp import geometry
from pnp.callbacks.collapse import collapse_kind

POINTS = 40  # measurements of a batch in the course of a run
COMMON = [
    "method.concat_views=false",  # a GPU computes what a CPU does
    "evaluation.references=[]", "evaluation.fractions=[]", "evaluation.cache=false",
    "evaluation.l2=[0.001,0.0001]", "logger=csv", "~callbacks.monitor", "~callbacks.checkpoints",
]  # fmt: skip


class Watch(L.Callback):
    """Geometry of the student's embeddings of view 0 at `POINTS` steps, and the variance term."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.kinds: list[str | None] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure this step if its turn has come."""
        step, total = trainer.global_step, pl_module.total_steps
        if step % max(1, total // POINTS) and step not in (1, total):
            return
        z = outputs["embeddings"][0].cpu()
        measures = {
            "sigma": geometry.sigma(z),
            "mean_cosine": geometry.mean_cosine(z),
            "effective_rank": geometry.effective_rank(z),
        }
        self.kinds.append(collapse_kind(measures, *z.shape))
        variance = outputs["terms"].get("variance", torch.tensor(math.nan))
        self.points.append({"step": step, "variance": float(variance), **measures})


def collapse(student: Any, kind: str) -> None:
    """Put a student's projector into a collapsed state; the backbone stays as it was drawn.

    complete: hidden units hardly vary around one; cone: they vary less than their mean; a
    dimensional kind spans two axes around 0.
    """
    norm = [part for part in student.projector if isinstance(part, nn.BatchNorm1d)][-1]
    last = [part for part in student.projector if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        if kind == "dimensional":
            u, s, v = torch.linalg.svd(last.weight - last.weight.mean(1, keepdim=True))
            last.weight.copy_(u[:, :2] * s[:2] @ v[:2])
        else:
            norm.weight.fill_(0.05 if kind == "complete" else 1.0)
            norm.bias.fill_(1.0 if kind == "complete" else 2.5)


def curve_statistics(watch: Watch) -> dict[str, Any]:
    """Last halves of the curves, and the share of the run after which no collapse is left."""
    steps = np.array([p["step"] for p in watch.points])
    last = steps > steps[-1] / 2
    row: dict[str, Any] = {"start_kind": watch.kinds[0] or "none"}
    row["end_kind"] = watch.kinds[-1] or "none"
    collapsed = [s for s, kind in zip(steps, watch.kinds, strict=True) if kind]
    row["escape"] = collapsed[-1] / steps[-1] if collapsed else 0.0  # 1: never
    for name in ("sigma", "variance", "mean_cosine", "effective_rank"):
        values = np.array([p[name] for p in watch.points])
        slope = np.polyfit(steps[last], values[last], 1)[0] if np.isfinite(values).all() else np.nan
        row[f"{name}_late"] = values[last].mean()
        row[f"{name}_drift"] = abs(slope) * (steps[-1] - steps[last][0])
        if name in ("sigma", "variance") and np.isfinite(values).all():
            row[f"{name}_curve"] = " ".join(f"{value:.3f}" for value in values)
    return row


def first_view(views: Any, draws: torch.Generator, images: torch.Tensor) -> torch.Tensor:
    """One random view of each image."""
    return views(images, draws)[0]


def held_out(module: Any, data: Any, extraction: dict[str, Any]) -> dict[str, float]:
    """Geometry of 1,000 held-out images: features (f) and embeddings (z), student and teacher."""
    from pnp.evaluation.features import extract
    from pnp.seeds import generator

    images = data.splits["validation"].subset(
        torch.arange(min(1000, len(data.splits["validation"])))
    )
    row: dict[str, float] = {}
    for owner, network in module.networks.items():
        outputs = extract(network, images, module.views.plain, **extraction)
        for letter, x in zip("fz", outputs, strict=True):
            name = f"{letter}_{owner}"
            for key, value in geometry.describe_fully(x, images.labels).items():
                if not key.startswith(("within_q", "between_q")):
                    row[f"{name}_{key}"] = value
            row[f"{name}_wasserstein"] = geometry.wasserstein(geometry.unit(x))
        draws = generator(0, device=module.device)
        views = partial(first_view, module.views, draws)
        pair = [extract(network, images, views, **extraction)[1] for _ in range(2)]
        row[f"z_{owner}_alignment"] = geometry.alignment(*pair)
        if owner == "teacher" and network.head is not None and hasattr(module.objective, "loss"):
            center = getattr(module.objective.loss, "center", None)
            if center is not None:  # DINO: its softmax of single images, and of all together
                heat = module.objective.temperature(1e9)
                logits = (network.head(outputs[1].to(center.device)) - center.view(1, -1)) / heat
                shares, most = logits.softmax(-1).double().cpu(), math.log(logits.shape[-1])
                row["softmax_single"] = float(torch.special.entr(shares).sum(-1).mean()) / most
                row["softmax_all"] = float(torch.special.entr(shares.mean(0)).sum()) / most
    return row


def run(words: list[str], *, start: str = "", evaluate: bool = True) -> dict[str, Any]:
    """Train and measure.

    Args:
        words: overrides of pnp-train, with `seed=`.
        start: collapsed start: `complete`, `cone` or `dimensional`; empty for none.
        evaluate: measure probes and band too.
    """
    from pnp.evaluation.concept_bands import band_rows, concept_bands, concept_targets
    from pnp.evaluation.gaps import Gaps
    from pnp.evaluation.probes import Space
    from pnp.evaluation.protocol import probe, split_features
    from pnp.results import to_metrics
    from pnp.runs.config import build, plain
    from pnp.runs.launch import compose
    from pnp.runs.parts import build_trainer, parts

    config = {**plain(compose("train", [*words, *COMMON], as_job=True)), "choices": {}}
    L.seed_everything(config["seed"], workers=True, verbose=False)
    began = time.monotonic()
    data, module, _ = parts(config)
    if start:
        collapse(module.student, start)
        if module.teacher is not None:
            collapse(module.teacher.network, start)
    watch = Watch()
    with TemporaryDirectory(prefix=f"claims-{os.getpid()}-") as folder:
        trainer = build_trainer(config, Path(folder), data)
        trainer.callbacks[:] = [*trainer.callbacks[:-1], watch]  # in place of the progress lines
        trainer.fit(module, datamodule=data)
    trained = time.monotonic() - began
    views = config["views"]["count"]
    passes = trainer.global_step * module.global_batch / len(data.pretrain) * views
    row: dict[str, Any] = {
        "images": len(data.pretrain),
        "steps": trainer.global_step,
        "student_forwards": round(passes, 2),  # per image
        "teacher_forwards": round(passes if module.teacher is not None else 0, 2),
        "training_seconds": round(trained, 1),
        **curve_statistics(watch),
    }
    extraction: dict[str, Any] = {
        "device": module.device,
        "memory_format": module.memory_format,
        "autocast": trainer.precision_plugin.forward_context,
    }
    row |= held_out(module, data, extraction)
    if evaluate:
        protocol = build(config["evaluation"], "evaluation")
        targets, gaps = concept_targets(data, None), Gaps()
        rows, bands = [], {}
        for owner, network in module.networks.items():
            (features,) = split_features(
                network, data, module.views.plain, protocol.splits, **extraction
            )[:1]
            space = Space.of(features["train"])
            rotated = {name: space(part) for name, part in features.items()}
            rows += probe(features, rotated, space, data, protocol, owner, gaps)
            labels = data.splits["test"].labels
            bands[owner] = concept_bands(
                rotated, space, targets, protocol.budgets, labels, protocol.l2
            )
        if gaps:
            raise RuntimeError(f"not measured: {dict(gaps)}")
        metrics = to_metrics([*rows, *band_rows(bands)])
        concept = "mean" if any(k.startswith("band/mean/") for k in metrics) else "lobed"
        for owner in module.networks:
            for name, key in (
                ("knn", f"test/knn/{owner}"),
                ("linear", f"test/linear/{owner}"),
                ("band", f"band/{concept}/{owner}/width"),
                ("plugin", f"band/{concept}/{owner}/plugin"),
                ("excess", f"band/{concept}/{owner}/oracle/excess"),
            ):
                if key in metrics:
                    row[f"{name}_{owner}"] = metrics[key]
    return {**row, "seconds": round(time.monotonic() - began, 1)}
