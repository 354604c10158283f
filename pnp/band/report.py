"""What a score's band is worth: its curve over budgets, and the report of one concept."""

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float64, Int8
from numpy.typing import ArrayLike

from pnp.band.inputs import (
    Budget,
    Method,
    as_labels,
    as_posterior,
    as_vector,
    check_fraction,
    check_length,
    share,
    tied_share,
)
from pnp.band.oracle import OracleBand, oracle_band
from pnp.band.scores import clopper_pearson, score_metrics
from pnp.band.thresholds import ThreeWayThreshold
from pnp.errors import UserError

LEVELS = np.geomspace(1e-3, 1e-1, 21)  # allowed errors, 10 per decade
LEVELS.flags.writeable = False
_NO_LIMIT = 0.999  # where a ratio would carry the other budget past 1
Metrics = dict[str, float | bool | str]


class BandCurve(TypedDict):
    """`width` of shape (l,) at `level` of shape (l,), and its mean over that grid."""

    level: Float64[np.ndarray, " l"]
    width: Float64[np.ndarray, " l"]
    mean: float


@dataclass(frozen=True)
class BandReport:
    """One concept's numbers, alarms, calibrated threshold, and curves for the plots.

    `curves` holds `plugin`, `certified` and, where eta is known, `oracle`.
    """

    metrics: Metrics
    alarms: list[str]
    threshold: ThreeWayThreshold
    curves: dict[str, BandCurve]


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
    s, grid = as_vector(scores, "scores"), as_vector(levels, "levels")
    fit_s, fit_y = (s, y) if calib_scores is None or calib_y is None else (calib_scores, calib_y)
    width = np.empty(grid.size)
    for i, level in enumerate(grid.tolist()):
        threshold = ThreeWayThreshold(
            level, min(level * fn_ratio, _NO_LIMIT), delta, method, budget
        )
        width[i] = share(threshold.fit(fit_s, fit_y).predict(s) == -1)
    return {"level": grid, "width": width, "mean": float(width.mean())}


def band_report(
    calib_scores: ArrayLike,
    calib_y: ArrayLike,
    test_scores: ArrayLike,
    test_y: ArrayLike,
    *,
    max_fp: float,
    max_fn: float,
    delta: float = 0.1,
    method: Method = "exact",
    budget: Budget = "joint",
    test_eta: ArrayLike | None = None,
    test_classes: ArrayLike | None = None,
    levels: ArrayLike = LEVELS,
) -> BandReport:
    """Calibrate on one split, judge on the other: everything reported about one concept.

    Scores are logits. `*_lo`, `*_hi`, `*_ucb` are Clopper-Pearson bounds: at 1 - delta two-sided
    for the width, at 1 - delta/2 one-sided for each error, valid however the thresholds were made.

    Metrics beside those of `score_metrics` (on test):

    - `band/width`, `_lo`, `_hi`: share of test samples in the certified band; `band/plugin`:
      plug-in band of both splits pooled, the number to rank representations by;
      `band/curve_mean`, `band/curve_mean_certified`: see `band_curve`; `band/pos_rate`:
      P(Y=1 | band); `band/class/<c>`: share in the band of each class in `test_classes`.
    - `err/fp_joint`, `err/fn_joint`, `err/fpr`, `err/fnr`; `err/fp_budget`, `err/fp_ucb` and
      `err/fp_confirmed` (ucb <= budget), of the budgeted rate, joint or class-conditional, and the
      same for `fn`; `sel/risk`: P(wrong | not in the band).
    - `thr/t_lo`, `t_hi`, `crossed`, `trivial`, `k_fp`, `k_fn`, `guarantee`; `data/n_calib`,
      `data/n_test`, `data/pi1` (share of positives in test), `data/tied` (share of tied scores).
    - with `test_eta` = P(Y=1 | x): `err/fp_joint_eta` = mean((1-eta) 1_P) and `err/fn_joint_eta`,
      less noisy; `oracle/width`, `oracle/excess` = width - oracle = `oracle/extra` (in the band,
      not in the oracle's) - `oracle/erased` (the reverse); `oracle/recall`, `oracle/precision` of
      the band as a finder of the oracle's.

    A share of an empty set is NaN (for instance `sel/risk` when everything is in the band).

    Raises:
        UserError: as `ThreeWayThreshold.fit`, for either split, or if eta is outside [0, 1].
    """
    cs, ts = as_vector(calib_scores, "calib_scores"), as_vector(test_scores, "test_scores")
    cy = as_labels(calib_y, cs.size, "calib_y", need_both=True)
    ty = as_labels(test_y, ts.size, "test_y", need_both=True)
    threshold = ThreeWayThreshold(max_fp, max_fn, delta, method, budget).fit(cs, cy)
    region = threshold.predict(ts)
    pooled_s, pooled_y = np.concatenate([cs, ts]), np.concatenate([cy, ty])
    plugin = ThreeWayThreshold(max_fp, max_fn, delta, "empirical", budget).fit(pooled_s, pooled_y)
    ratio = max_fn / max_fp
    grid = as_vector(levels, "levels")
    curves = {
        "plugin": band_curve(pooled_s, pooled_y, grid, ratio, delta=delta, budget=budget),
        "certified": band_curve(
            ts, ty, grid, ratio, method, delta=delta, budget=budget, calib_scores=cs, calib_y=cy
        ),
    }
    metrics: Metrics = {
        **_width_metrics(region, ty, delta),
        "band/plugin": share(plugin.predict(pooled_s) == -1),
        "band/curve_mean": curves["plugin"]["mean"],
        "band/curve_mean_certified": curves["certified"]["mean"],
        **error_metrics(region, ty, threshold),
        **score_metrics(ts, ty),
        **threshold_metrics(threshold),
        "data/n_test": float(ts.size),
        "data/pi1": share(ty),
        "data/tied": tied_share(ts),
    }
    if test_classes is not None:
        classes = as_vector(test_classes, "test_classes")
        check_length(classes, ts.size, "test_classes")
        for c in np.unique(classes).tolist():
            metrics[f"band/class/{c:g}"] = share(region[classes == c] == -1)
    if test_eta is not None:
        eta = as_posterior(test_eta, ts.size)
        metrics |= oracle_metrics(region, eta, max_fp, max_fn, budget)
        widths = [_oracle(eta, a, min(a * ratio, _NO_LIMIT), budget)["band"] for a in grid.tolist()]
        width = np.asarray(widths, np.float64)
        curves["oracle"] = {"level": grid, "width": width, "mean": float(width.mean())}
    alarms = [*threshold.warnings_, *_alarms(metrics, region, ty, ts, threshold)]
    return BandReport(metrics, alarms, threshold, curves)


def error_metrics(
    region: Int8[np.ndarray, " n"], y: Bool[np.ndarray, " n"], threshold: ThreeWayThreshold
) -> Metrics:
    """Error rates of regions (1, 0, band) against labels, with bounds for the budgeted ones."""
    decided = int(np.count_nonzero(region != -1))
    metrics: Metrics = {}
    total = 0
    for side, rate, budgeted, k, of_class in _sides(region, y, threshold):
        total += k
        n = y.size if threshold.budget == "joint" else of_class
        ucb = clopper_pearson(k, n, threshold.delta / 2, "upper")[1]
        metrics[f"err/{side}_joint"] = k / y.size
        metrics[f"err/{rate}"] = k / of_class
        metrics[f"err/{side}_budget"] = float(budgeted)
        metrics[f"err/{side}_ucb"] = ucb
        metrics[f"err/{side}_confirmed"] = bool(ucb <= budgeted)
    return {**metrics, "sel/risk": total / decided if decided else math.nan}


def oracle_metrics(
    region: Int8[np.ndarray, " n"],
    eta: Float64[np.ndarray, " n"],
    max_fp: float,
    max_fn: float,
    budget: Budget = "joint",
) -> Metrics:
    """The band of `region` beside the irreducible one of the same samples, for known eta."""
    oracle = _oracle(eta, max_fp, max_fn, budget)
    inside, ideal = region == -1, oracle["membership"]
    width, best = share(inside), oracle["band"]
    both = float(ideal @ inside) / inside.size
    return {
        "err/fp_joint_eta": float((1 - eta) @ (region == 1)) / eta.size,
        "err/fn_joint_eta": float(eta @ (region == 0)) / eta.size,
        "oracle/width": best,
        "oracle/excess": width - best,
        "oracle/extra": width - both,
        "oracle/erased": max(best - both, 0.0),
        "oracle/recall": both / best if best > 0 else math.nan,
        "oracle/precision": both / width if width > 0 else math.nan,
    }


def threshold_metrics(threshold: ThreeWayThreshold) -> Metrics:
    """A fitted threshold as flat values for a logger."""
    return {
        "thr/t_lo": threshold.t_lo_,
        "thr/t_hi": threshold.t_hi_,
        "thr/crossed": threshold.crossed_,
        "thr/trivial": threshold.trivial_,
        "thr/k_fp": float(threshold.k_fp_),
        "thr/k_fn": float(threshold.k_fn_),
        "thr/guarantee": threshold.guarantee_,
        "data/n_calib": float(threshold.n_calib_),
    }


def _sides(
    region: Int8[np.ndarray, " n"], y: Bool[np.ndarray, " n"], threshold: ThreeWayThreshold
) -> list[tuple[str, str, float, int, int]]:
    """Per side: its names, budget, number of errors and size of the class that can err."""
    fp, fn = int(np.count_nonzero((region == 1) & ~y)), int(np.count_nonzero((region == 0) & y))
    positives = int(np.count_nonzero(y))
    return [
        ("fp", "fpr", threshold.max_fp, fp, y.size - positives),
        ("fn", "fnr", threshold.max_fn, fn, positives),
    ]


def _width_metrics(
    region: Int8[np.ndarray, " n"], y: Bool[np.ndarray, " n"], delta: float
) -> Metrics:
    inside = region == -1
    size = int(np.count_nonzero(inside))
    low, high = clopper_pearson(size, inside.size, delta)
    return {
        "band/width": size / inside.size,
        "band/width_lo": low,
        "band/width_hi": high,
        "band/pos_rate": share(y[inside]) if size else math.nan,
    }


def _oracle(
    eta: Float64[np.ndarray, " n"], max_fp: float, max_fn: float, budget: Budget
) -> OracleBand:
    if budget == "joint":
        return oracle_band(eta, max_fp, max_fn)
    prior = float(eta.mean())
    check_fraction(prior, "mean of eta")
    return oracle_band(eta, max_fp * (1 - prior), max_fn * prior)


def _alarms(
    metrics: Metrics,
    region: Int8[np.ndarray, " n"],
    y: Bool[np.ndarray, " n"],
    scores: Float64[np.ndarray, " n"],
    threshold: ThreeWayThreshold,
) -> list[str]:
    found: list[str] = []
    for side, _, budgeted, k, of_class in _sides(region, y, threshold):
        n = y.size if threshold.budget == "joint" else of_class
        # Not the upper bound: an honest band uses its budget, so on a test split of ordinary size
        # its upper bound passes the budget about every other time.
        low = clopper_pearson(k, n, threshold.delta / 2, "lower")[0]
        if low > budgeted:
            found.append(
                f"exceeded: {side} rate on test is {k}/{n} = {k / n:.4g}, beyond chance above its "
                f"budget {budgeted:g}. Calibration and test differ, or calibration was seen before."
            )
    if float(metrics["band/width_hi"]) < float(metrics.get("oracle/width", 0.0)):
        found.append(
            f"erasing: the band {metrics['band/width']:.4g} is narrower than the irreducible "
            f"{metrics['oracle/width']:.4g} beyond its interval, so a budget must be exceeded."
        )
    if float(metrics["data/tied"]) > 0.01:
        found.append(f"tied: {metrics['data/tied']:.1%} of the test scores equal another one.")
    if scores.min() >= 0 and scores.max() <= 1:
        found.append(
            "probabilities: all test scores are in [0, 1]. Pass logits: sel/* and cal/* read them "
            "as such, and rounded probabilities tie."
        )
    return found
