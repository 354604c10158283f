"""Results: typed rows, and their keys in metrics.json.

metrics.json is flat: `test/knn/teacher`, `reference/pixels/knn`, `test/features/teacher/rankme`,
`band/<concept>/<owner>/<metric>`, each optionally below `<data set>/` and followed by `/ci_low` and
`/ci_high`. Only this module splits and joins such keys: everything else works on `Row`s.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
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
        metric: `knn`, `linear_1pct`, `rankme`, `width`, `err/fp_joint`, …; see `pnp.metrics`.
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

    @cached_property
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
        row = Row(*_fields(key), value, low, high)
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


@cache  # the runs of a report share their keys
def _fields(key: str, data: str = "") -> tuple[str, str, str, str, str, str]:
    """Data, split, kind, owner, concept and metric that a key names."""
    match key.split("/"):
        case ["validation" | "test" as split, metric, owner] if owner in OWNERS:
            return data, split, "probe", owner, "", metric
        case ["reference", owner, metric] if owner in REFERENCES:
            return data, "test", "probe", owner, "", metric
        case [
            "validation" | "test" as split,
            "features" | "embeddings" as kind,
            owner,
            metric,
        ] if owner in OWNERS:
            return data, split, kind, owner, "", metric
        case ["band", concept, owner, *metric] if owner in OWNERS and metric:
            return data, "test", "band", owner, concept, "/".join(metric)
        case [first, *rest] if rest and not data:
            return _fields("/".join(rest), first)
    return "", "", OTHER, "", "", f"{data}/{key}" if data else key
