"""Two thresholds on a score, P / band / not-P, whose error budgets hold for finite samples."""

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
from jaxtyping import Int8
from numpy.typing import ArrayLike
from scipy.special import bdtr, bdtrik  # pyright: ignore[reportMissingTypeStubs]
from sklearn.base import (  # pyright: ignore[reportMissingTypeStubs]
    BaseEstimator,
    clone,  # pyright: ignore[reportUnknownVariableType]
)
from sklearn.utils.validation import (  # pyright: ignore[reportMissingTypeStubs]
    check_is_fitted,  # pyright: ignore[reportUnknownVariableType]
)

from pnp.band.answered import answered_thresholds, least_answers
from pnp.band.cuts import Cuts, cuts
from pnp.band.inputs import (
    BUDGETS,
    METHODS,
    Budget,
    LabelledScores,
    Method,
    as_vector,
    fraction,
    is_integer,
    labelled_scores,
)
from pnp.errors import UserError, choice

_SLACK = 1 + 1e-12  # so that .29 * 100 = 28.999999999999996 counts as 29


def allowed_errors(n: int, level: float, delta: float = 0.1, method: Method = "exact") -> int:
    """Errors that one side may hold among `n` calibration samples for a true rate <= `level`.

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
    level, delta = fraction(level, "level"), fraction(delta, "delta")
    choice("method", method, METHODS)
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
    level, delta = fraction(level, "level"), fraction(delta, "delta")
    choice("method", method, METHODS)
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
        max_fp: budget of P(in P and Y=0); with `class_conditional`, of P(in P | Y=0); with
            `answered`, of P(Y=0 | in P).
        max_fn: budget of P(in not-P and Y=1); with `class_conditional`, of P(in not-P | Y=1); with
            `answered`, of P(Y=1 | in not-P).
        delta: `exact` only: both budgets hold with probability 1 - delta over the calibration
            draw. For K concepts or groups at once see `fit_each`.
        method: `exact`, `crc` or `empirical`, see `allowed_errors`.
        budget: `joint` (share of all samples), `class_conditional` (share of the class) or
            `answered` (share of the answers: 1 - PPV and 1 - NPV; `exact` only).
        abstain_value: what `predict` returns in the band; an int8 other than 0 and 1.

    Attributes:
        t_lo_, t_hi_: the thresholds, in units of the score; +-inf where a region is empty or all.
        crossed_: budgets were left over, so that one cut (t_lo_ == t_hi_) replaces an empty band.
        k_fp_, k_fn_: calibration errors allowed on each side; -1: too few samples to allow any.
            With `answered`, the errors that the regions hold; -1: no region could be certified.
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
        return self.calibrate(labelled_scores(scores, y))

    def calibrate(self, calibration: LabelledScores) -> "ThreeWayThreshold":
        """Calibrate on scores that are already validated, sorted once for any number of budgets.

        Raises:
            UserError: on parameters out of range.
        """
        choice("method", self.method, METHODS)
        choice("budget", self.budget, (*BUDGETS, "answered"))
        abstain = self.abstain_value
        if not is_integer(abstain) or abstain in (0, 1) or not -128 <= abstain <= 127:
            raise UserError(f"abstain_value={abstain!r}, expected an int8 other than 0 and 1.")
        max_fp, max_fn = fraction(self.max_fp, "max_fp"), fraction(self.max_fn, "max_fn")
        self.n_calib_ = calibration.values.size
        if self.budget == "answered":
            return self._calibrate_answers(calibration, max_fp, max_fn)
        n_fp, n_fn = sample_sizes(calibration, self.budget)
        self.k_fp_ = allowed_errors(n_fp, max_fp, self.delta, self.method)
        self.k_fn_ = allowed_errors(n_fn, max_fn, self.delta, self.method)
        t_lo, t_hi, crossed = cuts(
            calibration.negatives,
            calibration.positives,
            np.array([self.k_fp_]),
            np.array([self.k_fn_]),
        )
        self.t_lo_, self.t_hi_, self.crossed_ = float(t_lo[0]), float(t_hi[0]), bool(crossed[0])
        sides = [
            side
            for side, level, n, count in (
                ("fp", max_fp, n_fp, calibration.negatives.size),
                ("fn", max_fn, n_fn, calibration.positives.size),
            )
            if level * n * _SLACK >= count
        ]
        self.trivial_ = "both" if len(sides) == 2 else "".join(sides)
        few = self._too_few(n_fp, n_fn)
        self.warnings_ = [*few, *self._trivial(sides), *_tied(calibration)]
        self.guarantee_ = self._guarantee()
        return self

    def _calibrate_answers(
        self, calibration: LabelledScores, max_fp: float, max_fn: float
    ) -> "ThreeWayThreshold":
        choice("method", self.method, ("exact",))
        fit = answered_thresholds(calibration, max_fp, max_fn, fraction(self.delta, "delta"))
        self.t_lo_, self.t_hi_, self.crossed_ = fit.t_lo, fit.t_hi, False
        sides = {
            "fp": (max_fp, calibration.negatives.size, fit.t_hi == math.inf, "P"),
            "fn": (max_fn, calibration.positives.size, fit.t_lo == -math.inf, "not-P"),
        }
        self.k_fp_ = -1 if sides["fp"][2] else fit.errors_p
        self.k_fn_ = -1 if sides["fn"][2] else fit.errors_not_p
        easy = [side for side, (a, n, *_) in sides.items() if n <= a * self.n_calib_ * _SLACK]
        self.trivial_ = "both" if len(easy) == 2 else "".join(easy)
        few = [
            f"too few: no region {region} could be certified for max_{side}={a:g}: it needs "
            f"{least_answers(a, self.delta)} calibration samples without an error, more with some; "
            f"region {region} is empty. Add samples or raise max_{side} or delta."
            for side, (a, _, empty, region) in sides.items()
            if empty
        ]
        trivial = [
            f"trivial: max_{side}={a:g} is met by calling every sample {region}."
            for side, (a, _, _, region) in sides.items()
            if side in easy
        ]
        self.warnings_ = [*few, *trivial, *_tied(calibration)]
        self.guarantee_ = (
            f"With probability >= {1 - self.delta:g} over the draw of the {self.n_calib_} "
            f"calibration samples: P(Y=0 | in P) <= {max_fp:g} and P(Y=1 | in not-P) <= "
            f"{max_fn:g}, for samples from the same distribution."
        )
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
        return self.fitted_cuts.regions(as_vector(scores, "scores"), self.abstain_value)[0]

    @property
    def fitted_cuts(self) -> Cuts:
        """The fitted thresholds as cuts of one budget."""
        return Cuts(*(np.array([v]) for v in (self.t_lo_, self.t_hi_, self.crossed_)))

    def _too_few(self, n_fp: int, n_fn: int) -> list[str]:
        warnings: list[str] = []
        for side, level, k, n, region in (
            ("max_fp", self.max_fp, self.k_fp_, n_fp, "P"),
            ("max_fn", self.max_fn, self.k_fn_, n_fn, "not-P"),
        ):
            if k < 0:
                need = min_calibration_size(level, self.delta, self.method)
                kind = "samples" if self.budget == "joint" else "samples of the class"
                warnings.append(
                    f"too few: {side}={level:g} needs {need} calibration {kind}, got {n}; "
                    f"region {region} is empty. Add samples or raise {side} or delta."
                )
        return warnings

    def _trivial(self, trivial: list[str]) -> list[str]:
        return [
            f"trivial: max_{side}={level:g} is met even if every {kind} is judged wrongly, since "
            f"their share is no larger. Use budget='class_conditional' or a smaller max_{side}."
            for side, level, kind in (
                ("fp", self.max_fp, "negative"),
                ("fn", self.max_fn, "positive"),
            )
            if side in trivial
        ]

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


def _tied(calibration: LabelledScores) -> list[str]:
    s, tied = calibration.ordered, calibration.tied_share
    if s[0] == s[-1]:
        return [f"tied: all {s.size} scores equal {s[0]:g}; they tell nothing apart."]
    if tied <= 0.01:
        return []
    return [
        f"tied: {tied:.1%} of the scores equal another one, which widens the band. "
        "Pass logits in full precision, not rounded probabilities."
    ]


def fit_each(
    threshold: ThreeWayThreshold, samples: Mapping[str, tuple[ArrayLike, ArrayLike]]
) -> dict[str, ThreeWayThreshold]:
    """Calibrate for several groups or concepts so that all guarantees hold at once.

    Each of the K gets delta/K (Bonferroni), whatever the dependence between them: with probability
    1 - delta every budget holds in every group, or for every concept.

    Args:
        threshold: budgets and delta for all together; it stays as it is.
        samples: group or concept -> calibration scores and labels, as in `fit`.

    Raises:
        UserError: nothing to fit, or as `ThreeWayThreshold.fit`, with the name of the group.

    Example:
        >>> both = {"left": ([-2.0, 2.0], [0, 1]), "right": ([-1.0, 3.0], [0, 1])}
        >>> fit_each(ThreeWayThreshold(0.1, 0.1, delta=0.2), both)["left"].delta
        0.1
    """
    if not samples:
        raise UserError("samples is empty: give at least one group or concept.")
    fits: dict[str, ThreeWayThreshold] = {}
    for name, (scores, y) in samples.items():
        try:
            fresh = cast(ThreeWayThreshold, clone(threshold))
            fresh.delta = threshold.delta / len(samples)
            fits[name] = fresh.fit(scores, y)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    return fits


def sample_sizes(calibration: LabelledScores, budget: Budget) -> tuple[int, int]:
    """Calibration samples that the false-positive and the false-negative budget are shares of."""
    n = calibration.values.size
    if budget == "joint":
        return n, n
    return calibration.negatives.size, calibration.positives.size
