"""The band of every concept for every representation: heads, thresholds, reports.

Heads are fitted on train, their regularisation is chosen on validation; thresholds come from the
calibration split, which nobody else has seen; everything is reported on test.
"""

# torch and matplotlib are partly typed: strict here means our own names.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp.band.concepts import Concept, metric_names, parse_concepts
from pnp.band.inputs import Budget, Method
from pnp.band.report import BandReport, band_report
from pnp.data import DataModule
from pnp.errors import UserError
from pnp.evaluation.probes import L2_GRID, Space, concept_heads

SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class Budgets:
    """What may go wrong, and how sure one wants to be (`conf/evaluation`, section `band`).

    Args:
        max_fp: largest share of images asserted P that are ¬P.
        max_fn: largest share of images asserted ¬P that are P.
        delta: probability that a calibration draw breaks either promise.
        method: `exact`, `crc` or `empirical`; see `pnp.evaluation.band`.
        budget: `joint` or `class_conditional`.
    """

    max_fp: float = 0.01
    max_fn: float = 0.01
    delta: float = 0.1
    method: Method = "exact"
    budget: Budget = "joint"


@dataclass(frozen=True)
class Questions:
    """Every concept asked of every image of every split.

    `targets`, `keep` and `eta` map a split to `(n, K)`; eta is NaN where it is not known.
    """

    names: tuple[str, ...]
    targets: Mapping[str, Tensor]
    keep: Mapping[str, Tensor]
    eta: Mapping[str, Tensor]


@dataclass(frozen=True)
class Answer:
    """One concept, one representation: the report and the test scores behind it."""

    report: BandReport
    scores: np.ndarray
    y: np.ndarray
    index: np.ndarray


def questions(data: DataModule, concepts: Mapping[str, Any] | None, seed: int = 0) -> Questions:
    """The concepts of a data set: its own (`ambiguous`: lobed), and those of the config.

    Args:
        data: whose labels are asked.
        concepts: `{name: labels}` or as in `parse_concepts`; None means every class against the
            rest, unless the data set has a concept of its own.
        seed: of the coin flips of ambiguous classes.

    Raises:
        UserError: a class that does not exist, or no labels to ask.
    """
    splits = {name: data.splits[name] for name in SPLITS}
    own = splits["train"].concept is not None
    named: dict[str, Concept] = {}
    if concepts is not None or not own:
        if not data.classes:
            raise UserError(
                "evaluation.concepts: these images have no labels to build concepts from."
            )
        chosen = {"one_vs_rest": True} if concepts is None else dict(concepts)
        named = parse_concepts(chosen, data.classes, reserved=["lobed"] if own else [])
    names = tuple(metric_names([*(["lobed"] if own else []), *named]))
    columns: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in SPLITS}
    for number, (split, images) in enumerate(splits.items()):
        if images.concept is not None and images.eta is not None:
            keep = torch.ones(len(images), dtype=torch.bool)
            columns[split].append((images.concept, keep, images.eta))
        for concept in named.values():
            assert images.labels is not None
            y, eta, kept = concept.assign(images.labels.numpy(), seed=seed * len(SPLITS) + number)
            known = eta if concept.ambiguous else np.full(len(images), np.nan)
            columns[split].append(
                (torch.from_numpy(y).clamp_min(0), torch.from_numpy(kept), torch.from_numpy(known))
            )
    stacked = {
        split: [torch.stack(list(part), dim=1) for part in zip(*column, strict=True)]
        for split, column in columns.items()
    }
    return Questions(
        names,
        {split: parts[0].float() for split, parts in stacked.items()},
        {split: parts[1] for split, parts in stacked.items()},
        {split: parts[2].double() for split, parts in stacked.items()},
    )


def answer(
    features: Mapping[str, Tensor],
    space: Space,
    asked: Questions,
    budgets: Budgets,
    labels: Tensor | None = None,
    grid: Any = L2_GRID,
) -> dict[str, Answer]:
    """The band of every concept for one representation.

    Args:
        features: by split, `(n, d)`, in `space`.
        space: of the training features.
        asked: the concepts.
        budgets: error budgets and method.
        labels: classes of the test images, for the band's share per class.
        grid: candidate l2 of the heads.
    """
    parts = {s: (features[s], asked.targets[s], asked.keep[s]) for s in ("train", "validation")}
    heads = concept_heads(parts["train"], parts["validation"], space, grid)
    logits = {s: heads.of(features[s]).double().numpy() for s in ("calibration", "test")}
    answers = {}
    for k, name in enumerate(asked.names):
        keep = {s: asked.keep[s][:, k].numpy() for s in logits}
        scores = {s: logits[s][keep[s], k] for s in logits}
        y = {s: asked.targets[s][:, k].numpy()[keep[s]].astype(int) for s in logits}
        eta = asked.eta["test"][:, k].numpy()[keep["test"]]
        if any(len(np.unique(y[s])) < 2 for s in logits):
            logging.getLogger(__name__).warning(
                "concept %s is left out: calibration or test holds only one of P and ¬P", name
            )
            continue
        report = band_report(
            scores["calibration"],
            y["calibration"],
            scores["test"],
            y["test"],
            **asdict(budgets),
            test_eta=None if np.isnan(eta).any() else eta,
            test_classes=None if labels is None else labels.numpy()[keep["test"]],
        )
        index = np.flatnonzero(keep["test"])
        answers[name] = Answer(report, scores["test"], y["test"], index)
    return answers


def flatten(answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, float]:
    """`band/<concept>/<representation>/<metric>` for every finite number, and the means.

    `band/width` becomes `width` with `width/ci_low`, `width/ci_high`; the other groups keep their
    name (`err/fp_joint`). `band/mean/<representation>/width` and `plugin` average over concepts.

    Args:
        answers: representation -> concept -> answer.
    """
    renamed = {"band/width_lo": "width/ci_low", "band/width_hi": "width/ci_high"}
    flat: dict[str, float] = {}
    for representation, concepts in answers.items():
        for concept, found in concepts.items():
            for key, value in found.report.metrics.items():
                if isinstance(value, str) or not math.isfinite(value):
                    continue
                name = renamed.get(key, key.removeprefix("band/"))
                flat[f"band/{concept}/{representation}/{name}"] = float(value)
        for name in ("width", "plugin") if concepts else ():
            values = [float(a.report.metrics[f"band/{name}"]) for a in concepts.values()]
            flat[f"band/mean/{representation}/{name}"] = sum(values) / len(values)
    return flat


def record(answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, Any]:
    """What a report needs beside the numbers: alarms, guarantees and curves, as plain data."""

    def curve(c: Any) -> dict[str, Any]:
        return {"level": c["level"].tolist(), "width": c["width"].tolist(), "mean": c["mean"]}

    return {
        concept: {
            representation: {
                "alarms": concepts[concept].report.alarms,
                "guarantee": concepts[concept].report.metrics["thr/guarantee"],
                "trivial": concepts[concept].report.metrics["thr/trivial"],
                "curves": {n: curve(c) for n, c in concepts[concept].report.curves.items()},
            }
            for representation, concepts in answers.items()
        }
        for concept in next(iter(answers.values()))
    }
