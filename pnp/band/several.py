"""Thresholds for several concepts, or for groups that each get their own, that hold all at once."""

from collections.abc import Mapping
from copy import copy

from numpy.typing import ArrayLike

from pnp.band.inputs import labelled_scores
from pnp.band.thresholds import ThreeWayThreshold
from pnp.errors import UserError


def fit_each(
    threshold: ThreeWayThreshold,
    samples: Mapping[str, tuple[ArrayLike, ...]],
    cuts: Mapping[str, float] | None = None,
) -> dict[str, ThreeWayThreshold]:
    """Calibrate K thresholds so that all their guarantees hold at once.

    Each gets delta/K (Bonferroni), whatever the dependence between them: with probability 1 - delta
    every budget holds for every one of them. With `cuts`, scores that were fixed before the
    calibration samples were seen, regions end at the cut; where both reach it no band is left, that
    concept is finished, and its share of delta goes to the others (Holm 1979; proof: docs/band.md).

    Args:
        threshold: budgets and delta for all together; it stays as it is.
        samples: concept or group -> calibration scores and labels, and groups if there are any, as
            in `ThreeWayThreshold.fit`.
        cuts: concept or group -> score. Only with `exact` budgets on classes or all samples.

    Raises:
        UserError: nothing to fit, or as `ThreeWayThreshold.fit`, with the name of the concept.

    Example:
        >>> both = {"left": ([-2.0, 2.0], [0, 1]), "right": ([-1.0, 3.0], [0, 1])}
        >>> fit_each(ThreeWayThreshold(0.1, 0.1, delta=0.2), both)["left"].delta
        0.1
    """
    if not samples:
        raise UserError("samples is empty: give at least one group or concept.")
    if cuts is not None and (threshold.method != "exact" or threshold.budget == "answered"):
        raise UserError("cuts go with method=exact and budget=joint or class_conditional.")
    fits: dict[str, ThreeWayThreshold] = {}
    left = list(samples)
    while left:
        for name in left:
            fresh = copy(threshold)
            fresh.delta = threshold.delta / len(left)
            scores, y, *groups = samples[name]
            try:
                valid = labelled_scores(scores, y, groups=groups[0] if groups else None)
                fits[name] = fresh.calibrate(valid, cut=None if cuts is None else cuts[name])
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        unfinished = [name for name in left if not fits[name].crossed_]
        if cuts is None or len(unfinished) == len(left):
            break
        left = unfinished
    return {name: fits[name] for name in samples}
