"""Selection without labels, audited: do label-free measures rank runs as probes and bands do?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from pnp.report.reading import Run

LEAST = 8  # runs below which a rank correlation says nothing
# Label-free measure -> keys, the first that a run has counts, and the sign that makes more better.
MEASURES: dict[str, tuple[tuple[str, ...], int]] = {
    "effective rank": (("last/geometry/student/effective_rank",), 1),
    "RankMe": (("test/features/student/rankme", "test/embeddings/student/rankme"), 1),
    "Wasserstein": (("last/geometry/student/wasserstein",), -1),
    "alignment": (("last/geometry/student/alignment",), -1),
    "uniformity": (("last/geometry/student/uniformity",), -1),
    "loss": (("last/loss/total",), -1),
}
# What labels say.
JUDGES: dict[str, tuple[tuple[str, ...], int]] = {
    "linear probe": (("test/linear/student", "validation/linear/student"), 1),
    "20-NN": (("test/knn/student", "validation/knn/student"), 1),
    "band, certified": (("band/mean/student/width", "band/lobed/student/width"), -1),
}


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of a measure with a judge over runs, both turned so that more is better.

    1: the measure ranks the runs as labels do; 0: it says nothing; below 0: it misleads.
    """

    measure: str
    judge: str
    runs: int
    rho: float
    low: float
    high: float

    @property
    def trusted(self) -> bool:
        """The whole interval is above 0."""
        return self.low > 0


def rank_agreement(x: np.ndarray, y: np.ndarray, draws: int = 1000) -> tuple[float, float, float]:
    """Spearman's correlation with a 95 % percentile interval of the bootstrap over pairs.

    >>> [round(value, 9) for value in rank_agreement(np.arange(9), np.arange(9))]
    [1.0, 1.0, 1.0]
    """
    pairs = np.stack([x, y])
    rng = np.random.default_rng(0)
    drawn = pairs[:, rng.integers(len(x), size=(draws, len(x)))]
    drawn = drawn[:, (np.ptp(drawn, axis=2) > 0).all(0)]  # equal values have no ranks
    low, high = np.quantile(_correlation(*drawn), (0.025, 0.975))
    return float(_correlation(*pairs[:, None])[0]), float(low), float(high)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis: Pearson's of the ranks."""
    a, b = (rankdata(values, axis=-1) for values in (x, y))
    a, b = (ranks - ranks.mean(-1, keepdims=True) for ranks in (a, b))
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def audit(runs: Sequence[Mapping[str, float]]) -> list[Agreement]:
    """Agreement of every measure with every judge over the runs that have both, `LEAST` or more.

    Args:
        runs: numbers of each run by key, as `Run.numbers`; all judged on the same images.
    """
    found = []
    for measure, (keys, sign) in MEASURES.items():
        for judge, (judged, judge_sign) in JUDGES.items():
            pairs = [(_first(run, keys), _first(run, judged)) for run in runs]
            pairs = [(a, b) for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
            if len(pairs) >= LEAST:
                x, y = (np.array(values) for values in zip(*pairs, strict=True))
                if np.ptp(x) > 0 and np.ptp(y) > 0:
                    agreement = rank_agreement(sign * x, judge_sign * y)
                    found.append(Agreement(measure, judge, len(pairs), *agreement))
    return found


def comparable(runs: Sequence[Run]) -> list[Run]:
    """Finished runs on the data set and test images that most of them share."""
    by_data: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.metrics is not None:
            by_data.setdefault((run.dataset, run.test), []).append(run)
    return max(by_data.values(), key=len, default=[])


def _first(run: Mapping[str, float], keys: Sequence[str]) -> float:
    return next((run[key] for key in keys if key in run), float("nan"))
