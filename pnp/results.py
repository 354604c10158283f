"""Results: typed rows, their keys in metrics.json, and the words for every metric.

metrics.json is flat: `test/knn/teacher`, `reference/pixels/knn`, `test/features/teacher/rankme`,
`band/<concept>/<owner>/<metric>`, each optionally below `<data set>/` and followed by `/ci_low` and
`/ci_high`. Only this module splits and joins such keys: everything else works on `Row`s.

`describe` also serves the curves logged in training: `geometry/student/sigma` is drawn with the
heading and meaning of `sigma`, a loss term with those of `loss/<term>`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Networks and references with their headings, in the order of tables.
OWNERS = {
    "teacher": "teacher",
    "student": "student",
    "average": "average",
    "network": "network",
    "pixels": "raw pixels",
    "random": "randomly initialised",
}
NETWORKS = ("teacher", "student", "average", "network")
REFERENCES = ("pixels", "random")
PARTIAL = "metrics.partial.json"  # rows of an evaluation that is not at its end
GAPS = "gaps.json"  # what an evaluation could not measure or draw, and why
# Quality of the better network, logged in training: by labels, else by matching views.
ONLINE = ("probe/main/knn", "probe/main/views")
MEAN = "mean"  # concept of the mean over concepts
OTHER = "other"  # kind of a key that this version does not know: `metric` is the whole key


@dataclass(frozen=True)
class Row:
    """One number of an evaluation.

    Args:
        data: further data set that was evaluated; empty for the run's own.
        split: `validation` or `test`; empty for unknown keys.
        kind: `probe`, `features`, `embeddings`, `band`, or `other` for unknown keys.
        owner: a key of `OWNERS`; empty for unknown keys.
        concept: of a band, `mean` for the mean over concepts; else empty.
        metric: `knn`, `linear_1pct`, `rankme`, `width`, `err/fp_joint`, …; see `describe`.
        value: the number.
        low, high: ends of its 95 % interval, where there is one.
    """

    data: str
    split: str
    kind: str
    owner: str
    concept: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def key(self) -> str:
        """The key of `value` in metrics.json."""
        if self.kind == OTHER:
            return self.metric
        if self.kind == "band":
            parts = ["band", self.concept, self.owner, self.metric]
        elif self.kind != "probe":
            parts = [self.split, self.kind, self.owner, self.metric]
        elif self.owner in REFERENCES:
            parts = ["reference", self.owner, self.metric]
        else:
            parts = [self.split, self.metric, self.owner]
        return "/".join([self.data, *parts] if self.data else parts)


def to_rows(metrics: Mapping[str, float]) -> list[Row]:
    """Rows of a metrics.json, in its order; a key this version does not know is of kind `other`.

    >>> to_rows({"test/knn/teacher": 0.4, "test/knn/teacher/ci_low": 0.3})[0].low
    0.3
    """
    rows = []
    for key, value in metrics.items():
        stem, _, end = key.rpartition("/")
        if end in ("ci_low", "ci_high") and stem in metrics:
            continue
        low, high = metrics.get(f"{key}/ci_low"), metrics.get(f"{key}/ci_high")
        row = Row(**_parse(key), value=value, low=low, high=high)
        if row.key != key:  # it only looks like one of ours
            row = Row("", "", OTHER, "", "", key, value, low, high)
        rows.append(row)
    return rows


def to_metrics(rows: Iterable[Row]) -> dict[str, float]:
    """The content of metrics.json: the inverse of `to_rows`."""
    metrics: dict[str, float] = {}
    for row in rows:
        key = row.key
        metrics[key] = row.value
        if row.low is not None:
            metrics[f"{key}/ci_low"] = row.low
        if row.high is not None:
            metrics[f"{key}/ci_high"] = row.high
    return metrics


def find(rows: Iterable[Row], **fields: Any) -> list[Row]:
    """The rows with these values in these fields: `find(rows, kind="probe", owner="teacher")`."""
    return [row for row in rows if all(getattr(row, k) == v for k, v in fields.items())]


def main_table(rows: Iterable[Row]) -> tuple[list[str], dict[str, list[Row | None]], str]:
    """The table that people read first: metrics, cells of every owner that has any, and a note.

    It holds linear probe, kNN, certified and plug-in band on test images of the run's own data set;
    without labels the share of matched views.
    Where there is one concept the bands are its own, with intervals, else means over concepts: the
    note says which.
    """
    cells = {
        (row.concept, row.metric, row.owner): row
        for row in find(rows, data="", split="test")
        if row.kind in ("probe", "band")
    }
    concepts = {concept: None for concept, *_ in cells if concept not in ("", MEAN)}
    concept, note = MEAN, f"Bands: mean of {len(concepts)} concepts." if concepts else ""
    if len(concepts) == 1:
        (concept,) = concepts
        note = f"Bands: concept “{concept}”."
    unlabelled = all(metric == "views" for concept, metric, _ in cells if not concept)
    columns = [("", "views")] if unlabelled else [("", "linear"), ("", "knn")]
    columns += [(concept, "width"), (concept, "plugin")] if concepts else []
    lines = {owner: [cells.get((*column, owner)) for column in columns] for owner in OWNERS}
    lines = {owner: line for owner, line in lines.items() if any(line)}
    return [metric for _, metric in columns], lines, note


def of_student(key: str) -> str:
    """The key of a logged curve for runs without a teacher: `probe/student/knn`."""
    return "/".join("student" if part == "teacher" else part for part in key.split("/"))


def better(values: Mapping[str, float]) -> str:
    """The network with the highest value; of equals the teacher.

    >>> better({"student": 0.9, "teacher": 0.9}), better({"student": 0.9, "teacher": 0.8})
    ('teacher', 'student')
    """
    return max(values, key=lambda owner: (values[owner], owner == "teacher"))


def main_network(rows: Iterable[Row]) -> dict[str, Any] | None:
    """The better network on validation and how it was chosen, as `main` in run.json keeps it.

    The first of kNN accuracy, linear probe and matching of views that was measured decides; None
    if none was.
    """
    measured = find(rows, data="", split="validation", kind="probe")
    for metric in ("knn", "linear", "views"):
        values = {r.owner: r.value for r in measured if r.metric == metric and r.owner in NETWORKS}
        if values:
            return {"network": better(values), "by": f"validation/{metric}", **values}
    return None


def logged_best(logged: Mapping[str, Any], key: str) -> tuple[str, float] | None:
    """The better network and its value of a logged key such as `probe/main/knn`; None without one.

    >>> logged_best({"probe/student/knn": 0.5, "probe/teacher/knn": 0.4}, "probe/main/knn")
    ('student', 0.5)
    """
    words = key.split("/")
    keys = {o: "/".join(o if word == "main" else word for word in words) for o in NETWORKS}
    values = {owner: float(logged[k]) for owner, k in keys.items() if k in logged}
    return (owner := better(values), values[owner]) if values else None


def _parse(key: str, data: str = "") -> dict[str, str]:
    """The fields of a row that its key tells."""
    match key.split("/"):
        case ["validation" | "test" as split, metric, owner] if owner in OWNERS:
            fields = (split, "probe", owner, "", metric)
        case ["reference", owner, metric] if owner in REFERENCES:
            fields = ("test", "probe", owner, "", metric)
        case [
            "validation" | "test" as split,
            "features" | "embeddings" as kind,
            owner,
            metric,
        ] if owner in OWNERS:
            fields = (split, kind, owner, "", metric)
        case ["band", concept, owner, *metric] if owner in OWNERS and metric:
            fields = ("test", "band", owner, concept, "/".join(metric))
        case [first, *rest] if rest and not data:
            return _parse("/".join(rest), first)
        case _:
            fields = ("", OTHER, "", "", f"{data}/{key}" if data else key)
            data = ""
    return dict(zip(("split", "kind", "owner", "concept", "metric"), fields, strict=True)) | {
        "data": data
    }


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
