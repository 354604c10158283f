"""The irreducible band: the least abstention that any decision rule needs when eta is known."""

import math
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from pnp.band.inputs import Budget, as_posterior, as_vector, check_length, fraction
from pnp.errors import UserError

_EMPTY = 1e-12  # a band that rounding alone leaves


class ClosedFormBand(TypedDict):
    """Width of the irreducible band and its thresholds on eta; `crossed`: the band is empty."""

    band: float
    t_lo: float
    t_hi: float
    crossed: bool


class OracleBand(ClosedFormBand):
    """`membership` of shape (n,): probability of each item, in input order, to be in the band."""

    membership: Float64[np.ndarray, " n"]


def oracle_band(eta: ArrayLike, a: float, b: float, w: ArrayLike | None = None) -> OracleBand:
    """Smallest P(U) with E[(1-eta) 1_P] <= a and E[eta 1_notP] <= b, for known eta = P(Y=1 | x).

    Two fractional knapsacks: P takes the items of largest eta until their cost w (1-eta) reaches a,
    not-P those of smallest eta until w eta reaches b; the items at a boundary are split (a
    randomised rule), alike among equal eta. Chow's rule with two costs; Lei (2014) with joint
    budgets.

    Args:
        eta: P(Y=1 | x) of each item, shape (n,).
        a: joint false-positive budget in (0, 1).
        b: joint false-negative budget in (0, 1).
        w: weight of each item, shape (n,), at least 0; equal if None; scaled to sum to 1.

    Raises:
        UserError: if eta is outside [0, 1], a or b outside (0, 1), or the weights are negative,
            all zero or of another length.

    Example:
        >>> result = oracle_band([0.0, 0.5, 0.5, 1.0], a=0.1, b=0.1)
        >>> round(result["band"], 12), result["membership"].round(3).tolist()
        (0.1, [0.0, 0.2, 0.2, 0.0])
    """
    e = as_posterior(eta)
    a, b = fraction(a, "a"), fraction(b, "b")
    weight = np.ones(e.size) if w is None else as_vector(w, "w")
    check_length(weight, e.size, "w")
    if weight.min() < 0 or weight.sum() <= 0:
        raise UserError("w: expected weights of at least 0 with a positive sum.")
    return _oracle(_distinct(e, weight), a, b)


def oracle_of(
    eta: Float64[np.ndarray, " n"], max_fp: float, max_fn: float, budget: Budget
) -> OracleBand:
    """`oracle_band` of valid arguments, for budgets of either kind.

    Raises:
        UserError: if budgets are class-conditional and eta is 0 or 1 throughout.
    """
    share_fp, share_fn = _shares(eta, budget)
    return _oracle(_distinct(eta, np.ones(eta.size)), max_fp * share_fp, max_fn * share_fn)


def oracle_widths(
    eta: Float64[np.ndarray, " n"],
    max_fp: Float64[np.ndarray, " l"],
    max_fn: Float64[np.ndarray, " l"],
    budget: Budget,
) -> Float64[np.ndarray, " l"]:
    """Width of the irreducible band for each pair of budgets, as `oracle_of`, from one sort."""
    share_fp, share_fn = _shares(eta, budget)
    items = _distinct(eta, np.ones(eta.size))
    pairs = zip((max_fp * share_fp).tolist(), (max_fn * share_fn).tolist(), strict=True)
    bands = np.array([_knapsacks(items, a, b)[0] for a, b in pairs])
    return np.where(bands <= _EMPTY, 0.0, bands)


def closed_form_band(k: float, c: float, a: float, b: float) -> ClosedFormBand:
    """The irreducible band of eta(u) = sigmoid(k (u - c)) with u uniform on [0, 1].

    From d log(eta)/du = k (1-eta): t_hi = e^{-ka} sigmoid(k (1-c)), 1 - t_lo = e^{-kb} sigmoid(kc),
    and the width is [logit t_hi - logit t_lo]_+ / k. In the crossed case the width is 0 and the two
    thresholds overlap.

    Raises:
        UserError: if k <= 0, or a or b is not in (0, 1).

    Example:
        >>> round(closed_form_band(k=20, c=0.5, a=0.01, b=0.01)["band"], 5)
        0.15075
    """
    a, b = fraction(a, "a"), fraction(b, "b")
    if not (math.isfinite(k) and k > 0 and math.isfinite(c)):
        raise UserError(f"k={k}, c={c}: expected a finite slope k > 0 and a finite centre c.")
    log_hi = -k * a - float(np.logaddexp(0, -k * (1 - c)))
    log_not_lo = -k * b - float(np.logaddexp(0, -k * c))
    logit_hi = log_hi - math.log(-math.expm1(log_hi))
    logit_lo = math.log(-math.expm1(log_not_lo)) - log_not_lo
    band = max(0.0, (logit_hi - logit_lo) / k)
    return {
        "band": band,
        "t_lo": -math.expm1(log_not_lo),
        "t_hi": math.exp(log_hi),
        "crossed": band == 0.0,
    }


class _Items(NamedTuple):
    """Distinct eta, ascending, of total mass 1; `item` holds the one of each sample."""

    eta: Float64[np.ndarray, " m"]
    mass: Float64[np.ndarray, " m"]
    item: Int64[np.ndarray, " n"]


def _distinct(eta: Float64[np.ndarray, " n"], weight: Float64[np.ndarray, " n"]) -> _Items:
    values, index = np.unique(eta, return_inverse=True)
    mass = np.bincount(index, weights=weight / weight.sum(), minlength=values.size)
    return _Items(values, mass, index)


def _shares(eta: Float64[np.ndarray, " n"], budget: Budget) -> tuple[float, float]:
    """Factors that turn budgets of either kind into joint ones."""
    if budget == "joint":
        return 1.0, 1.0
    prior = fraction(float(eta.mean()), "mean of eta")
    return 1 - prior, prior


def _oracle(items: _Items, a: float, b: float) -> OracleBand:
    band, in_p, in_n = _knapsacks(items, a, b)
    values, crossed = items.eta, band <= _EMPTY
    inside = np.zeros(values.size) if crossed else np.clip(1 - in_p - in_n, 0, 1)
    return {
        "band": 0.0 if crossed else band,
        "t_lo": float(values[min(np.count_nonzero(in_n == 1), values.size - 1)]),
        "t_hi": float(values[max(values.size - 1 - np.count_nonzero(in_p == 1), 0)]),
        "crossed": crossed,
        "membership": inside[items.item],
    }


def _knapsacks(
    items: _Items, a: float, b: float
) -> tuple[float, Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Mass in neither knapsack, and the share of each item in P and in not-P."""
    in_p = _fill((items.mass * (1 - items.eta))[::-1], a)[::-1]
    in_n = _fill(items.mass * items.eta, b)
    return 1.0 - float(items.mass @ in_p) - float(items.mass @ in_n), in_p, in_n


def _fill(cost: Float64[np.ndarray, " m"], budget: float) -> Float64[np.ndarray, " m"]:
    """Share taken of each item, in order, until the summed cost reaches the budget."""
    spent = np.cumsum(cost)
    full = int(np.searchsorted(spent, budget * (1 + 1e-12), side="right"))
    share = np.zeros(cost.size)
    share[:full] = 1.0
    if full < cost.size:
        before = float(spent[full - 1]) if full else 0.0
        share[full] = min(max((budget - before) / float(cost[full]), 0.0), 1.0)
    return share
