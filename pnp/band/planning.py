"""Planning: how wide a band is to be expected from so many calibration samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pnp.band.allowed import allowed_errors
from pnp.band.cuts import cuts
from pnp.band.inputs import BUDGETS, Budget, Method, labelled_scores
from pnp.band.oracle import closed_form_band
from pnp.errors import choice, whole


class Planned(NamedTuple):
    """One size: errors allowed, mean true error rates, and the band to expect."""

    n: int
    k_fp: int
    k_fn: int
    fp: float
    fn: float
    width: float


def plan(
    sizes: Sequence[int],
    max_fp: float,
    max_fn: float,
    delta: float = 0.1,
    method: Method = "exact",
    budget: Budget = "joint",
    positives: float = 0.5,
    scores: ArrayLike | None = None,
    y: ArrayLike | None = None,
) -> list[Planned]:
    """Expected band width for each number of calibration samples.

    With k errors allowed among n, the true error rate is (k + 1)/(n + 1) on average over
    calibration draws (Wilks 1941); the width is the plug-in band at these rates.

    Args:
        sizes: numbers of calibration samples.
        max_fp: budget of wrong P.
        max_fn: budget of wrong not-P.
        delta: see `ThreeWayThreshold`.
        method: likewise.
        budget: likewise.
        positives: share of positives; taken from `y` where that is given.
        scores: of samples like those to be judged; None takes the model η(u) = sigmoid(20(u − ½))
            with u uniform, the data set that comes with the package.
        y: their labels.

    Raises:
        UserError: sizes below 1, or as `ThreeWayThreshold.fit`.

    Example:
        >>> [round(row.width, 3) for row in plan([200, 2000, 20000], 0.01, 0.01)]
        [1.0, 0.197, 0.164]
    """
    choice("budget", budget, BUDGETS)
    given = None if scores is None or y is None else labelled_scores(scores, y)
    if given is not None:
        positives = float(given.positive.mean())
    # Shares of all samples that each budget counts.
    shares = (1.0, 1.0) if budget == "joint" else (1 - positives, positives)
    rows: list[Planned] = []
    for n in sizes:
        counted = [max(1, round(whole("sizes", n) * share)) for share in shares]
        k = [
            allowed_errors(m, level, delta, method)
            for m, level in zip(counted, (max_fp, max_fn), strict=True)
        ]
        fp, fn = ((errors + 1) / (m + 1) for errors, m in zip(k, counted, strict=True))
        joint = fp * shares[0], fn * shares[1]
        if given is None:  # a rate of 0 empties the region
            a, b = (max(rate, 1e-12) for rate in joint)
            width = closed_form_band(k=20.0, c=0.5, a=a, b=b)["band"]
        else:
            allowed = (
                np.array([-1 if errors < 0 else int(rate * given.values.size)], np.int64)
                for errors, rate in zip(k, joint, strict=True)
            )
            cut = cuts(given.negatives, given.positives, *allowed)
            width = float(cut.widths(given.ordered)[0])
        rows.append(Planned(n, k[0], k[1], fp, fn, width))
    return rows
