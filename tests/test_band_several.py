"""Several guarantees at once: budgets in every group, and for every one of several concepts."""

import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from pnp.band import ThreeWayThreshold, fit_each
from pnp.errors import UserError


def draw(rng, n, c=0.5, k=20.0):
    """Scores u ~ U[0, 1] with labels from eta = sigmoid(k (u - c))."""
    u = rng.random(n)
    return u, rng.random(n) < expit(k * (u - c))


def integral(x, k):
    """Of sigmoid(k x)."""
    return math.log1p(math.exp(-abs(k * x))) / k + max(x, 0.0)


def errors(t_lo, t_hi, c=0.5, k=20.0):
    """True P(P, Y=0) and P(not-P, Y=1): integrals of 1 - eta and eta."""
    hi, lo = min(max(t_hi, 0.0), 1.0), min(max(t_lo, 0.0), 1.0)
    fp = integral(c - hi, k) - integral(c - 1, k)
    return fp, integral(lo - c, k) - integral(-c, k)


DRAWS = [600, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]


def allowed(draws, delta):
    """Violations that a rate of exactly delta exceeds once in a thousand times."""
    return binom.ppf(0.999, draws, delta)


# ---- groups --------------------------------------------------------------------------------------

CENTRES = {"left": 0.4, "middle": 0.5, "right": 0.65}


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("budget", ["joint", "class_conditional"])
def test_every_group_keeps_its_budgets_with_the_probability_promised(budget, draws):
    n, delta, level = 200, 0.3, 0.02 if budget == "joint" else 0.06
    rng, broken = np.random.default_rng(0), 0
    for _ in range(draws):
        parts = {name: draw(rng, n, c) for name, c in CENTRES.items()}
        scores, y = (np.concatenate(column) for column in zip(*parts.values(), strict=True))
        names = np.repeat(list(parts), n)
        fit = ThreeWayThreshold(level, level, delta, budget=budget).fit(scores, y, names)
        for c in CENTRES.values():
            fp, fn = errors(fit.t_lo_, fit.t_hi_, c)
            pi1 = integral(1 - c, 20.0) - integral(-c, 20.0)
            of = (1 - pi1, pi1) if budget == "class_conditional" else (1, 1)
            if fp > level * of[0] or fn > level * of[1]:
                broken += 1
                break
    assert 0 < broken <= allowed(draws, delta)


def test_groups_cost_no_delta_where_one_of_them_needs_the_widest_band_on_both_sides():
    """The others end well inside its band, and it errs as often as it does alone."""
    rng, together, alone = np.random.default_rng(0), 0, 0
    names = np.repeat(["hard", *"abcd"], 200)
    for _ in range(300):
        parts = [draw(rng, 200), *(draw(rng, 200, k=400.0) for _ in range(4))]
        scores, y = (np.concatenate(column) for column in zip(*parts, strict=True))
        fit = ThreeWayThreshold(0.02, 0.02, 0.3).fit(scores, y, names)
        single = ThreeWayThreshold(0.02, 0.02, 0.3).fit(*parts[0])
        together += max(errors(fit.t_lo_, fit.t_hi_)) > 0.02
        alone += max(errors(single.t_lo_, single.t_hi_)) > 0.02
    assert together == alone > 20


def test_thresholds_for_groups_are_those_of_the_group_with_the_widest_band():
    rng = np.random.default_rng(1)
    parts = {name: draw(rng, 400, c) for name, c in CENTRES.items()}
    scores, y = (np.concatenate(column) for column in zip(*parts.values(), strict=True))
    names = np.repeat(list(parts), 400)
    fit = ThreeWayThreshold(0.05, 0.05).fit(scores, y, names)
    single = [ThreeWayThreshold(0.05, 0.05).fit(*part) for part in parts.values()]
    assert fit.t_hi_ == max(s.t_hi_ for s in single)
    assert fit.t_lo_ == min(s.t_lo_ for s in single)
    assert fit.groups_ == ("left", "middle", "right")
    assert "in each of the groups left, middle, right: P(in P and Y=0) <= 0.05" in fit.guarantee_
    one = ThreeWayThreshold(0.05, 0.05).fit(scores, y, np.zeros(1200, int))
    plain = ThreeWayThreshold(0.05, 0.05).fit(scores, y)
    assert (one.t_lo_, one.t_hi_, plain.groups_) == (plain.t_lo_, plain.t_hi_, ())


def test_a_group_speaks_up_if_it_is_too_small_or_lacks_a_class():
    rng = np.random.default_rng(2)
    scores, y = draw(rng, 400)
    few = ThreeWayThreshold(0.05, 0.05).fit(scores, y, np.arange(400) < 9)
    assert set(few.predict(scores)) == {-1}
    assert (
        "group True: too few: max_fp=0.05 needs 59 calibration samples, got 9" in (few.warnings_[0])
    )
    lacking = np.where(y & (scores > 0.5), "b", "a")
    strict = ThreeWayThreshold(0.2, 0.2, budget="class_conditional").fit(scores, y, lacking)
    assert any("group b: too few: max_fp=0.2" in w and "got 0" in w for w in strict.warnings_)
    joint = ThreeWayThreshold(0.2, 0.2).fit(scores, y, lacking)
    assert any(w.startswith("group b: trivial: max_fp") for w in joint.warnings_)
    with pytest.raises(UserError, match="groups: 3 values for 400 samples"):
        ThreeWayThreshold(0.1, 0.1).fit(scores, y, [1, 2, 3])
    with pytest.raises(UserError, match="Calibrate each group with fit_each"):
        ThreeWayThreshold(0.1, 0.1, budget="answered").fit(scores, y, lacking)


# ---- several concepts ----------------------------------------------------------------------------

# Concepts: a band is needed; none is; the cut breaks a budget, but only just.
CONCEPTS = {"hard": (0.5, 20.0), "easy": (0.5, 400.0), "edge": (0.5, 44.0)}


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("cuts", [None, dict.fromkeys(CONCEPTS, 0.5)])
def test_every_concept_keeps_its_budgets_with_the_probability_promised(cuts, draws):
    delta, level = 0.3, 0.015
    rng, broken = np.random.default_rng(0), 0
    for _ in range(draws):
        samples = {name: draw(rng, 500, *shape) for name, shape in CONCEPTS.items()}
        fits = fit_each(ThreeWayThreshold(level, level, delta), samples, cuts)
        broken += any(
            max(errors(fit.t_lo_, fit.t_hi_, *CONCEPTS[name])) > level for name, fit in fits.items()
        )
    assert 0 < broken <= allowed(draws, delta)


def test_a_concept_that_needs_no_band_leaves_its_share_of_delta_to_the_others():
    rng = np.random.default_rng(3)
    samples = {name: draw(rng, 2000, *shape) for name, shape in CONCEPTS.items()}
    threshold = ThreeWayThreshold(0.025, 0.025, delta=0.3)
    plain = fit_each(threshold, samples)
    holm = fit_each(threshold, samples, dict.fromkeys(CONCEPTS, 0.5))
    assert [fit.delta for fit in plain.values()] == [pytest.approx(0.1)] * 3
    assert {name: (fit.delta, fit.crossed_) for name, fit in holm.items()} == {
        "hard": (0.3, False), "easy": (pytest.approx(0.1), True), "edge": (pytest.approx(0.1), True)
    }  # fmt: skip
    assert holm["easy"].t_hi_ == 0.5
    widths = [fits["hard"].t_hi_ - fits["hard"].t_lo_ for fits in (plain, holm)]
    assert widths[1] < widths[0]


def test_regions_end_at_a_cut_that_was_fixed_beforehand():
    rng = np.random.default_rng(4)
    samples = {"one": draw(rng, 500), "two": draw(rng, 500)}
    fits = fit_each(ThreeWayThreshold(0.3, 0.02), samples, {"one": 0.5, "two": 0.9})
    assert fits["one"].t_hi_ == 0.5 > fits["one"].t_lo_
    assert fits["two"].t_hi_ == 0.9
    assert not fits["one"].crossed_


def test_several_concepts_speak_where_they_cannot_be_fitted():
    with pytest.raises(UserError, match="a: y: every label is 1"):
        fit_each(ThreeWayThreshold(0.1, 0.1), {"a": ([1.0, 2.0], [1, 1])})
    with pytest.raises(UserError, match="samples is empty"):
        fit_each(ThreeWayThreshold(0.1, 0.1), {})
    for odd in ({"method": "crc"}, {"budget": "answered"}):
        with pytest.raises(UserError, match="cuts go with method=exact"):
            fit_each(ThreeWayThreshold(0.1, 0.1, **odd), {"a": ([1.0], [1])}, {"a": 0.0})
