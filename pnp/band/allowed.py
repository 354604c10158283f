"""Calibration errors that a budget allows: the exact binomial rule and its neighbours."""

import math

from scipy.special import bdtr, bdtrik  # pyright: ignore[reportMissingTypeStubs]

from pnp.band.inputs import METHODS, Budget, LabelledScores, Method, fraction
from pnp.errors import UserError, choice

SLACK = 1 + 1e-12  # so that .29 * 100 = 28.999999999999996 counts as 29


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
    if n > 2**53:  # where floats stop counting
        raise UserError(f"n={n}, expected at most 2⁵³ samples. Give a larger budget.")
    if method == "empirical":
        return math.floor(level * n * SLACK)
    if method == "crc":
        return math.floor(level * (n + 1) * SLACK) - 1
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
    # At most three steps, right to the last ulp.
    while n <= 2**53 and allowed_errors(n, level, delta, method) < 0:
        n += 1
    return n


def sample_sizes(calibration: LabelledScores, budget: Budget) -> tuple[int, int]:
    """Calibration samples that the false-positive and the false-negative budget are shares of."""
    n = calibration.values.size
    if budget == "joint":
        return n, n
    return calibration.negatives.size, calibration.positives.size
