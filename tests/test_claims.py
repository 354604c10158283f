"""The ledger: its statistics, and that page, digests and verdicts follow from the rows."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[1] / "experiments" / "claims"
PATHS = {"cifar": "CIFAR"}


@pytest.fixture(scope="module")
def evidence():
    sys.path.insert(0, str(FOLDER))
    import evidence

    yield evidence
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def pages(evidence):
    import pages

    return pages


def contrast(evidence, values, indifference=0.0, level=0.05):
    return evidence.Contrast("set", "words", np.asarray(values, float), indifference, level)


def test_page_and_digests_are_what_the_rows_give(pages):
    assert pages.readme() == (FOLDER / "README.md").read_text()
    assert pages.hashes() == (FOLDER / "sha256").read_text()
    text = pages.PAGE.read_text()
    assert pages.filled(text) == text


def test_every_claim_states_its_rule_and_its_runs_name_known_arms(evidence):
    for name in evidence.IDS:
        content = evidence.claim(name)
        assert content["id"] == name
        assert len(content["seeds"]) >= 5
        assert {"article", "statement", "measure", "rule", "budget", "refuted_by"} <= set(content)
        for scale in content["budget"]:
            jobs = evidence.jobs(name, scale, PATHS)
            arms = {job["arm"] for job in jobs}
            assert len(jobs) == len({evidence.identity(job) for job in jobs})
            for case in content["cases"].values() if jobs else ():
                for line in case["contrasts"]:
                    assert evidence._names(line["claim"]) <= arms


@pytest.mark.slow
def test_every_run_of_the_ledger_composes(evidence, compose):
    from train import COMMON

    scales = ("quick", "laptop", "gpu")
    jobs = [
        job
        for name in evidence.IDS
        for scale in scales
        for job in evidence.jobs(name, scale, PATHS)
    ]
    for words in {tuple(job["words"]) for job in jobs if job["seed"] == 1}:
        assert compose(*COMMON, *words, tiny=False).seed == 1


def test_the_phase_diagram_has_a_panel_per_method_and_a_field_per_cell(evidence, pages):
    from matplotlib.figure import Figure

    arms, cells = (
        ("today", "simclr", "dino", "byol", "simsiam"),
        ("s", "wide", "broad", "long", "l"),
    )
    lines = [
        {"scale": "laptop", "arm": f"{arm}_{cell}", "band_student": 0.1 * i + 0.01 * k}
        for i, arm in enumerate(arms)
        for k, cell in enumerate(cells)
    ]
    picture = Figure()
    pages.phases(picture, "C6", pd.DataFrame(lines))
    titles = [axis.get_title() for axis in picture.axes if axis.get_title()]
    assert titles == list(arms)
    texts = [text.get_text() for text in picture.axes[0].texts]
    assert texts == ["0.00", "0.03", "0.02", "", "0.01", "", "", "0.04"]
    rows = [label.get_text() for label in picture.axes[0].get_yticklabels()]
    assert rows[0] == "batch 32, width 8"


def test_the_interval_is_the_paired_t_interval_of_scipy(evidence):
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 7), rng.normal(0, 1, 7)
    c = contrast(evidence, a - b)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (c.mean - c.half, c.mean + c.half) == pytest.approx((low, high))
    assert evidence._p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_verdicts_of_closed_cases(evidence):
    assert contrast(evidence, [1, 1.1, 0.9, 1, 1]).verdict == "supported"
    assert contrast(evidence, [-1, -1.1, -0.9, -1, -1]).verdict == "refuted"
    assert contrast(evidence, [1, -1, 1, -1, 0.5]).verdict == "undecided"
    # Above 0 for sure, and of no practical size.
    assert contrast(evidence, [0.1, 0.11, 0.09, 0.1, 0.1], indifference=0.5).verdict == "refuted"
    assert contrast(evidence, [0.0] * 5).verdict == "refuted"
    assert contrast(evidence, [0.5] * 5).verdict == "supported"


def test_the_seeds_that_would_decide_do_at_this_mean_and_spread_and_one_less_does_not(evidence):
    c = contrast(evidence, [1.0, -0.5, 1.0, 0.0, 0.5])
    n = c.seeds_to_decide
    spread = c.effects.std(ddof=1)
    halves = [stats.t.ppf(0.975, m - 1) * spread / m**0.5 for m in (n - 1, n)]
    assert halves[0] >= c.mean > halves[1]
    assert contrast(evidence, [1, 1.1, 0.9, 1, 1]).seeds_to_decide is None


def test_holms_p_values_are_those_of_statsmodels_and_its_levels_go_from_strict_to_plain(evidence):
    rng = np.random.default_rng(3)
    effects = [rng.normal(shift, 1, 6) for shift in (3, 0.2, 2, 0)]
    found = evidence.holm([contrast(evidence, values) for values in effects], 0.05)
    raw = [stats.ttest_1samp(values, 0).pvalue for values in effects]
    order, worst = np.argsort(raw), 0.0
    for rank, i in enumerate(order):  # the definition of Holm 1979
        worst = max(worst, min(1, (4 - rank) * raw[i]))
        assert found[i].p == pytest.approx(worst)
    assert found[order[0]].level == pytest.approx(0.05 / 4)
    for c in found:  # an interval away from 0 where, and only where, the corrected p says so
        assert (abs(c.mean) > c.half) == (c.p <= 0.05)


def test_claims_are_turned_so_that_they_say_positive(evidence):
    frame = pd.DataFrame({"on": [0.9, 0.8], "off": [0.4, 0.5]})
    assert evidence.effects(frame, "on - off > 0.1") == pytest.approx([0.4, 0.2])
    assert evidence.effects(frame, "off < 0.6") == pytest.approx([0.2, 0.1])


def test_two_of_three_sets_support_a_case_unless_one_refutes_it(evidence):
    case = {"contrasts": [{}]}
    yes, no, maybe = [1, 1.1, 0.9, 1, 1], [-1, -1.1, -0.9, -1, -1], [1, -1, 1, -1, 0.3]

    def said(*votes):
        found = [evidence.Contrast(str(i), "", np.array(v), 0.0) for i, v in enumerate(votes)]
        return evidence.verdict(found, case, sets=2, planned=3)

    assert said(yes, yes, maybe) == "supported"
    assert said(yes, yes, no) == "undecided"
    assert said(yes, maybe, maybe) == "undecided"
    assert said(no, no, maybe) == "refuted"
    assert said() == "not run"
    assert said(yes[:4], yes[:4], yes[:4]) == "undecided"
    assert evidence.verdict([contrast(evidence, yes)], case, sets=2, planned=1) == "supported"


def test_rows_are_appended_whole_and_shared_between_claims_by_what_they_ran(evidence, tmp_path):
    file = tmp_path / "C9.csv"
    evidence.append(file, {"scale": "quick", "seed": 1, "x": 0.123456789})
    evidence.append(file, {"scale": "quick", "seed": 2, "y": 2})
    rows = evidence.read(file)
    assert list(rows.columns) == ["scale", "seed", "x", "y"]
    assert rows["x"][0] == 0.12346
    assert np.isnan(rows["y"][0])
    c2 = {evidence.identity(job) for job in evidence.jobs("C2", "quick", {})}
    assert c2 < {evidence.identity(job) for job in evidence.jobs("C3", "quick", {})}


def test_finals_of_the_contest_become_rows_of_the_ledger(evidence, tmp_path, monkeypatch):
    import json

    monkeypatch.setattr(evidence, "HERE", tmp_path)
    final = {"stage": "final", "data": "cifar10", "method": "pnp", "seed": 101, "arm": {"lr": 1}}
    final |= dict.fromkeys(("machine", "images", "steps", "training_seconds", "seconds"), 1)
    words = ("test/knn", "test/linear", "band/mean")
    final["metrics"] = {f"{w}/student{'/width' * ('band' in w)}": 0.5 for w in words}
    final["metrics"]["band/mean/student/plugin"] = 0.4
    lines = [final, {**final, "seed": 102, "error": "broke"}, {**final, "stage": "tune"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for _ in range(2):  # a second time adds nothing
        evidence.convert(tmp_path / "r.jsonl")
        rows = evidence.read(tmp_path / "C5.csv")
        assert rows[["scale", "data", "arm", "seed"]].values.tolist() == [
            ["contest", "cifar10", "today", 101]
        ]
    assert rows["band_student"][0] == 0.5
    better = {**final["metrics"], "band/mean/student/width": 0.25}
    rival = {**final, "method": "simclr"}
    lines += [{**final, "arm": {"lr": 2}, "metrics": better}, rival, {**rival, "arm": {"lr": 2}}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    evidence.convert(tmp_path / "r.jsonl")  # of P¬P the last final counts, of a rival the first
    rows = evidence.read(tmp_path / "C5.csv").set_index("arm")
    assert rows["band_student"].to_dict() == {"today": 0.25, "simclr": 0.5}
