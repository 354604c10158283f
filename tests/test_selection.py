"""The audit of label-free measures: closed cases, scipy, and what it leaves out."""

import numpy as np
import pytest
from report_runs import make_run
from scipy.stats import spearmanr

from pnp.report.compare import compare_runs
from pnp.report.selection import LEAST, audit, rank_agreement


def test_the_correlation_is_scipys_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    rho, low, high = rank_agreement(x, y)
    assert rho == pytest.approx(spearmanr(x, y).statistic)
    assert 0 < low < rho < high < 1


def test_ranks_that_agree_give_one_those_that_oppose_minus_one():
    up = np.arange(10)
    assert rank_agreement(up, up**3) == pytest.approx((1, 1, 1))
    assert rank_agreement(up, up[::-1]) == pytest.approx((-1, -1, -1))


def test_independent_ranks_are_not_trusted_nine_times_in_ten():
    rng = np.random.default_rng(1)
    lows = [rank_agreement(*rng.normal(size=(2, 20)), draws=200)[1] for _ in range(60)]
    assert np.mean(np.array(lows) > 0) < 0.1


def test_measures_are_turned_so_that_more_is_better_and_few_runs_say_nothing():
    runs = [
        {
            "last/geometry/student/effective_rank": float(i),
            "last/geometry/student/wasserstein": 1.0 - i / 20,
            "test/knn/student": i / 20,
            "band/mean/student/width": 1.0 - i / 20,
        }
        for i in range(LEAST)
    ]
    found = {(a.measure, a.judge): a for a in audit(runs)}
    assert set(found) == {
        (m, j) for m in ("effective rank", "Wasserstein") for j in ("20-NN", "band, certified")
    }
    assert all(a.rho == pytest.approx(1) and a.trusted and a.runs == LEAST for a in found.values())
    assert audit(runs[1:]) == []
    assert audit([*runs[1:], {"test/knn/student": 0.5}]) == []


def test_a_comparison_of_enough_runs_shows_the_audit_and_one_of_few_does_not(tmp_path):
    for i in range(LEAST):
        final = {"test/knn/student": 0.5 + i / 50, "test/linear/student": 0.6 - i / 50}
        rows = f"0,0,1.0,0.5,0.3\n10,1,{2 - i / 10},0.4,0.4\n"
        make_run(tmp_path / f"r{i}", objective=f"o{i}", final=final, rows=rows)
    made = compare_runs([tmp_path])
    assert "Selection without labels" in made.report.read_text()
    assert "| loss                   | 20-NN        | 8    | 1.000 [1.000, 1.000]" in made.table
    assert "| loss                   | linear probe | 8    | -1.000 [-1.000, -1.000]" in made.table
    few = compare_runs([tmp_path / f"r{i}" for i in range(2)], tmp_path / "few")
    assert "Selection without labels" not in few.report.read_text()
