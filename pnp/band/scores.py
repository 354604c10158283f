"""Quality of a score before any threshold: ranking, selective risk, calibration; intervals."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike
from scipy.special import betaincinv, expit  # pyright: ignore[reportMissingTypeStubs]

from pnp.band.inputs import LabelledScores, as_labels, as_vector, fraction, labelled_scores
from pnp.errors import UserError, choice


def clopper_pearson(
    k: int, n: int, delta: float = 0.05, side: Literal["two-sided", "upper", "lower"] = "two-sided"
) -> tuple[float, float]:
    """Exact binomial interval for a rate of which k in n were seen (Clopper and Pearson 1934).

    It misses the rate with probability at most `delta`, all of it on one side if `side` is "upper"
    (low end 0) or "lower" (high end 1).

    Raises:
        UserError: if not 0 <= k <= n with n >= 1, or `delta` is not in (0, 1).

    Example:
        >>> low, high = clopper_pearson(0, 299, delta=0.05, side="upper")
        >>> (low, round(high, 4))
        (0.0, 0.01)
    """
    delta = fraction(delta, "delta")
    choice("side", side, ("two-sided", "upper", "lower"))
    if n < 1 or not 0 <= k <= n:
        raise UserError(f"k={k}, n={n}: expected n >= 1 trials with 0 <= k <= n.")
    tail = delta / 2 if side == "two-sided" else delta
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 and side != "upper" else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n and side != "lower" else 1.0
    return low, high


def auroc(scores: ArrayLike, y: ArrayLike) -> float:
    """P(score of a positive > score of a negative) + P(equal)/2, for scores and 0/1 labels (n,).

    Raises:
        UserError: as `score_metrics`.
    """
    return _auroc(labelled_scores(scores, y))


def risk_coverage(scores: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """AURC and AUGRC of logits (n,) and 0/1 labels (n,), with ties averaged.

    The prediction is the sign of the logit (P if >= 0) and the confidence |logit|. With E_i errors
    among the i most confident of n samples, AURC = mean_i E_i / i (selective risk; Geifman and
    El-Yaniv 2017) and AUGRC = mean_i E_i / n (generalised, that is joint, risk; Traub et al. 2024).
    Samples of equal confidence share their errors evenly: the expectation over their order, so that
    the order in which samples arrive does not matter.

    Raises:
        UserError: as `score_metrics`, but one class may be missing.

    Example:
        >>> aurc, augrc = risk_coverage([3.0, -2.0, 1.0, -0.5], [1, 0, 0, 0])
        >>> round(aurc, 4), round(augrc, 4)
        (0.1458, 0.125)
    """
    s = as_vector(scores, "scores")
    return _risk_coverage(s, as_labels(y, s.size))


def score_metrics(scores: ArrayLike, y: ArrayLike, bins: int = 15) -> dict[str, float]:
    """Metrics of logits (n,) and 0/1 labels (n,) that need no threshold.

    `rank/auroc`; `sel/aurc` and `sel/augrc` (see `risk_coverage`); and with p = sigmoid(logit):
    `cal/ece` (expected calibration error of p, `bins` equal bins), `cal/brier` (mean squared
    error) and `cal/logloss` (nats).

    Raises:
        UserError: on NaN, infinite, empty or 2-D scores, labels other than 0/1, a missing class.
    """
    return metrics_of(labelled_scores(scores, y), bins)


def metrics_of(test: LabelledScores, bins: int = 15) -> dict[str, float]:
    """Metrics of `score_metrics` for scores that are already validated."""
    s, positive = test.values, test.positive
    p = expit(s)
    cell = np.minimum((p * bins).astype(np.int64), bins - 1)
    residual = p - positive
    gap = np.bincount(cell, weights=residual, minlength=bins)
    aurc, augrc = _risk_coverage(s, positive)
    return {
        "rank/auroc": _auroc(test),
        "sel/aurc": aurc,
        "sel/augrc": augrc,
        "cal/ece": float(np.abs(gap).sum() / s.size),
        "cal/brier": float(residual @ residual) / s.size,
        "cal/logloss": float(np.mean(np.logaddexp(0.0, np.where(positive, -s, s)))),
    }


def _auroc(test: LabelledScores) -> float:
    """Share of the pairs won by the positive, in whole numbers of half pairs."""
    wins = sum(
        int(np.searchsorted(test.negatives, test.positives, side).sum())
        for side in ("left", "right")
    )
    return wins / 2 / (test.positives.size * test.negatives.size)


def _risk_coverage(
    s: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]
) -> tuple[float, float]:
    wrong = (s >= 0) != positive
    group, counts = np.unique(-np.abs(s), return_inverse=True, return_counts=True)[1:]
    share = np.bincount(group, weights=wrong, minlength=counts.size) / counts
    errors = np.cumsum(np.repeat(share, counts))
    accepted = np.arange(1, s.size + 1)
    return float(np.mean(errors / accepted)), float(np.mean(errors) / s.size)
