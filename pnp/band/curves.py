"""Curves: width of the band over allowed error, all points from one sort."""

from typing import TypedDict

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from pnp.band.allowed import allowed_errors, sample_sizes
from pnp.band.cuts import Cuts, cuts
from pnp.band.inputs import (
    BUDGETS,
    METHODS,
    Budget,
    LabelledScores,
    Method,
    as_vector,
    fraction,
    labelled_scores,
)
from pnp.errors import UserError, choice

LEVELS = np.geomspace(1e-3, 1e-1, 21)  # allowed errors, 10 per decade
LEVELS.flags.writeable = False
_NO_LIMIT = 0.999  # where a ratio would carry the other budget past 1


class BandCurve(TypedDict):
    """`width` of shape (l,) at `level` of shape (l,), and its mean over that grid."""

    level: Float64[np.ndarray, " l"]
    width: Float64[np.ndarray, " l"]
    mean: float


def band_curve(
    scores: ArrayLike,
    y: ArrayLike,
    levels: ArrayLike = LEVELS,
    fn_ratio: float = 1.0,
    method: Method = "empirical",
    *,
    delta: float = 0.1,
    budget: Budget = "joint",
    calib_scores: ArrayLike | None = None,
    calib_y: ArrayLike | None = None,
) -> BandCurve:
    """Width of the band on `scores` for each budget: max_fp = level, max_fn = level * fn_ratio.

    By default thresholds and width come from the same samples (plug-in: the least noisy way to rank
    representations, without guarantee). For a certified curve pass calibration samples and
    `method="exact"`; each point then holds with probability 1 - delta, not all of them at once.
    `mean` is the plain mean over `levels`, hence over log-budgets if they are evenly spaced in log.

    Raises:
        UserError: as `ThreeWayThreshold.fit`, or if only one of the calibration arrays is given.

    Example:
        >>> curve = band_curve([-2.0, -1.0, 1.0, 2.0], [0, 1, 0, 1], levels=[0.1, 0.3])
        >>> curve["width"].tolist()
        [0.5, 0.0]
    """
    if (calib_scores is None) != (calib_y is None):
        raise UserError("band_curve: pass both calib_scores and calib_y, or neither.")
    choice("method", method, METHODS)
    choice("budget", budget, BUDGETS)
    max_fp, max_fn = curve_budgets(as_vector(levels, "levels"), fn_ratio)
    if calib_scores is None or calib_y is None:
        calibration = labelled_scores(scores, y)
        ordered = calibration.ordered
    else:
        calibration = labelled_scores(calib_scores, calib_y, "calib_scores", "calib_y")
        ordered = np.sort(as_vector(scores, "scores"))
    thresholds = curve_cuts(calibration, max_fp, max_fn, delta, method, budget)
    return curve(max_fp, thresholds.widths(ordered))


def curve_budgets(
    levels: Float64[np.ndarray, " l"], fn_ratio: float
) -> tuple[Float64[np.ndarray, " l"], Float64[np.ndarray, " l"]]:
    """Budgets max_fp and max_fn of each level.

    Raises:
        UserError: if a budget is outside (0, 1).
    """
    max_fn = np.minimum(levels * fn_ratio, _NO_LIMIT)
    for name, budgets in (("max_fp", levels), ("max_fn", max_fn)):
        for level in budgets:
            fraction(level, name)
    return levels, max_fn


def curve_cuts(
    calibration: LabelledScores,
    max_fp: Float64[np.ndarray, " l"],
    max_fn: Float64[np.ndarray, " l"],
    delta: float,
    method: Method,
    budget: Budget,
) -> Cuts:
    """Thresholds of every pair of valid budgets."""
    k_fp, k_fn = (
        np.array([allowed_errors(n, level, delta, method) for level in levels.tolist()])
        for n, levels in zip(sample_sizes(calibration, budget), (max_fp, max_fn), strict=True)
    )
    return cuts(calibration.negatives, calibration.positives, k_fp, k_fn)


def curve(level: Float64[np.ndarray, " l"], width: Float64[np.ndarray, " l"]) -> BandCurve:
    """Curve through the widths at each level."""
    return {"level": level, "width": width, "mean": float(width.mean())}
