"""Fitting deciders: heads on frozen features, certified thresholds, reference statistics."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp.band.inputs import Budgets
from pnp.band.scores import clopper_pearson
from pnp.band.several import fit_each
from pnp.band.thresholds import ThreeWayThreshold
from pnp.decider.decider import WORDS, Decider, Thresholds
from pnp.decider.labels import PARTS
from pnp.decider.parts import Part, Question
from pnp.errors import UserError
from pnp.evaluation.probes import L2_GRID, LinearProbe, Space, concept_heads, subset
from pnp.export.encoder import Encoder

# Few labels want more regularisation than the probes of a whole data set.
GRID = (1.0, 0.1, *L2_GRID)
# Calibration images kept for the shift test, and axes it looks along.
KEPT, AXES = 2_000, 16
LEAST = 20


def fit(
    encoder: Encoder, questions: Sequence[Question], budgets: Budgets, facts: Mapping[str, Any]
) -> list[Decider]:
    """Fit head and thresholds for each question; all guarantees hold at once.

    Several questions share delta. A question that needs no band leaves its share to the others: its
    cut lies in the middle of the band of head and validation images, so it is fixed beforehand.

    Args:
        encoder: frozen.
        questions: with disjoint parts head, validation and calibration, and test if there is one.
        budgets: to certify.
        facts: network, run and data, for `decider.json`.

    Raises:
        UserError: too few images, one class only, features that are not finite or all alike, or
            budgets out of range.
    """
    threshold = ThreeWayThreshold(**asdict(budgets))
    fitted, samples, cuts = [], {}, {}
    for question in questions:
        parts = {k: question.parts[k] for k in PARTS if len(question.parts.get(k, ()))}
        try:
            _check(parts)
        except UserError as error:
            raise UserError(f"{question.name}: {error}" if questions[1:] else error) from error
        weight, bias = head = _head(parts["head"], parts["validation"])
        scores = {k: (part.features.double() @ weight + bias).numpy() for k, part in parts.items()}
        part = parts["calibration"]
        groups = () if part.groups is None else (part.groups,)
        samples[question.name] = (scores["calibration"], part.y.numpy(), *groups)
        cuts[question.name] = _cut(scores, parts, budgets)
        fitted.append((question, parts, head, scores))
    holm = len(questions) > 1 and budgets.method == "exact" and budgets.budget != "answered"
    bands = fit_each(threshold, samples, cuts if holm else None)
    return [
        _decider(encoder, question, parts, head, scores, bands, budgets, facts)
        for question, parts, head, scores in fitted
    ]


def _decider(
    encoder: Encoder,
    question: Question,
    parts: Mapping[str, Part],
    head: tuple[Tensor, float],
    scores: Mapping[str, np.ndarray],
    bands: Mapping[str, ThreeWayThreshold],
    budgets: Budgets,
    facts: Mapping[str, Any],
) -> Decider:
    band = bands[question.name]
    calibration = parts["calibration"]
    cut = Thresholds(float(band.t_lo_), float(band.t_hi_), bool(band.crossed_))
    own = {**asdict(budgets), "delta": band.delta}
    table: dict[str, Any] = {}
    for name in (n for n in ("calibration", "test") if n in parts):
        part, values, y = parts[name], scores[name], parts[name].y.numpy()
        table[name] = _measured(cut, values, y, own)
        for group in () if part.groups is None else np.unique(part.groups).tolist():
            rows = part.groups == group
            table[f"{name}, {group}"] = _measured(cut, values[rows], y[rows], own)
    known = {
        "concept": {"name": question.name, "meaning": question.meaning},
        **facts,
        "budgets": own,
        "thresholds": {"t_lo": str(cut.t_lo), "t_hi": str(cut.t_hi), "crossed": cut.crossed},
        "guarantee": guarantee(band, budgets.delta, list(bands)),
        "calibration": {
            "images": band.n_calib_,
            "positives": int(calibration.y.sum()),
            "k_fp": int(band.k_fp_),
            "k_fn": int(band.k_fn_),
            "trivial": band.trivial_,
        },
        "parts": {
            name: {"images": len(part), "positives": int(part.y.sum()), "digest": _digest(part)}
            for name, part in parts.items()
        },
        "columns": dict(question.columns or {}),
        "measured": table,
        "warnings": list(band.warnings_),
        "notes": list(question.notes),
    }
    return Decider(encoder, *head, known, _reference(parts, scores["calibration"]))


def guarantee(band: ThreeWayThreshold, delta: float, together: Sequence[str]) -> str:
    """The promise of the thresholds, in words.

    Args:
        band: fitted.
        delta: of all deciders fitted together.
        together: their concepts.
    """
    if band.method != "exact":
        return str(band.guarantee_)
    wrong_p, wrong_not = {
        "joint": ("of all images are wrongly called P", "of all images are wrongly called not-P"),
        "class_conditional": (
            "of the not-P images are called P", "of the P images are called not-P",
        ),
        "answered": (
            "of the images called P are not P", "of the images called not-P are P",
        ),
    }[band.budget]  # fmt: skip
    sure, a, b = (100 * v for v in (1 - delta, band.max_fp, band.max_fn))
    others = len(together) > 1
    keep = f" {len(together)} deciders ({', '.join(together)}) keep their budgets at once; here,"
    each = f" in each of the groups {', '.join(band.groups_)}," if band.groups_ else ""
    return (
        f"With probability at least {sure:.3g} % over the draw of the {band.n_calib_:,} "
        f"calibration images,{keep * others}{each} at most {a:.3g} % {wrong_p} and at most "
        f"{b:.3g} % {wrong_not}, for images from the same source as the calibration images."
    )


def _check(parts: Mapping[str, Part]) -> None:
    total = sum(map(len, parts.values()))
    sizes = ", ".join(f"{name} {len(part):,}" for name, part in parts.items())
    for name in ("head", "validation", "calibration"):
        if name not in parts or total < LEAST:
            raise UserError(
                f"{total:,} labelled images ({sizes or 'none'}) are too few for head, validation "
                f"and calibration: label at least {LEAST}, better 1,000."
            )
    for name in ("head", "calibration"):
        count = int(parts[name].y.sum())
        if count in (0, len(parts[name])):
            raise UserError(
                f"the {len(parts[name]):,} images of the {name} part are all "
                f"{'P' if count else 'not-P'} (of all {total:,} labelled images {sizes}). Label "
                f"images of the other kind, or check what counts as P."
            )
    for name, part in parts.items():
        bad = int((~part.features.isfinite().all(1)).sum())
        if bad:
            raise UserError(
                f"the features of {bad:,} of {len(part):,} {name} images are not finite: the "
                "encoder is damaged, or was trained to NaN. Choose another checkpoint."
            )
    if float(parts["head"].features.std(0).max()) < 1e-6:
        raise UserError(
            "all images have the same features: the encoder has collapsed. Choose another run; "
            "pnp-doctor and the alarms of the run tell why."
        )


def _head(head: Part, validation: Part) -> tuple[Tensor, float]:
    """Weight (d,) and bias on raw features: the probe of the concept in one affine map."""
    space = Space.of(head.features)
    train, choose = (
        (space(p.features), p.y.float()[:, None], torch.ones(len(p), 1, dtype=torch.bool))
        for p in (head, validation)
    )
    probe: LinearProbe = concept_heads(train, choose, space, GRID)
    w = probe.weight[0].double()
    if space.rotation is not None:
        w = space.rotation.double() @ w
    w = w / space.scale.double()
    w[head.features.std(0) < 1e-6] = 0.0  # dead on these images says nothing about others
    return w, float(probe.bias[0]) - float(space.mean.double() @ w)


def _cut(scores: Mapping[str, np.ndarray], parts: Mapping[str, Part], budgets: Budgets) -> float:
    """The middle of the empirical band of the images that chose the head."""
    seen, y = (
        np.concatenate([values[name] for name in ("head", "validation")])
        for values in (scores, {name: part.y.numpy() for name, part in parts.items()})
    )
    kind = "joint" if budgets.budget == "answered" else budgets.budget
    band = ThreeWayThreshold(budgets.max_fp, budgets.max_fn, method="empirical", budget=kind)
    band.fit(seen, y)
    middle = (band.t_lo_ + band.t_hi_) / 2
    return middle if np.isfinite(middle) else 0.0


def _measured(
    cut: Thresholds, scores: np.ndarray, y: np.ndarray, budgets: Mapping[str, Any]
) -> dict[str, Any]:
    """Counts of each answer and of both errors, with exact upper bounds at 1 − delta/2."""
    region = cut.regions(scores)
    row: dict[str, Any] = {"images": len(scores)}
    row |= {word: int((region == code).sum()) for code, word in WORDS.items()}
    wrong = {"fp": (region == 1) & ~y, "fn": (region == 0) & y}
    for side, rows in counted(budgets["budget"], region, y).items():
        k, of = int(wrong[side].sum()), int(rows.sum())
        bound = clopper_pearson(k, of, budgets["delta"] / 2, "upper")[1] if of else 1.0
        row |= {side: k, f"{side}_of": of, f"{side}_at_most": bound}
    return row


def counted(budget: str, region: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The images that each budget is a share of: all, those of the class, or those answered so."""
    if budget == "joint":
        return dict.fromkeys(("fp", "fn"), np.ones_like(y))
    if budget == "class_conditional":
        return {"fp": ~y, "fn": y}
    return {"fp": region == 1, "fn": region == 0}


def _reference(parts: Mapping[str, Part], scores: np.ndarray) -> dict[str, Tensor]:
    """Tensors for the shift test, the planner and the recognition of known images.

    The axes come from the head's images, so that calibration images and new ones are exchangeable
    under the hypothesis of no shift.
    """
    calibration = parts["calibration"]
    space = Space.of(parts["head"].features)
    if space.rotation is not None:
        axes = space.rotation[:, -AXES:].flip(1)
    else:
        seeded = torch.Generator().manual_seed(0)
        axes = torch.linalg.qr(torch.randn(len(space.mean), AXES, generator=seeded))[0]
    axes = axes / space.scale[:, None]
    axes[parts["head"].features.std(0) < 1e-6] = 0.0
    some = subset(len(calibration), KEPT)
    return {
        "axes": axes,
        "features": (calibration.features - space.mean)[some] @ axes,
        "mean": space.mean,
        "calibration_scores": torch.from_numpy(scores),
        "calibration_y": calibration.y.to(torch.uint8),
        "kept": some,
        **{f"hashes_{name}": part.hashes for name, part in parts.items()},
    }


def _digest(part: Part) -> str:
    return hashlib.sha256(part.hashes.sort().values.numpy().tobytes()).hexdigest()[:16]
