"""Budgets on what is answered: of the samples called P at most a share is wrong, likewise not-P."""

from typing import NamedTuple

import numpy as np
from scipy.special import bdtr  # pyright: ignore[reportMissingTypeStubs]

from pnp.band.inputs import LabelledScores

SIZES = 16  # sizes tried for each region; each more costs log(SIZES) in the certificate


class Answered(NamedTuple):
    """Thresholds (P above `t_hi`, not-P below `t_lo`) and calibration errors in each region."""

    t_lo: float
    t_hi: float
    errors_p: int
    errors_not_p: int


def answered_thresholds(
    calibration: LabelledScores, max_fp: float, max_fn: float, delta: float
) -> Answered:
    """The largest disjoint pair of certified regions.

    For each of `SIZES` sizes m, fixed beforehand, let t be the (m+1)-th largest score and K of the
    M samples above it be wrong. Given t and M these are a random sample of what lies above t, so
    K ~ Bin(M, share of wrong ones there), and P(Bin(M, max_fp) <= K) is a p-value for "the share
    exceeds max_fp". Regions with p <= delta/(2 SIZES) are certified, likewise below for not-P; by
    the union bound all of them hold at once with probability 1 - delta, so that any may be chosen.

    Args:
        calibration: scores and labels.
        max_fp: largest P(Y=0 | called P).
        max_fn: largest P(Y=1 | called not-P).
        delta: probability that either fails.
    """
    level = delta / (2 * SIZES)
    scores, wrong = calibration.values, ~calibration.positive
    above = [(np.inf, 0, 0), *_certified(scores, wrong, max_fp, level)]
    mirrored = _certified(-scores, ~wrong, max_fn, level)
    below = [(-np.inf, 0, 0), *((-t, m, k) for t, m, k in mirrored)]
    pairs = [(m + n, t_lo, t_hi, k, j) for t_hi, m, k in above for t_lo, n, j in below
             if t_lo <= t_hi]  # fmt: skip
    _, t_lo, t_hi, errors_p, errors_not_p = max(pairs)
    return Answered(t_lo, t_hi, errors_p, errors_not_p)


def least_answers(level: float, delta: float) -> int:
    """Answers that a region needs to be certified without any error among them."""
    return int(np.ceil(np.log(delta / (2 * SIZES)) / np.log1p(-level)))


def _certified(
    scores: np.ndarray, wrong: np.ndarray, share: float, level: float
) -> list[tuple[float, int, int]]:
    """Certified regions above a threshold: it, the samples in the region, the wrong ones."""
    order = np.argsort(-scores, kind="stable")
    ordered, errors = scores[order], np.concatenate([[0], np.cumsum(wrong[order])])
    least = np.log(level) / np.log1p(-share)
    if least > scores.size:
        return []
    sizes = np.unique(np.geomspace(max(1.0, np.ceil(least)), scores.size, SIZES).astype(int))
    regions: list[tuple[float, int, int]] = []
    for size in sizes.tolist():
        threshold = float(ordered[size]) if size < scores.size else -np.inf
        # Ties with the threshold stay outside.
        m = int(np.searchsorted(-ordered, -threshold, side="left"))
        k = int(errors[m])
        if m and bdtr(k, m, share) <= level:
            regions.append((threshold, m, k))
    return regions
