"""Fitting a decider: a head on frozen features, certified thresholds, reference statistics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pnp.band.inputs import Budget, Method
from pnp.band.scores import clopper_pearson
from pnp.band.thresholds import ThreeWayThreshold
from pnp.data.imageset import ImageSet
from pnp.decider.decider import BATCH, Decider, Thresholds, features
from pnp.decider.images import Reader, content_hashes, find
from pnp.decider.labels import PARTS, Shares, divide, read_labels
from pnp.errors import UserError
from pnp.evaluation.probes import L2_GRID, LinearProbe, Space, concept_heads, subset
from pnp.export.encoder import Encoder

# Few labels want more regularisation than the probes of a whole data set.
GRID = (1.0, 0.1, *L2_GRID)
# Images that fit the head, calibration images kept for the shift test, and axes it looks along.
HEAD, KEPT, AXES = 50_000, 2_000, 16
LEAST = 20


@dataclass(frozen=True)
class Budgets:
    """Error budgets of a decider.

    Args:
        max_fp: share of images called P that are ¬P.
        max_fn: share of images called ¬P that are P.
        delta: probability that the draw of the calibration images breaks a budget.
        method: `exact`, `crc` or `empirical`; see `pnp.band.ThreeWayThreshold`.
        budget: `joint` (of all images), `class_conditional` (of the images of the class) or
            `answered` (of the images with that answer).
    """

    max_fp: float = 0.01
    max_fn: float = 0.01
    delta: float = 0.1
    method: Method = "exact"
    budget: Budget = "joint"


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled images of one part: features (n, d), True for P (n,), content hashes (n,)."""

    features: Float[Tensor, "n d"]
    y: Bool[Tensor, " n"]
    hashes: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Int64[Tensor, " m"]) -> "Part":
        """These rows."""
        return Part(self.features[rows], self.y[rows], self.hashes[rows])


def part_of_set(
    encoder: Encoder,
    images: ImageSet,
    y: Bool[Tensor, " n"],
    keep: Bool[Tensor, " n"],
    advance: Callable[[int], object] = lambda done: None,
    most: int = HEAD,
) -> Part:
    """The images of a data set that count for a concept, embedded.

    Args:
        encoder: of the decider.
        images: one split.
        y: True for P.
        keep: images that count.
        advance: called with the number of images done.
        most: images to use; more are drawn from, always the same ones.
    """
    rows = keep.nonzero().flatten()
    rows = rows[subset(len(rows), most).sort().values]
    found, hashes = [], []
    for piece in rows.split(BATCH):
        pixels = images.batch(piece).cpu()
        found.append(features(encoder, pixels))
        hashes.append(content_hashes(pixels))
        advance(len(piece))
    return Part(torch.cat(found), y[rows], torch.cat(hashes))


def parts_of_folder(
    encoder: Encoder,
    labels: str | Path | Sequence[str],
    images: str | Path,
    shares: Shares,
    advance: Callable[[int], object] = lambda done: None,
) -> tuple[dict[str, Part], list[str]]:
    """Labelled image files, embedded and divided into head, validation, calibration and test.

    Returns:
        The parts, and sentences on everything that was left out or changed.

    Raises:
        UserError: as `find`, `read_labels` and `divide`; or no labelled image can be read.
    """
    from dataclasses import replace

    root, names, others = find(images)
    given = read_labels(labels, names)
    notes = [*given.notes, *ignored(others)]
    reader = Reader(encoder.channels, encoder.size)
    found, hashes, bad, good = [], [], [], set[str]()
    for read, pixels, failed in reader.stream(root, [row.file for row in given.rows]):
        found.append(features(encoder, pixels))
        hashes.append(content_hashes(pixels))
        good |= set(read)
        bad += failed
        advance(len(read) + len(failed))
    if bad:
        some = "; ".join(f"{name} ({reason})" for name, reason in bad[:3])
        notes.append(f"unreadable: {len(bad):,} labelled images: {some}{' …' * (len(bad) > 3)}.")
    if not good:
        raise UserError(f"images={images}: no labelled image can be read. {notes[-1]}")
    rows = tuple(row for row in given.rows if row.file in good)
    everything = Part(
        torch.cat(found), torch.tensor([row.positive for row in rows]), torch.cat(hashes)
    )
    divided = divide(replace(given, rows=rows), everything.hashes, shares)
    repeated = len(rows) - sum(map(len, divided.values()))
    if repeated:
        notes.append(f"repeated: {repeated:,} images occur under several names; counted once.")
    parts = {name: everything.take(torch.tensor(i).long()) for name, i in divided.items()}
    if not len(parts["validation"]):  # all parts were given, and this one was not among them
        head = parts["head"]
        turn = torch.arange(len(head)) % 5 == 0
        parts["validation"] = head.take(turn.nonzero().flatten())
        parts["head"] = head.take((~turn).nonzero().flatten())
        notes.append("validation: a fifth of the head's images choose its regularisation.")
    return parts, notes + reader.notes


def ignored(others: int) -> list[str]:
    """A note on files that are no images by their ending."""
    return [f"other files: {others:,} are no images by their ending; left out."] if others else []


def fit(
    encoder: Encoder,
    parts: Mapping[str, Part],
    budgets: Budgets,
    facts: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Decider:
    """Fit head and thresholds.

    Args:
        encoder: frozen.
        parts: head, validation and calibration, and test if there is one; disjoint.
        budgets: to certify.
        facts: concept, network, run and data, for `decider.json`.
        notes: sentences on the data, for `decider.json`.

    Raises:
        UserError: too few images, one class only, features that are not finite or all alike, or
            budgets out of range.
    """
    parts = {name: parts[name] for name in PARTS if name in parts and len(parts[name])}
    _check(parts)
    weight, bias = _head(parts["head"], parts["validation"])
    calibration = parts["calibration"]
    scores = _scores(calibration, weight, bias)
    band = ThreeWayThreshold(**asdict(budgets)).fit(scores, calibration.y.numpy())
    cut = Thresholds(float(band.t_lo_), float(band.t_hi_), bool(band.crossed_))
    table = {
        name: _measured(cut, _scores(parts[name], weight, bias), parts[name].y.numpy(), budgets)
        for name in ("calibration", "test")
        if name in parts
    }
    known = {
        **facts,
        "budgets": asdict(budgets),
        "thresholds": {"t_lo": str(cut.t_lo), "t_hi": str(cut.t_hi), "crossed": cut.crossed},
        "guarantee": guarantee(budgets, band),
        "calibration": {
            "images": band.n_calib_,
            "positives": int(calibration.y.sum()),
            "k_fp": int(band.k_fp_),
            "k_fn": int(band.k_fn_),
            "trivial": band.trivial_,
        },
        "parts": {
            name: {
                "images": len(part),
                "positives": int(part.y.sum()),
                "digest": _digest(part.hashes),
            }
            for name, part in parts.items()
        },
        "measured": table,
        "warnings": list(band.warnings_),
        "notes": list(notes),
    }
    reference = _reference(parts, scores)
    return Decider(encoder, weight, bias, known, reference)


def guarantee(budgets: Budgets, band: ThreeWayThreshold) -> str:
    """The promise of the thresholds, in words."""
    if budgets.method != "exact":
        return str(band.guarantee_)
    wrong_p, wrong_not = {
        "joint": ("of all images are wrongly called P", "of all images are wrongly called not-P"),
        "class_conditional": (
            "of the not-P images are called P", "of the P images are called not-P",
        ),
        "answered": (
            "of the images called P are not P", "of the images called not-P are P",
        ),
    }[budgets.budget]  # fmt: skip
    sure, a, b = (100 * v for v in (1 - budgets.delta, budgets.max_fp, budgets.max_fn))
    return (
        f"With probability at least {sure:.3g} % over the draw of the {band.n_calib_:,} "
        f"calibration images, at most {a:.3g} % {wrong_p} and at most {b:.3g} % {wrong_not}, for "
        "images from the same source as the calibration images."
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


def _scores(part: Part, weight: Tensor, bias: float) -> np.ndarray:
    return (part.features.double() @ weight + bias).numpy()


def _measured(
    cut: Thresholds, scores: np.ndarray, y: np.ndarray, budgets: Budgets
) -> dict[str, Any]:
    """Counts of each answer and of both errors, with exact upper bounds at 1 − delta/2."""
    region, n = cut.regions(scores), len(scores)
    errors = {"fp": int(((region == 1) & ~y).sum()), "fn": int(((region == 0) & y).sum())}
    of = {side: int(rows.sum()) for side, rows in counted(budgets.budget, region, y).items()}
    row: dict[str, Any] = {"images": n, "P": int((region == 1).sum())}
    row |= {"notP": int((region == 0).sum()), "uncertain": int((region == -1).sum())}
    for side, count in errors.items():
        bound = clopper_pearson(count, of[side], budgets.delta / 2, "upper")[1] if of[side] else 1.0
        row |= {side: count, f"{side}_of": of[side], f"{side}_at_most": bound}
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


def _digest(hashes: Int64[Tensor, " n"]) -> str:
    import hashlib

    return hashlib.sha256(hashes.sort().values.numpy().tobytes()).hexdigest()[:16]
