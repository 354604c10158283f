"""Two thresholds on a score, P / band / not-P, whose error budgets hold for finite samples."""

import math

import numpy as np
from jaxtyping import Bool, Float64, Int8
from numpy.typing import ArrayLike
from scipy.special import bdtr, bdtrik  # pyright: ignore[reportMissingTypeStubs]
from sklearn.base import BaseEstimator  # pyright: ignore[reportMissingTypeStubs]
from sklearn.utils.validation import (  # pyright: ignore[reportMissingTypeStubs]
    check_is_fitted,  # pyright: ignore[reportUnknownVariableType]
)

from pnp.band.inputs import (
    Budget,
    Method,
    as_labels,
    as_vector,
    check_choice,
    check_fraction,
    tied_share,
)
from pnp.errors import UserError

_METHODS = ("exact", "crc", "empirical")
_SLACK = 1 + 1e-12  # so that .29 * 100 = 28.999999999999996 counts as 29


def allowed_errors(n: int, level: float, delta: float = 0.1, method: Method = "exact") -> int:
    """How many of `n` calibration errors one side may hold so that its true error rate <= `level`.

    - `exact`: max{k: P(Bin(n, level) <= k) <= delta/2}: P(rate > level) <= delta/2 (Wilks 1941;
      Clopper-Pearson; Tong, Feng, Li 2018). The other half of `delta` is for the other side.
    - `crc`: floor(level (n+1)) - 1: E[rate] <= level (conformal risk control, arXiv 2208.02814).
    - `empirical`: floor(level n): no guarantee, least noise; for ranking representations.

    Returns:
        k >= -1; -1 means that even no error proves nothing: the region must stay empty.

    Raises:
        UserError: if n < 1, `level` or `delta` is not in (0, 1), or `method` is unknown.

    Example:
        >>> [allowed_errors(2000, 0.01, 0.1, m) for m in ("exact", "crc", "empirical")]
        [12, 19, 20]
    """
    level, delta = check_fraction(level, "level"), check_fraction(delta, "delta")
    check_choice(method, _METHODS, "method")
    if n < 1:
        raise UserError(f"n={n}, expected at least one calibration sample.")
    if method == "empirical":
        return math.floor(level * n * _SLACK)
    if method == "crc":
        return math.floor(level * (n + 1) * _SLACK) - 1
    # bdtrik inverts the binomial tail in floating point: start near it and step to the exact k.
    start = float(bdtrik(delta / 2, n, level))
    k = max(int(start), 0) if math.isfinite(start) else 0
    while k >= 0 and bdtr(k, n, level) > delta / 2:
        k -= 1
    while bdtr(k + 1, n, level) <= delta / 2:
        k += 1
    return k


def min_calibration_size(level: float, delta: float = 0.1, method: Method = "exact") -> int:
    """Smallest n for which `allowed_errors(n, level, delta, method)` is not -1.

    Raises:
        UserError: if `level` or `delta` is not in (0, 1), or `method` is unknown.

    Example:
        >>> min_calibration_size(0.01), min_calibration_size(0.001)
        (299, 2995)
    """
    level, delta = check_fraction(level, "level"), check_fraction(delta, "delta")
    check_choice(method, _METHODS, "method")
    if method == "empirical":
        return 1
    exact = math.log(delta / 2) / math.log1p(-level)
    n = max(1, math.floor(exact if method == "exact" else 1 / level - 1) - 1)
    while allowed_errors(n, level, delta, method) < 0:  # at most three steps, right to the last ulp
        n += 1
    return n


class ThreeWayThreshold(BaseEstimator):
    """Calibrates t_lo and t_hi: P above t_hi, not-P below t_lo, the band ("uncertain") between.

    Each region is the largest that holds at most k calibration errors (see `allowed_errors`).
    Calibration samples must be exchangeable with those to be judged, and unseen by whatever made
    the scores: pre-training, head, early stopping and the choice of model.

    Args:
        max_fp: budget of P(in P and Y=0); with `class_conditional`, of P(in P | Y=0).
        max_fn: budget of P(in not-P and Y=1); with `class_conditional`, of P(in not-P | Y=1).
        delta: `exact` only: both budgets hold with probability 1 - delta over the calibration
            draw. For K concepts at once pass delta / K.
        method: `exact`, `crc` or `empirical`, see `allowed_errors`.
        budget: `joint` (share of all samples) or `class_conditional` (share of the class).
        abstain_value: what `predict` returns in the band; an int8 other than 0 and 1.

    Attributes:
        t_lo_, t_hi_: the thresholds, in units of the score; +-inf where a region is empty or all.
        crossed_: budgets were left over, so that one cut (t_lo_ == t_hi_) replaces an empty band.
        k_fp_, k_fn_: calibration errors allowed on each side; -1: too few samples to allow any.
        n_calib_: calibration samples, of both classes.
        trivial_: "", "fp", "fn" or "both": budgets that are met by erring on every such sample.
        guarantee_: what holds, as a sentence.
        warnings_: what a reader of the band must know, as sentences; empty if all is well.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scores = rng.normal(size=4000)
        >>> y = rng.random(4000) < 1 / (1 + np.exp(-4 * scores))
        >>> band = ThreeWayThreshold(max_fp=0.05, max_fn=0.05).fit(scores, y)
        >>> band.predict([-3.0, 0.0, 3.0])
        array([ 0, -1,  1], dtype=int8)
    """

    def __init__(
        self,
        max_fp: float,
        max_fn: float,
        delta: float = 0.1,
        method: Method = "exact",
        budget: Budget = "joint",
        abstain_value: int = -1,
    ) -> None:
        """Store the parameters; `fit` checks them (scikit-learn's convention)."""
        self.max_fp = max_fp
        self.max_fn = max_fn
        self.delta = delta
        self.method: Method = method
        self.budget: Budget = budget
        self.abstain_value = abstain_value

    def fit(self, scores: ArrayLike, y: ArrayLike) -> "ThreeWayThreshold":
        """Calibrate on scores (n,), best logits (higher = P), and labels 0/1 (n,).

        Raises:
            UserError: on NaN, infinite, empty or 2-D scores, labels other than 0/1, a missing
                class, or parameters out of range.
        """
        check_choice(self.method, _METHODS, "method")
        check_choice(self.budget, ("joint", "class_conditional"), "budget")
        if self.abstain_value in (0, 1) or not -128 <= self.abstain_value <= 127:
            raise UserError(f"abstain_value={self.abstain_value}, expected an int8 but 0 and 1.")
        max_fp, max_fn = (
            check_fraction(self.max_fp, "max_fp"),
            check_fraction(self.max_fn, "max_fn"),
        )
        s = as_vector(scores, "scores")
        positive = as_labels(y, s.size, need_both=True)
        negatives, positives = np.sort(s[~positive])[::-1], np.sort(s[positive])
        joint = self.budget == "joint"
        n_fp, n_fn = (s.size, s.size) if joint else (negatives.size, positives.size)
        self.n_calib_ = int(s.size)
        self.k_fp_ = allowed_errors(n_fp, max_fp, self.delta, self.method)
        self.k_fn_ = allowed_errors(n_fn, max_fn, self.delta, self.method)
        # The regions are s > t_hi and s < t_lo, strictly: ties with the order statistic stay out.
        self.t_hi_ = _order_statistic(negatives, self.k_fp_, empty=math.inf)
        self.t_lo_ = _order_statistic(positives, self.k_fn_, empty=-math.inf)
        sides = [
            side
            for side, level, n, count in (
                ("fp", max_fp, n_fp, negatives.size),
                ("fn", max_fn, n_fn, positives.size),
            )
            if level * n * _SLACK >= count
        ]
        self.trivial_ = "both" if len(sides) == 2 else "".join(sides)
        # Equality is no crossing: the tied scores at the common value are in neither region.
        self.crossed_ = self.t_lo_ > self.t_hi_
        if self.crossed_:
            self.t_lo_ = self.t_hi_ = _best_cut(s, positive, self.t_hi_, self.t_lo_)
        self.warnings_ = self._warnings(s, sides, n_fp, n_fn)
        self.guarantee_ = self._guarantee()
        return self

    def predict(self, scores: ArrayLike) -> Int8[np.ndarray, " n"]:
        """Return 1 in P, 0 in not-P and `abstain_value` in the band, of shape (n,).

        Scores must come as they were calibrated: rounding them (float64 to float16) can carry a
        sample across a threshold.

        Raises:
            NotFittedError: before `fit`.
            UserError: on NaN, infinite, empty or 2-D scores.
        """
        check_is_fitted(self)
        s = as_vector(scores, "scores")
        in_p = s >= self.t_hi_ if self.crossed_ else s > self.t_hi_
        region = np.full(s.size, self.abstain_value, np.int8)
        region[s < self.t_lo_] = 0
        region[in_p] = 1
        return region

    def _warnings(
        self, s: Float64[np.ndarray, " n"], trivial: list[str], n_fp: int, n_fn: int
    ) -> list[str]:
        found: list[str] = []
        for side, level, k, n, region in (
            ("max_fp", self.max_fp, self.k_fp_, n_fp, "P"),
            ("max_fn", self.max_fn, self.k_fn_, n_fn, "not-P"),
        ):
            if k < 0:
                need = min_calibration_size(level, self.delta, self.method)
                kind = "samples" if self.budget == "joint" else "samples of the class"
                found.append(
                    f"too few: {side}={level:g} needs {need} calibration {kind}, got {n}; "
                    f"region {region} is empty. Add samples or raise {side} or delta."
                )
        found += [
            f"trivial: max_{side}={level:g} is met even if every {kind} is judged wrongly, since "
            f"their share is no larger. Use budget='class_conditional' or a smaller max_{side}."
            for side, level, kind in (
                ("fp", self.max_fp, "negative"),
                ("fn", self.max_fn, "positive"),
            )
            if side in trivial
        ]
        tied = tied_share(s)
        if s.min() == s.max():
            found.append(f"tied: all {s.size} scores equal {s[0]:g}; they tell nothing apart.")
        elif tied > 0.01:
            found.append(
                f"tied: {tied:.1%} of the scores equal another one, which widens the band. "
                "Pass logits in full precision, not rounded probabilities."
            )
        return found

    def _guarantee(self) -> str:
        given = "and" if self.budget == "joint" else "|"
        fp = f"P(in P {given} Y=0) <= {self.max_fp:g}"
        fn = f"P(in not-P {given} Y=1) <= {self.max_fn:g}"
        if self.method == "exact":
            return (
                f"With probability >= {1 - self.delta:g} over the draw of the {self.n_calib_} "
                f"calibration samples: {fp} and {fn}, for samples from the same distribution."
            )
        if self.method == "crc":
            return (
                f"On average over draws of {self.n_calib_} calibration samples, each side by "
                f"itself: {fp}; {fn}. A single calibration exceeds a budget about every other time."
            )
        return f"None. Only on these {self.n_calib_} samples themselves: {fp} and {fn}."


def _order_statistic(worst_first: Float64[np.ndarray, " m"], k: int, empty: float) -> float:
    """Score of the first error too many; strictly beyond it lie at most k errors."""
    if k < 0:
        return empty
    return float(worst_first[k]) if k < worst_first.size else -empty


def _best_cut(
    s: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], low: float, high: float
) -> float:
    """The cut c in (low, high] with the fewest calibration errors of {s >= c} and {s < c}.

    Both regions shrink from {s > low} and {s < high}, so any such c keeps both guarantees.
    """
    values, index = np.unique(s, return_inverse=True)
    false_negatives = np.concatenate([[0], np.bincount(index[positive], minlength=values.size)])
    true_negatives = np.concatenate([[0], np.bincount(index[~positive], minlength=values.size)])
    errors = np.cumsum(false_negatives) - np.cumsum(true_negatives)  # of a cut below values[i]
    edges = np.concatenate([[-np.inf], values, [np.inf]])
    allowed = np.flatnonzero((edges[:-1] >= low) & (edges[1:] <= high))
    best = allowed[errors[allowed] == errors[allowed].min()]
    i = int(best[best.size // 2])
    left, right = float(edges[i]), float(edges[i + 1])
    if math.isinf(left) or math.isinf(right):
        return left if math.isinf(left) else right
    middle = left / 2 + right / 2
    return middle if middle > left else right  # neighbouring floats have nothing between them
