"""The monitor of a budget: its false alarms stay below alpha at any time; the planner's table."""

import numpy as np
import pytest

from pnp.band.monitoring import monitor
from pnp.band.planning import plan
from pnp.band.thresholds import ThreeWayThreshold
from pnp.errors import UserError


def false_alarms(draws, n=400, rate=0.05, alpha=0.1):
    """Draws of n samples at the edge of the budget in which each wrong verdict was ever given."""
    rng = np.random.default_rng(0)
    found = [monitor(rng.random(n) < rate, rate, alpha) for _ in range(draws)]
    ever = [(m.against.max() >= -np.log(alpha), m.within.max() >= -np.log(alpha)) for m in found]
    return np.mean(ever, axis=0)


def test_a_budget_that_holds_is_called_violated_with_probability_alpha_at_most():
    assert false_alarms(600).max() <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 600)


@pytest.mark.slow
def test_a_budget_that_holds_is_called_violated_with_probability_alpha_at_most_10_000_draws():
    assert false_alarms(10_000).max() <= 0.1


def test_evidence_is_a_supermartingale_under_every_rate_within_the_budget():
    """Its mean after two more samples, over all four outcomes, is at most what it was."""
    before = [0, 1, 0, 0, 1]
    for rate in (0.0, 0.03, 0.1):
        for side, rates in (("against", rate), ("within", 0.2 - rate)):
            mean = sum(
                np.exp(getattr(monitor([*before, *more], 0.1), side)[-1])
                * np.prod([rates if wrong else 1 - rates for wrong in more])
                for more in ([0, 0], [0, 1], [1, 0], [1, 1])
            )
            assert mean <= np.exp(getattr(monitor(before, 0.1), side)[-1]) * (1 + 1e-9)


def test_a_rate_far_from_the_budget_is_found_and_the_moment_is_named():
    wrong = np.zeros(900, int)
    assert monitor(wrong, 0.01).state == "holds"
    wrong[300::10] = 1
    found = monitor(wrong, 0.01)
    assert found.state == "violated"
    assert 300 < found.since < 500
    assert monitor(wrong[: found.since], 0.01).since == found.since
    assert monitor(wrong[: found.since - 1], 0.01).state != "violated"
    assert monitor([0, 1, 0], 0.2).state == "not decided"


def test_the_verdict_is_mapies_where_both_are_sure():
    from mapie.exchangeability_testing import RiskMonitoring
    from mapie.risk_control.risks import BinaryRisk

    risk = BinaryRisk(lambda y, p: p != y, lambda y, p: np.ones(len(y), bool), False)
    rng = np.random.default_rng(1)
    for rate, bad in ((0.02, False), (0.05, False), (0.3, True)):
        wrong = (rng.random(1500) < rate).astype(int)
        theirs = RiskMonitoring(risk, test_level=0.1, threshold=0.1, warn=False)
        theirs.update(np.zeros_like(wrong), wrong)
        assert theirs.harmful_shift_detected == bad
        assert (monitor(wrong, 0.1, 0.05).state == "violated") == bad


@pytest.mark.parametrize(
    ("errors", "budget", "alpha", "message"),
    [
        ([0, 2], 0.1, 0.05, "errors: labels"),
        ([], 0.1, 0.05, "errors"),
        ([0], 0.0, 0.05, "budget=0.0"),
        ([0], 0.1, 1, "alpha=1"),
    ],
)
def test_what_cannot_be_monitored_is_refused(errors, budget, alpha, message):
    with pytest.raises(UserError, match=message):
        monitor(errors, budget, alpha)


@pytest.mark.parametrize("budget", ["joint", "class_conditional"])
def test_the_planned_band_is_the_mean_of_certified_bands(budget):
    rng = np.random.default_rng(0)

    def draw(n):
        u = rng.random(n)
        return 20 * (u - 0.5), rng.random(n) < 1 / (1 + np.exp(-20 * (u - 0.5)))

    levels = 0.03, 0.02
    (row,) = plan([3000], *levels, budget=budget)
    fresh, _ = draw(20_000)
    widths = [
        np.mean(ThreeWayThreshold(*levels, budget=budget).fit(*draw(3000)).predict(fresh) == -1)
        for _ in range(40)
    ]
    assert row.width == pytest.approx(np.mean(widths), abs=0.015)
    (own,) = plan([3000], *levels, budget=budget, scores=(pair := draw(20_000))[0], y=pair[1])
    assert own.width == pytest.approx(row.width, abs=0.015)


def test_one_empty_region_leaves_the_other_in_the_plan():
    rows = plan([50, 100, 500], 0.001, 0.1)
    assert [row.k_fp for row in rows] == [-1, -1, -1]
    assert 0.4 < rows[-1].width < rows[0].width <= 1
    with pytest.raises(UserError, match="sizes=0"):
        plan([0], 0.1, 0.1)
