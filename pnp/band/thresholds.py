"""Calibrated thresholds (P / band / not-P), whose error budgets hold for finite samples."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int8
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator  # pyright: ignore[reportMissingTypeStubs]
from sklearn.utils.validation import (  # pyright: ignore[reportMissingTypeStubs]
    check_is_fitted,  # pyright: ignore[reportUnknownVariableType]
)

from pnp.band.allowed import SLACK, allowed_errors, min_calibration_size, sample_sizes
from pnp.band.answered import answered_thresholds, least_answers
from pnp.band.cuts import Cuts, joined, limits
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
            draw. For several concepts at once see `fit_each`.
        method: `exact`, `crc` or `empirical`, see `allowed_errors`.
        budget: `joint` (share of all samples), `class_conditional` (share of the class) or
            `answered` (share of the answers: 1 - PPV and 1 - NPV; `exact` only).
        abstain_value: what `predict` returns in the band; an int8 other than 0 and 1.

    Attributes:
        t_lo_, t_hi_: the thresholds, in units of the score; +-inf where a region is empty or all.
        crossed_: budgets were left over, so that one cut (t_lo_ == t_hi_) replaces an empty band.
        k_fp_, k_fn_: calibration errors allowed on each side; -1: too few samples to allow any.
            With `answered`, the errors that the regions hold; -1: no region could be certified.
            With groups, of the group that is allowed the fewest.
        n_calib_: calibration samples, of both classes.
        groups_: names of the groups, if there are any.
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

    def fit(
        self, scores: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None
    ) -> "ThreeWayThreshold":
        """Calibrate on scores (n,), best logits (higher = P), and labels 0/1 (n,).

        With the names of groups (n,) each budget holds in every group: the thresholds are those of
        the group that needs the widest band, so that nobody has to know the group of a sample that
        is judged, and no share of delta is lost to their number (proof: docs/band.md).

        Raises:
            UserError: on NaN, infinite, empty or 2-D scores, labels other than 0/1, a missing
                class, parameters out of range, or groups with budgets on answers.
        """
        return self.calibrate(labelled_scores(scores, y, groups=groups))

    def calibrate(
        self, calibration: LabelledScores, cut: float | None = None
    ) -> "ThreeWayThreshold":
        """Calibrate on scores that are already validated, sorted once for any number of budgets.

        Args:
            calibration: scores and labels, and groups if there are any.
            cut: a score that both regions end at, whatever the budgets would allow beyond it; if
                both reach it, `crossed_` is set and it divides all samples.

        Raises:
            UserError: on parameters out of range.
        """
        choice("method", self.method, METHODS)
        choice("budget", self.budget, (*BUDGETS, "answered"))
        abstain = self.abstain_value
        if not is_integer(abstain) or abstain in (0, 1) or not -128 <= abstain <= 127:
            raise UserError(f"abstain_value={abstain!r}, expected an int8 other than 0 and 1.")
        levels = fraction(self.max_fp, "max_fp"), fraction(self.max_fn, "max_fn")
        self.n_calib_ = calibration.values.size
        members = calibration.by_group()
        self.groups_ = () if calibration.groups is None else tuple(members)
        if self.budget == "answered":
            if self.groups_:
                raise UserError(
                    "groups go with budget=joint or class_conditional: a share of the answers in a "
                    "group may grow as its region shrinks. Calibrate each group with fit_each."
                )
            found = [self._answered(calibration, levels)]
        else:
            found = [self._limits(name, group, levels) for name, group in members.items()]
        t_lo, t_hi = np.min([f.t_lo for f in found], 0), np.max([f.t_hi for f in found], 0)
        if cut is None:
            fit = joined(t_lo, t_hi, calibration.negatives, calibration.positives)
        else:
            reached = (t_hi < cut) & (cut <= t_lo)
            fit = Cuts(np.minimum(t_lo, cut), np.maximum(t_hi, cut), reached)
        self.t_lo_, self.t_hi_, self.crossed_ = (v.item() for v in fit)
        self.k_fp_, self.k_fn_ = (min(f.allowed[side] for f in found) for side in (0, 1))
        sides = [side for side in ("fp", "fn") if any(side in f.trivial for f in found)]
        self.trivial_ = "both" if len(sides) == 2 else "".join(sides)
        self.warnings_ = [*(w for f in found for w in f.warnings), *_tied(calibration)]
        self.guarantee_ = self._guarantee()
        return self

    def _limits(
        self, group: str, calibration: LabelledScores, levels: tuple[float, float]
    ) -> "_Limits":
        """Limits of one group, or of all samples, and what a reader must know of them."""
        sizes = sample_sizes(calibration, self.budget)
        counts = calibration.negatives.size, calibration.positives.size
        allowed = [
            allowed_errors(n, level, self.delta, self.method) if n else -1
            for n, level in zip(sizes, levels, strict=True)
        ]
        t_lo, t_hi = limits(
            calibration.negatives, calibration.positives, *(np.array([k]) for k in allowed)
        )
        where = f"group {group}: " if group else ""
        kind = "samples" if self.budget == "joint" else "samples of the class"
        few: list[str] = []
        easy: list[str] = []
        trivial: list[str] = []
        for side, level, n, count, k, region, wrong in zip(
            ("fp", "fn"), levels, sizes, counts, allowed, ("P", "not-P"), ("negative", "positive"),
            strict=True,
        ):  # fmt: skip
            if k < 0:
                need = min_calibration_size(level, self.delta, self.method)
                few.append(
                    f"{where}too few: max_{side}={level:g} needs {need} calibration {kind}, got "
                    f"{n}; region {region} is empty. Add samples or raise max_{side} or delta."
                )
            if level * n * SLACK >= count:
                trivial.append(side)
                easy.append(
                    f"{where}trivial: max_{side}={level:g} is met even if every {wrong} is judged "
                    "wrongly, since their share is no larger. Use budget='class_conditional' or a "
                    f"smaller max_{side}."
                )
        return _Limits(t_lo, t_hi, allowed, trivial, [*few, *easy])

    def _answered(self, calibration: LabelledScores, levels: tuple[float, float]) -> "_Limits":
        """Limits of the regions that budgets on answers certify; they never overlap."""
        choice("method", self.method, ("exact",))
        fit = answered_thresholds(calibration, *levels, fraction(self.delta, "delta"))
        sides = (
            ("fp", "P", calibration.negatives.size, fit.t_hi == math.inf, fit.errors_p),
            ("fn", "not-P", calibration.positives.size, fit.t_lo == -math.inf, fit.errors_not_p),
        )
        few: list[str] = []
        easy: list[str] = []
        trivial: list[str] = []
        for (side, region, count, empty, _), level in zip(sides, levels, strict=True):
            if empty:
                few.append(
                    f"too few: no region {region} could be certified for max_{side}={level:g}: it "
                    f"needs {least_answers(level, self.delta)} calibration samples without an "
                    f"error, more with some; region {region} is empty. Add samples or raise "
                    f"max_{side} or delta."
                )
            if count <= level * calibration.values.size * SLACK:
                trivial.append(side)
                easy.append(
                    f"trivial: max_{side}={level:g} is met by calling every sample {region}."
                )
        allowed = [-1 if empty else errors for *_, empty, errors in sides]
        limits = np.array([fit.t_lo]), np.array([fit.t_hi])
        return _Limits(*limits, allowed, trivial, [*few, *easy])

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

    def _guarantee(self) -> str:
        given = "and" if self.budget == "joint" else "|"
        fp, fn = f"P(in P {given} Y=0)", f"P(in not-P {given} Y=1)"
        if self.budget == "answered":
            fp, fn = "P(Y=0 | in P)", "P(Y=1 | in not-P)"
        fp, fn = f"{fp} <= {self.max_fp:g}", f"{fn} <= {self.max_fn:g}"
        each = f"in each of the groups {', '.join(self.groups_)}: " if self.groups_ else ""
        if self.method == "exact":
            return (
                f"With probability >= {1 - self.delta:g} over the draw of the {self.n_calib_} "
                f"calibration samples: {each}{fp} and {fn}, for samples from the same distribution."
            )
        if self.method == "crc":
            return (
                f"On average over draws of {self.n_calib_} calibration samples, each side by "
                f"itself: {each}{fp}; {fn}. A single calibration exceeds a budget about every "
                "other time."
            )
        return f"None. Only on these {self.n_calib_} samples themselves: {each}{fp} and {fn}."


class _Limits(NamedTuple):
    """Limits t_lo and t_hi (1,), errors allowed on each side, trivial sides, and warnings."""

    t_lo: Float64[np.ndarray, " 1"]
    t_hi: Float64[np.ndarray, " 1"]
    allowed: list[int]
    trivial: list[str]
    warnings: list[str]


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
