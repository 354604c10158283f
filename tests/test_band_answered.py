"""Budgets on what is answered (PPV, NPV): they hold over draws."""

import numpy as np
import pytest
from scipy.special import expit

from pnp.band import ThreeWayThreshold
from pnp.band.answered import answered_thresholds
from pnp.band.inputs import labelled_scores
from pnp.errors import UserError

GRID = np.linspace(0, 1, 20_001)[1:]
ETA = expit(20 * (GRID - 0.5))


def draw(rng, n):
    u = rng.random(n)
    return u, rng.random(n) < expit(20 * (u - 0.5))


def shares(t_lo, t_hi):
    """True shares of wrong answers in both regions of scores u, uniform on [0, 1]."""
    p, not_p = t_hi < GRID, t_lo > GRID
    return (1 - ETA[p]).mean() if p.any() else 0.0, ETA[not_p].mean() if not_p.any() else 0.0


@pytest.mark.parametrize("draws", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_both_shares_of_wrong_answers_hold_with_the_probability_promised(draws):
    rng, broken = np.random.default_rng(0), 0
    for _ in range(draws):
        fit = answered_thresholds(labelled_scores(*draw(rng, 300)), 0.1, 0.06, 0.3)
        fp, fn = shares(fit.t_lo, fit.t_hi)
        broken += fp > 0.1 or fn > 0.06
    assert broken / draws <= 0.3


def test_the_promise_holds_at_the_worst_case_where_every_region_is_just_over_the_budget():
    """Labels do not depend on the score: whatever region is answered breaks the budget."""
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(600):
        y = rng.random(400) < 0.89
        fit = answered_thresholds(labelled_scores(rng.random(400), y), 0.1, 0.1, 0.2)
        broken += np.isfinite(fit.t_hi) or fit.t_hi == -np.inf
    assert 0 < broken / 600 <= 0.2


def test_the_regions_are_disjoint_and_hold_few_enough_errors_with_ties_too():
    rng = np.random.default_rng(2)
    for _ in range(40):
        u, y = draw(rng, 600)
        s = np.round(u, int(rng.integers(1, 4)))
        band = ThreeWayThreshold(0.1, 0.1, budget="answered").fit(s, y)
        assert band.t_lo_ <= band.t_hi_
        region = band.predict(s)
        for side, errors in ((1, ~y), (0, y)):
            if (region == side).any():
                assert errors[region == side].mean() <= 0.1
        flipped = ThreeWayThreshold(0.1, 0.1, budget="answered").fit(-s, ~y)
        assert (flipped.predict(-s) == -1).mean() == pytest.approx((region == -1).mean(), abs=0.2)


def test_a_budget_on_answers_speaks_where_it_cannot_be_met_or_is_met_by_anything():
    rng = np.random.default_rng(3)
    u, y = draw(rng, 100)
    few = ThreeWayThreshold(0.01, 0.2, budget="answered").fit(u, y)
    assert (few.t_hi_, few.k_fp_) == (np.inf, -1)
    assert "no region P could be certified for max_fp=0.01: it needs 574" in few.warnings_[0]
    assert "P(Y=0 | in P) <= 0.01" in few.guarantee_
    rare = ThreeWayThreshold(0.3, 0.3, budget="answered").fit(
        np.arange(400.0), np.arange(400) > 380
    )
    assert rare.trivial_ == "fn"
    assert any("calling every sample not-P" in warning for warning in rare.warnings_)
    same = ThreeWayThreshold(0.1, 0.1, budget="answered").fit(np.zeros(50), np.arange(50) % 2)
    assert set(same.predict(np.zeros(3))) == {-1}
    assert any(warning.startswith("tied") for warning in same.warnings_)
    with pytest.raises(UserError, match="method=crc is unknown; choose from exact"):
        ThreeWayThreshold(0.1, 0.1, method="crc", budget="answered").fit(u, y)
