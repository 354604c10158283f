"""The report of one concept: width, errors, curves and alarms."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int8
from numpy.typing import ArrayLike

from pnp.band.curves import LEVELS, BandCurve, curve, curve_budgets, curve_cuts
from pnp.band.inputs import (
    BUDGETS,
    Budget,
    LabelledScores,
    Method,
    as_posterior,
    as_vector,
    check_length,
    labelled_scores,
)
from pnp.band.oracle import oracle_of, oracle_widths
from pnp.band.scores import clopper_pearson, metrics_of
from pnp.band.thresholds import ThreeWayThreshold
from pnp.errors import choice

Metrics = dict[str, float | bool | str]


@dataclass(frozen=True)
class BandReport:
    """One concept's numbers, alarms, calibrated threshold, and curves for the plots.

    `curves` holds `plugin`, `certified` and, where eta is known, `oracle`.
    """

    metrics: Metrics
    alarms: list[str]
    threshold: ThreeWayThreshold
    curves: dict[str, BandCurve]


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
    choice("budget", budget, BUDGETS)
    calibration = labelled_scores(calib_scores, calib_y, "calib_scores", "calib_y")
    test = labelled_scores(test_scores, test_y, "test_scores", "test_y")
    pooled = LabelledScores(
        np.concatenate([calibration.values, test.values]),
        np.concatenate([calibration.positive, test.positive]),
    )
    y = test.positive
    threshold = ThreeWayThreshold(max_fp, max_fn, delta, method, budget).calibrate(calibration)
    region = threshold.fitted_cuts.regions(test.values)[0]
    both = np.array([max_fp]), np.array([max_fn])
    plugin = curve_cuts(pooled, *both, delta, "empirical", budget)
    fp, fn = curve_budgets(as_vector(levels, "levels"), max_fn / max_fp)
    ranking = curve_cuts(pooled, fp, fn, delta, "empirical", budget)
    certified = curve_cuts(calibration, fp, fn, delta, method, budget)
    curves = {
        "plugin": curve(fp, ranking.widths(pooled.ordered)),
        "certified": curve(fp, certified.widths(test.ordered)),
    }
    metrics: Metrics = {
        **_width_metrics(region, y, delta),
        "band/plugin": float(plugin.widths(pooled.ordered)[0]),
        "band/curve_mean": curves["plugin"]["mean"],
        "band/curve_mean_certified": curves["certified"]["mean"],
        **error_metrics(region, y, threshold),
        **metrics_of(test),
        **threshold_metrics(threshold),
        "data/n_test": float(y.size),
        "data/pi1": float(y.mean()),
        "data/tied": test.tied_share,
    }
    if test_classes is not None:
        classes = as_vector(test_classes, "test_classes")
        check_length(classes, y.size, "test_classes")
        for c in np.unique(classes).tolist():
            metrics[f"band/class/{c:g}"] = float((region[classes == c] == -1).mean())
    if test_eta is not None:
        eta = as_posterior(test_eta, y.size)
        metrics |= oracle_metrics(region, eta, max_fp, max_fn, budget)
        curves["oracle"] = curve(fp, oracle_widths(eta, fp, fn, budget))
    alarms = [*threshold.warnings_, *_alarms(metrics, region, test, threshold)]
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
    oracle = oracle_of(eta, max_fp, max_fn, budget)
    inside, ideal = region == -1, oracle["membership"]
    width, best = float(inside.mean()), oracle["band"]
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
        "band/pos_rate": float(y[inside].mean()) if size else math.nan,
    }


def _alarms(
    metrics: Metrics,
    region: Int8[np.ndarray, " n"],
    test: LabelledScores,
    threshold: ThreeWayThreshold,
) -> list[str]:
    alarms: list[str] = []
    for side, _, budgeted, k, of_class in _sides(region, test.positive, threshold):
        n = test.values.size if threshold.budget == "joint" else of_class
        # Not the upper bound: an honest band uses its budget, so on a test split of ordinary size
        # its upper bound passes the budget about every other time.
        low = clopper_pearson(k, n, threshold.delta / 2, "lower")[0]
        if low > budgeted:
            alarms.append(
                f"exceeded: {side} rate on test is {k}/{n} = {k / n:.4g}, beyond chance above its "
                f"budget {budgeted:g}. Calibration and test differ, or calibration was seen before."
            )
    if float(metrics["band/width_hi"]) < float(metrics.get("oracle/width", 0.0)):
        alarms.append(
            f"erasing: the band {metrics['band/width']:.4g} is narrower than the irreducible "
            f"{metrics['oracle/width']:.4g} beyond its interval, so a budget must be exceeded."
        )
    if float(metrics["data/tied"]) > 0.01:
        alarms.append(f"tied: {metrics['data/tied']:.1%} of the test scores equal another one.")
    if test.ordered[0] >= 0 and test.ordered[-1] <= 1:
        alarms.append(
            "probabilities: all test scores are in [0, 1]. Pass logits: sel/* and cal/* read them "
            "as such, and rounded probabilities tie."
        )
    return alarms
