"""Thresholds as pure functions of valid, sorted scores: one sort serves any number of budgets."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64


class Cuts(NamedTuple):
    """Thresholds of l budgets, each of shape (l,): P above t_hi, not-P below t_lo.

    Where `crossed`, budgets were left over: t_lo == t_hi is one cut, and P includes it.
    """

    t_lo: Float64[np.ndarray, " l"]
    t_hi: Float64[np.ndarray, " l"]
    crossed: Bool[np.ndarray, " l"]

    def regions(
        self, scores: Float64[np.ndarray, " n"], abstain: int = -1
    ) -> Int8[np.ndarray, "l n"]:
        """1 in P, 0 in not-P and `abstain` in the band, for each budget."""
        low, high, crossed = self.t_lo[:, None], self.t_hi[:, None], self.crossed[:, None]
        in_p = (scores > high) | (crossed & (scores == high))
        return np.where(in_p, 1, np.where(scores < low, 0, abstain)).astype(np.int8)

    def widths(self, ordered: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " l"]:
        """Share of the ascending scores in the band of each budget."""
        below = np.searchsorted(ordered, self.t_lo, side="left")
        up_to = np.searchsorted(ordered, self.t_hi, side="right")
        return np.where(self.crossed, 0, up_to - below) / ordered.size


def cuts(
    negatives: Float64[np.ndarray, " m0"],
    positives: Float64[np.ndarray, " m1"],
    k_fp: Int64[np.ndarray, " l"],
    k_fn: Int64[np.ndarray, " l"],
) -> Cuts:
    """Thresholds of the largest regions that hold at most k_fp negatives and k_fn positives.

    Args:
        negatives: scores of label 0, ascending and not empty.
        positives: scores of label 1, ascending and not empty.
        k_fp: negatives allowed above t_hi, for each budget; -1 empties P.
        k_fn: positives allowed below t_lo, for each budget; -1 empties not-P.

    Example:
        >>> scores = np.array([0.0, 1.0, 4.0]), np.array([3.0, 5.0, 6.0])
        >>> t_lo, t_hi, crossed = cuts(*scores, k_fp=np.array([-1, 0, 1]), k_fn=np.array([0, 0, 1]))
        >>> t_lo.tolist(), t_hi.tolist(), crossed.tolist()
        ([3.0, 3.0, 4.5], [inf, 4.0, 4.5], [False, False, True])
    """
    t_lo, t_hi = limits(negatives, positives, k_fp, k_fn)
    return joined(t_lo, t_hi, negatives, positives)


def limits(
    negatives: Float64[np.ndarray, " m0"],
    positives: Float64[np.ndarray, " m1"],
    k_fp: Int64[np.ndarray, " l"],
    k_fn: Int64[np.ndarray, " l"],
) -> tuple[Float64[np.ndarray, " l"], Float64[np.ndarray, " l"]]:
    """t_lo and t_hi by themselves, as `cuts`; the regions overlap where t_lo > t_hi."""
    # The regions are s > t_hi and s < t_lo, strictly: ties with the order statistic stay out.
    t_hi = _order_statistics(negatives[::-1], k_fp, empty=math.inf)
    return _order_statistics(positives, k_fn, empty=-math.inf), t_hi


def joined(
    t_lo: Float64[np.ndarray, " l"],
    t_hi: Float64[np.ndarray, " l"],
    negatives: Float64[np.ndarray, " m0"],
    positives: Float64[np.ndarray, " m1"],
) -> Cuts:
    """Cuts of these limits: where they overlap, the cut between them with the fewest errors."""
    # Equality is no crossing: the tied scores at the common value are in neither region.
    crossed = t_lo > t_hi
    if crossed.any():
        t_lo, t_hi = t_lo.copy(), t_hi.copy()
        edges, errors = _cut_errors(negatives, positives)
        for i in np.flatnonzero(crossed):
            t_lo[i] = t_hi[i] = _best_cut(edges, errors, t_hi[i], t_lo[i])
    return Cuts(t_lo, t_hi, crossed)


def _order_statistics(
    worst_first: Float64[np.ndarray, " m"], k: Int64[np.ndarray, " l"], empty: float
) -> Float64[np.ndarray, " l"]:
    """Score of the first error too many; strictly beyond it lie at most k errors."""
    if not worst_first.size:
        return np.where(k < 0, empty, -empty)
    scores = worst_first[np.clip(k, 0, worst_first.size - 1)]
    return np.where(k < 0, empty, np.where(k < worst_first.size, scores, -empty))


def _cut_errors(
    negatives: Float64[np.ndarray, " m0"], positives: Float64[np.ndarray, " m1"]
) -> tuple[Float64[np.ndarray, " e"], Int64[np.ndarray, " c"]]:
    """Distinct scores between -inf and inf; errors of a cut below each but -inf, up to a constant.

    A cut between edges[i] and edges[i + 1] makes errors[i] + m0 errors.
    """
    edges = np.unique(np.concatenate([[-np.inf], negatives, positives, [np.inf]]))
    return edges, np.searchsorted(positives, edges[1:]) - np.searchsorted(negatives, edges[1:])


def _best_cut(
    edges: Float64[np.ndarray, " e"], errors: Int64[np.ndarray, " c"], low: float, high: float
) -> float:
    """The cut c in (low, high] with the fewest calibration errors of {s >= c} and {s < c}.

    Both regions shrink from {s > low} and {s < high}, so any such c keeps both guarantees.
    """
    first, last = np.searchsorted(edges, [low, high])  # both are edges
    allowed = errors[first:last]
    best = np.flatnonzero(allowed == allowed.min())
    i = int(first + best[best.size // 2])
    left, right = float(edges[i]), float(edges[i + 1])
    if math.isinf(left) or math.isinf(right):
        return left if math.isinf(left) else right
    middle = left / 2 + right / 2
    return middle if middle > left else right  # neighbouring floats have nothing between them
