"""Has an error rate left its budget? An answer that is valid whenever one looks.

Labelled samples arrive one after another. If their error probability is at most a, the likelihood
ratio of p > a against a is a supermartingale with start 1, and so is a mixture over several p.
Ville's inequality: it ever reaches 1/α with probability at most α. The mirror image, p < a against
a, shows that the budget holds. One may look after every sample and stop when one likes.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.special import expit, logit  # pyright: ignore[reportMissingTypeStubs]

from pnp.band.inputs import as_labels, as_vector, fraction

# Distances in log-odds of the alternatives from the budget, each with the same weight.
DISTANCES = np.geomspace(0.1, 8.0, 24)


@dataclass(frozen=True)
class Monitored:
    """State of one budget after n samples.

    Attributes:
        state: `holds`, `violated` or `not decided`.
        since: number of samples (from 1) after which that was certain; None if nothing is.
        errors: seen so far.
        n: samples so far.
        against: log of the evidence that the rate exceeds the budget, after each sample, (n,).
        within: log of the evidence that it lies below, (n,).
    """

    state: str
    since: int | None
    errors: int
    n: int
    against: Float64[np.ndarray, " n"]
    within: Float64[np.ndarray, " n"]


def monitor(errors: ArrayLike, budget: float, alpha: float = 0.05) -> Monitored:
    """Test after every sample whether P(error) exceeds `budget`.

    Args:
        errors: 1 for each sample judged wrongly, else 0, (n,), in the order of arrival.
        budget: allowed error probability.
        alpha: if no sample's error probability, given those before, exceeds the budget, then
            `violated` is ever said with probability at most alpha; if none is below it, `holds` is.

    Raises:
        UserError: errors other than 0 and 1, or a number outside (0, 1).

    Example:
        >>> monitor([0] * 400, budget=0.01).state, monitor([0, 1] * 20, budget=0.1).state
        ('holds', 'violated')
    """
    a, threshold = fraction(budget, "budget"), -math.log(fraction(alpha, "alpha"))
    read = as_vector(errors, "errors")
    wrong = as_labels(read, read.size, "errors")
    against, within = _evidence(wrong, a, DISTANCES), _evidence(wrong, a, -DISTANCES)
    broken, kept = (np.flatnonzero(e >= threshold) for e in (against, within))
    state, when = ("violated", broken) if broken.size else ("holds", kept)
    since = int(when[0]) + 1 if when.size else None
    if since is None:
        state = "not decided"
    return Monitored(state, since, int(wrong.sum()), wrong.size, against, within)


def _evidence(
    wrong: np.ndarray, a: float, distances: Float64[np.ndarray, " j"]
) -> Float64[np.ndarray, " n"]:
    """Log of the mean likelihood ratio of the alternatives against a, after each sample."""
    p = expit(logit(a) + distances)
    gain, loss = np.log(p / a), np.log1p(-p) - math.log1p(-a)
    k = np.cumsum(wrong)[:, None]
    n = np.arange(1, wrong.size + 1)[:, None]
    ratios = k * gain + (n - k) * loss
    return np.logaddexp.reduce(ratios, axis=1) - math.log(distances.size)
