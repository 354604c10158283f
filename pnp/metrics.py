"""The words for every metric: heading, unit, meaning and direction.

`describe` also serves the curves logged in training: `geometry/student/sigma` is drawn with the
heading and meaning of `sigma`, a loss term with those of `loss/<term>`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """The words for a metric: heading of a column, unit, and what it says in one line.

    `unit` is share (0 to 1), cosine, distance, dimensions, count, nats or empty.
    `higher_is_better` is None where neither direction is good by itself.
    """

    heading: str
    unit: str = ""
    meaning: str = ""
    higher_is_better: bool | None = None

    @property
    def title(self) -> str:
        """The heading above numbers in percent, or plain ones."""
        return f"{self.heading}, %" if self.unit == "share" else self.heading


METRICS = {
    # Probes on frozen features.
    "linear": Metric("linear probe", "share", "accuracy of a linear classifier", True),
    "knn": Metric("kNN", "share", "weighted nearest neighbours, held-out images", True),
    "views": Metric(
        "matched views", "share", "views whose nearest image is another view of the same one", True
    ),
    # Geometry of unit vectors, backbone features or embeddings; also logged in training.
    "mean_cosine": Metric(
        "mean cosine", "cosine", "between different images; 1 = complete collapse", False
    ),
    "within_cosine": Metric("cosine within classes", "cosine", "between images of one class", None),
    "between_cosine": Metric(
        "cosine between classes", "cosine", "between images of different classes", False
    ),
    "sigma": Metric("σ·√D", "", "σ·√D; 1 = as spread as the sphere allows, 0 = collapse", True),
    "mean_norm": Metric("norm of the mean", "distance", "‖mean z‖; near 1 = a narrow cone", False),
    "effective_rank": Metric(
        "effective rank", "dimensions", "axes in use; far below D = dimensional collapse", True
    ),
    "rankme": Metric("RankMe", "dimensions", "effective rank of the uncentred vectors", True),
    "wasserstein": Metric(
        "Wasserstein", "distance", "0 = all axes used alike, √2 = collapse", False
    ),
    "uniformity": Metric("uniformity", "nats", "lower = spread more evenly", False),
    "alignment": Metric("alignment", "distance", "squared distance between views of one image"),
    "softmax_entropy": Metric(
        "softmax entropy", "share", "of the largest possible; can be 1 under complete collapse"
    ),
    "between_distance": Metric("distance between classes", "distance", "root mean square", True),
    "nearest_other_class": Metric(
        "nearest other class", "distance", "mean distance to the nearest image of another class"
    ),
    **{
        f"{kind}_q{q:02d}": Metric(
            f"cosine {kind} classes, {q} % quantile", "cosine", "over pairs of images"
        )
        for kind in ("within", "between")
        for q in (5, 50, 95)
    },
    # The band of a concept on test.
    "width": Metric("band, certified", "share", "test images left undecided", False),
    "plugin": Metric(
        "band, plug-in", "share", "thresholds and band on the same images: ranks networks", False
    ),
    "pos_rate": Metric("P in the band", "share", "share of P among the undecided"),
    "curve_mean": Metric("mean plug-in band", "share", "over allowed errors of .1 to 10 %", False),
    "curve_mean_certified": Metric(
        "mean certified band", "share", "over allowed errors of .1 to 10 %", False
    ),
    "err/fp_joint": Metric("FP", "share", "images asserted P that are ¬P", False),
    "err/fp_joint_eta": Metric(
        "FP, from η", "share", "the same, expected under the known η", False
    ),
    "err/fpr": Metric("FP rate", "share", "of the images that are ¬P", False),
    "err/fp_budget": Metric("FP allowed", "share", "budget for false positives"),
    "err/fp_ucb": Metric("FP at most", "share", "upper confidence bound", False),
    "err/fp_confirmed": Metric("FP confirmed", "", "1 = the upper bound is within budget", True),
    "err/fn_joint": Metric("FN", "share", "images asserted ¬P that are P", False),
    "err/fn_joint_eta": Metric(
        "FN, from η", "share", "the same, expected under the known η", False
    ),
    "err/fnr": Metric("FN rate", "share", "of the images that are P", False),
    "err/fn_budget": Metric("FN allowed", "share", "budget for false negatives"),
    "err/fn_ucb": Metric("FN at most", "share", "upper confidence bound", False),
    "err/fn_confirmed": Metric("FN confirmed", "", "1 = the upper bound is within budget", True),
    "rank/auroc": Metric("AUROC", "share", "P(score of a P > score of a ¬P)", True),
    "sel/risk": Metric("selective risk", "share", "errors among the decided", False),
    "sel/aurc": Metric("AURC", "share", "risk, mean over coverage", False),
    "sel/augrc": Metric("AUGRC", "share", "undetected errors, mean over coverage", False),
    "cal/ece": Metric("ECE", "share", "calibration error in 15 bins", False),
    "cal/brier": Metric("Brier score", "", "mean squared error of the probabilities", False),
    "cal/logloss": Metric("log loss", "nats", "of the probabilities", False),
    "thr/t_lo": Metric("lower threshold", "", "logit below which ¬P is asserted"),
    "thr/t_hi": Metric("upper threshold", "", "logit above which P is asserted"),
    "thr/crossed": Metric("thresholds crossed", "", "1 = budgets left over, one cut, no band"),
    "thr/k_fp": Metric("FP in calibration", "count", "that the threshold admits"),
    "thr/k_fn": Metric("FN in calibration", "count", "that the threshold admits"),
    "data/n_calib": Metric("calibration images", "count"),
    "data/n_test": Metric("test images", "count"),
    "data/pi1": Metric("share of P", "share", "in test"),
    "data/tied": Metric("tied scores", "share", "test scores that equal another one", False),
    "oracle/width": Metric("oracle", "share", "the irreducible band, from the known η"),
    "oracle/excess": Metric("excess over the oracle", "share", "band minus oracle", False),
    "oracle/extra": Metric("extra", "share", "in the band, not in the oracle's", False),
    "oracle/erased": Metric("erased", "share", "in the oracle's band, not in this one", False),
    "oracle/recall": Metric("band recall", "share", "of the oracle's band", True),
    "oracle/precision": Metric("band precision", "share", "of this band, in the oracle's", True),
    # Loss terms, logged in training.
    "loss/total": Metric("total", "", "weighted sum of the terms"),
    "loss/alignment": Metric("alignment", "", "0 = views agree, 4 = opposite"),
    "loss/repulsion": Metric("repulsion", "", "the lower, the farther apart different images are"),
    "loss/coding_rate": Metric("coding rate", "", "least when all axes are used alike"),
    "loss/covariance": Metric("covariance", "", "0 = no two axes carry the same thing"),
    "loss/variance": Metric("variance", "", "0 = every axis spread enough"),
}


# Of the terms' gradients at the embeddings, logged in training.
GRADIENTS = {
    "share": ("share", "of the term in the gradient at the embeddings"),
    "cosine": (
        "cosine",
        "between the gradients of two terms; below 0 they work against each other",
    ),
}


def describe(metric: str) -> Metric:
    """The words for a metric; one that nobody described is headed by its own name.

    >>> describe("linear_1pct").heading
    'linear probe, 1 % of labels'
    """
    if metric in METRICS:
        return METRICS[metric]
    if metric.startswith("linear_") and metric.endswith("pct"):
        share = metric.removeprefix("linear_").removesuffix("pct")
        meaning = f"accuracy of a linear classifier fitted on {share} % of the labels"
        return Metric(f"linear probe, {share} % of labels", "share", meaning, True)
    for kind, (unit, meaning) in GRADIENTS.items():
        if metric.startswith(f"{kind}/"):
            terms = metric.removeprefix(f"{kind}/").replace("_", " and ")
            return Metric(
                f"{kind}: {terms.replace('coding and rate', 'coding rate')}", unit, meaning
            )
    if metric.startswith("class/"):
        return Metric(f"band, class {metric.removeprefix('class/')}", "share", "", False)
    return Metric(metric.rpartition("/")[2].replace("_", " "))
