"""A two-sample test: do new images come from where the calibration images came from?

Kolmogorov-Smirnov on the score and on each of the first principal axes of the head's features, the
smallest p-value times their number (Bonferroni). Each test is exact in finite samples for
continuous features and conservative for ties, and the union bound needs no independence: if both
samples are drawn from one source, a shift is reported with probability at most LEVEL.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

# Chance of a false alarm; fewest new images that are tested; most that are compared.
LEVEL, FEWEST, MOST = 0.01, 20, 2_000


@dataclass(frozen=True)
class Shift:
    """Result of the test: `p` is the corrected p-value, None where there were too few images."""

    p: float | None
    where: str
    n: int

    @property
    def detected(self) -> bool:
        """The samples differ at LEVEL."""
        return self.p is not None and self.p <= LEVEL

    @property
    def sentence(self) -> str:
        """The result in words."""
        if self.p is None:
            return f"shift: {self.n} images are too few to compare (at least {FEWEST})."
        p = f"p = {self.p:.2g}" if self.p >= 1e-6 else "p < 1e-6"
        if self.detected:
            return (
                f"SHIFT: these images differ from the calibration images ({p}, most in "
                f"{self.where}). The guarantee is for images like the calibration images: label "
                "some of these and run pnp-decide check, or fit anew with them."
            )
        return f"shift: no difference from the calibration images was found ({p})."


def compare(
    reference: Float[np.ndarray, "m k"], new: Float[np.ndarray, "n k"], seed: int = 0
) -> Shift:
    """Compare two samples of k numbers each: the score first, then features along fixed axes.

    Args:
        reference: of calibration images.
        new: of images to be answered; at most `MOST` of them are used, drawn by `seed`.
        seed: of that draw.
    """
    from scipy.stats import ks_2samp

    n, k = new.shape
    if n < FEWEST or len(reference) < FEWEST:
        return Shift(None, "", n)
    if n > MOST:
        new = new[np.random.default_rng(seed).choice(n, MOST, replace=False)]
    tests: list[Any] = [ks_2samp(reference[:, i], new[:, i], method="auto") for i in range(k)]
    values = [float(test.pvalue) for test in tests]
    least = int(np.argmin(values))
    where = "the score" if least == 0 else f"principal axis {least}"
    return Shift(min(1.0, k * values[least]), where, n)
