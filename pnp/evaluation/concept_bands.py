"""The band of every concept for every network: heads, thresholds, reports.

Heads are fitted on train, their regularisation is chosen on validation; thresholds come from the
calibration split, which nobody else has seen; everything is reported on test.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int8, Int64
from torch import Tensor

from pnp.band.concepts import Concept, metric_names, parse_concepts
from pnp.band.curves import BandCurve
from pnp.band.inputs import Budgets
from pnp.band.report import BandReport, band_report
from pnp.data import DataModule
from pnp.errors import UserError
from pnp.evaluation.gaps import Gaps
from pnp.evaluation.probes import L2_GRID, Space, concept_heads
from pnp.results import MEAN, Row, find

SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class Targets:
    """Labels of every image of every split for every concept.

    `y`, `keep` and `eta` map a split to `(n, K)`: P or not, images that count, and Pr(P | image),
    NaN where it is not known.
    """

    names: tuple[str, ...]
    y: dict[str, Tensor]
    keep: dict[str, Tensor]
    eta: dict[str, Tensor]


@dataclass(frozen=True)
class ConceptBand:
    """Band of one concept for one network: its report, and the test images that count for it.

    `scores`, `y` and `index` are `(n,)`: logits, labels, and places in the test split.
    """

    report: BandReport
    scores: np.ndarray
    y: np.ndarray
    index: np.ndarray

    @property
    def region(self) -> np.ndarray:
        """Decision `(n,)` on each test image: 1 is P, 0 is ¬P, -1 is in the band."""
        return self.report.threshold.predict(self.scores)


Bands = Mapping[str, Mapping[str, ConceptBand]]
"""Network -> concept -> band."""


def concept_targets(data: DataModule, concepts: Mapping[str, Any] | None, seed: int = 0) -> Targets:
    """Targets for the data set's own concept (`ambiguous`: lobed) and those of the config.

    Where images carry votes, Y is the answer of one annotator, drawn per image, and η is estimated
    by the share of P among the others; images count if both exist.

    Args:
        data: the data set.
        concepts: `{name: labels}` or as in `parse_concepts`; None means every class against the
            rest, unless the data set has a concept of its own.
        seed: of the coin flips of ambiguous classes.

    Raises:
        UserError: a class that does not exist, or no labels to build concepts from.
    """
    splits = {name: data.splits[name] for name in SPLITS}
    has_own = splits["train"].concept is not None
    named: dict[str, Concept] = {}
    if concepts is not None or not has_own:
        if not data.classes:
            raise UserError(
                "evaluation.concepts: these images have no labels to build concepts from."
            )
        chosen = {"one_vs_rest": True} if concepts is None else dict(concepts)
        named = parse_concepts(chosen, data.classes, reserved=["lobed"] if has_own else [])
    names = tuple(metric_names([*(["lobed"] if has_own else []), *named]))
    targets = Targets(names, {}, {}, {})
    for place, (split, images) in enumerate(splits.items()):
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        if images.concept is not None and images.eta is not None:
            keep = torch.ones(len(images), dtype=torch.bool)
            columns.append((images.concept, keep, images.eta))
        for concept in named.values():
            draw = seed * len(SPLITS) + place
            if images.votes is not None:
                y, eta, keep = votes_targets(concept, images.votes.numpy(), draw)
            else:
                assert images.labels is not None
                y, eta, keep = concept.assign(images.labels.numpy(), seed=draw)
                eta = eta if concept.ambiguous else np.full(len(images), np.nan)
            columns.append(
                (torch.from_numpy(y).clamp_min(0), torch.from_numpy(keep), torch.from_numpy(eta))
            )
        y, keep, eta = (torch.stack(parts, dim=1) for parts in zip(*columns, strict=True))
        targets.y[split], targets.keep[split], targets.eta[split] = y.float(), keep, eta.double()
    return targets


def votes_targets(
    concept: Concept, votes: Int64[np.ndarray, "n k"], seed: int
) -> tuple[Int8[np.ndarray, " n"], Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The answer of one annotator, drawn per image; the share of P among the others; who counts.

    The share of the others is an unbiased estimate of η = Pr(P | image) and independent of the
    answer given the image. With few votes it lies further from the middle than η, so that the
    oracle band made of it is a lower bound of the irreducible one.

    Args:
        concept: of the classes.
        votes: classes given by k annotators.
        seed: of the draw.
    """
    n, k = votes.shape
    answers = [concept.assign(votes[:, j], seed=seed * (k + 1) + j) for j in range(k)]
    y, eta, keep = (np.stack(column, axis=1) for column in zip(*answers, strict=True))
    asked = np.random.default_rng(seed * (k + 1) + k).integers(k, size=n)
    others = keep & (np.arange(k) != asked[:, None])
    count = others.sum(1)
    share = np.where(others, eta, 0.0).sum(1) / np.maximum(count, 1)
    rows = np.arange(n)
    counts = keep[rows, asked] & ((count > 0) | (k == 1))
    return y[rows, asked], np.where(count > 0, share, np.nan), counts


def concept_bands(
    features: Mapping[str, Tensor],
    space: Space,
    targets: Targets,
    budgets: Budgets,
    labels: Tensor | None = None,
    grid: Sequence[float] = L2_GRID,
    gaps: Gaps | None = None,
) -> dict[str, ConceptBand]:
    """The band of every concept for one network.

    A concept of which train, calibration or test holds only one of P and ¬P, or of which validation
    holds no image, is a gap.

    Args:
        features: by split, `(n, d)`, in `space`.
        space: of the training features.
        targets: of the concepts.
        budgets: error budgets and method.
        labels: classes of the test images, for the band's share per class.
        grid: candidate l2 of the heads.
        gaps: where concepts that are left out are noted.
    """
    reasons = [_unusable(targets, k) for k in range(len(targets.names))]
    usable = [k for k, reason in enumerate(reasons) if reason is None]
    unusable = zip(targets.names, reasons, strict=True)
    (Gaps() if gaps is None else gaps).add({f"concept {n}": r for n, r in unusable if r})
    if not usable:
        return {}
    place = space.mean.device
    train, validation = (
        (
            features[split],
            targets.y[split][:, usable].to(place),
            targets.keep[split][:, usable].to(place),
        )
        for split in ("train", "validation")
    )
    heads = concept_heads(train, validation, space, grid)
    logits = {s: heads.logits(features[s]).double().cpu().numpy() for s in ("calibration", "test")}
    bands = {}
    for column, k in enumerate(usable):
        keep = {s: targets.keep[s][:, k].numpy() for s in logits}
        scores = {s: logits[s][keep[s], column] for s in logits}
        y = {s: targets.y[s][:, k].numpy()[keep[s]].astype(int) for s in logits}
        eta = targets.eta["test"][:, k].numpy()[keep["test"]]
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
        bands[targets.names[k]] = ConceptBand(report, scores["test"], y["test"], index)
    return bands


def _unusable(targets: Targets, k: int) -> str | None:
    """The reason why concept k can have no band; None where it can."""
    labels = {split: targets.y[split][targets.keep[split][:, k], k] for split in SPLITS}
    if not len(labels["validation"]):
        return "validation holds no image of it."
    one_sided = [s for s in SPLITS if s != "validation" and len(labels[s].unique()) < 2]
    return f"{', '.join(one_sided)}: only one of P and ¬P." if one_sided else None


def band_rows(bands: Bands) -> list[Row]:
    """Rows of every finite number of every band, and of the mean width over concepts."""
    rows = []
    for owner, concepts in bands.items():
        own = []
        for concept, band in concepts.items():
            metrics = {
                key.removeprefix("band/"): float(value)
                for key, value in band.report.metrics.items()
                if not isinstance(value, str) and math.isfinite(value)
            }
            interval = metrics.pop("width_lo"), metrics.pop("width_hi")
            for metric, value in metrics.items():
                ends = interval if metric == "width" else (None, None)
                own.append(Row("", "test", "band", owner, concept, metric, value, *ends))
        for metric in ("width", "plugin") if concepts else ():
            values = [row.value for row in find(own, metric=metric)]
            own.append(Row("", "test", "band", owner, MEAN, metric, sum(values) / len(values)))
        rows += own
    return rows


def band_record(bands: Bands) -> dict[str, Any]:
    """Content of band.json: concept -> network -> alarms, guarantee and curves."""

    def plain(curve: BandCurve) -> dict[str, Any]:
        return {
            "level": curve["level"].tolist(),
            "width": curve["width"].tolist(),
            "mean": curve["mean"],
        }

    return {
        concept: {
            owner: {
                "alarms": concepts[concept].report.alarms,
                "guarantee": concepts[concept].report.metrics["thr/guarantee"],
                "trivial": concepts[concept].report.metrics["thr/trivial"],
                "curves": {k: plain(c) for k, c in concepts[concept].report.curves.items()},
            }
            for owner, concepts in bands.items()
            if concept in concepts
        }
        for concept in dict.fromkeys(c for concepts in bands.values() for c in concepts)
    }
