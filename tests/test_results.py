"""Rows and metrics.json are the same thing, and every metric has words."""

import gzip
import json
from pathlib import Path

import pytest

from pnp.metrics import METRICS, describe
from pnp.results import OTHER, OWNERS, Row, find, to_metrics, to_rows

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "v0.1" / "metrics").glob("*.json.gz"))


def written(file):
    return json.loads(gzip.decompress(file.read_bytes()))


@pytest.mark.parametrize("file", FIXTURES, ids=lambda file: file.name.partition(".")[0])
@pytest.mark.parametrize("prefix", ["", "stl10/", "test/"])
def test_rows_and_metrics_json_are_inverses_for_every_data_set(file, prefix):
    metrics = {f"{prefix}{key}": value for key, value in written(file).items()}
    rows = to_rows(metrics)
    assert list(to_metrics(rows).items()) == list(metrics.items())
    assert {row.data for row in rows} == {prefix.removesuffix("/")}
    assert {row.owner for row in rows} == OWNERS.keys() - {"network", "average"}
    assert {row.kind for row in rows} == {"probe", "features", "embeddings", "band"}
    named = {row.metric for row in rows if not row.metric.startswith(("linear_", "class/"))}
    assert named <= METRICS.keys()


def test_six_data_sets_are_covered():
    assert len(FIXTURES) == 6


def test_a_key_becomes_the_fields_it_names():
    assert to_rows(
        {
            "test/knn/teacher": 0.4,
            "test/knn/teacher/ci_low": 0.3,
            "test/knn/teacher/ci_high": 0.5,
            "reference/pixels/linear_1pct": 0.2,
            "cifar10/band/T-shirt-top/student/err/fp_joint": 0.01,
        }
    ) == [
        Row("", "test", "probe", "teacher", "", "knn", 0.4, 0.3, 0.5),
        Row("", "test", "probe", "pixels", "", "linear_1pct", 0.2),
        Row("cifar10", "test", "band", "student", "T-shirt-top", "err/fp_joint", 0.01),
    ]


def test_unknown_keys_survive_as_rows_of_their_own_kind():
    metrics = {
        "loss": 1.0,
        "test/knn/professor": 0.4,
        "test/knn/pixels": 0.5,  # a reference stands below reference/
        "future/section/with/ci_low": 0.2,
        "band/": 3.0,
        "": 4.0,
        "a//b": 5.0,
        "other/thing": 6.0,
        "other/thing/ci_high": 7.0,
    }
    rows = to_rows(metrics)
    assert {row.kind for row in rows} == {OTHER}
    assert to_metrics(rows) == metrics


def test_rows_are_found_by_their_fields():
    rows = to_rows({"test/knn/teacher": 0.4, "test/knn/student": 0.3, "validation/knn/student": 0})
    assert [row.value for row in find(rows, split="test", owner="student")] == [0.3]


def test_every_metric_has_a_heading_and_patterns_have_words():
    assert describe("linear_10pct").heading == "linear probe, 10 % of labels"
    assert describe("class/3").heading == "band, class 3"
    assert describe("sel/new_measure").heading == "new measure"
    assert all(metric.heading for metric in METRICS.values())
