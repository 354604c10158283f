"""Claims about the tables of many runs: what 0.1 wrote, intervals, pairs, groups and baselines."""

import csv
import json
import math
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import scipy
import yaml
from report_runs import FINAL, make_run, make_sweep, write

from pnp.cli.report import main
from pnp.errors import UserError
from pnp.report.compare import Comparison, compare_runs
from pnp.report.groups import baseline_group, group_runs
from pnp.report.reading import find_runs, read_run
from pnp.report.table import Cell, difference

SWEEP = Path(__file__).parent / "fixtures" / "v0.1" / "sweep"


def table(made: Comparison) -> list[dict[str, str]]:
    return list(csv.DictReader(made.csv.read_text(encoding="utf-8").splitlines()))


def test_the_tables_of_a_sweep_are_those_of_version_0_1_byte_for_byte(tmp_path, capsys):
    make_sweep(tmp_path, runs=24, points=20, seeds=3, finished=0.9)
    main([str(tmp_path)])
    assert (tmp_path / "table.md").read_bytes() == (SWEEP / "table.md").read_bytes()
    ours, theirs = (folder / "table.csv" for folder in (tmp_path, SWEEP))
    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 17):
        assert ours.read_bytes() == theirs.read_bytes()
    lines, before = (list(csv.reader(f.read_text("utf-8").splitlines())) for f in (ours, theirs))
    assert len(lines) == len(before)
    for line, old in zip(lines, before, strict=True):
        for cell, known in zip(line, old, strict=True):  # an older SciPy's t is another at 1e-11
            assert cell == known or math.isclose(float(cell), float(known), rel_tol=1e-9)
    assert capsys.readouterr().out.startswith((SWEEP / "table.md").read_text(encoding="utf-8"))


def test_differences_are_paired_by_seed(tmp_path):
    shift = {"full": 0.3, "no_repulsion": 0.1}
    for objective, seeds in (("full", (0, 1, 2)), ("no_repulsion", (1, 2, 3))):
        for seed in seeds:
            path = write(tmp_path / f"{objective}{seed}", objective, 0.004, 0.0, seed, points=3)
            value = shift[objective] + [0.0, 0.05, -0.4, 0.2][seed]
            (path / "metrics.json").write_text(json.dumps({"test/knn/teacher": value}))
    groups = group_runs([read_run(path) for path in find_runs([tmp_path])])
    cell = difference(groups[1], groups[0], "test/knn/teacher")
    assert (cell.n, cell.mean) == (2, pytest.approx(-0.2))
    assert cell.std == pytest.approx(0, abs=1e-12)  # the seeds' own spread has cancelled
    made = compare_runs([tmp_path], baseline="objective=full")
    assert "Minus objective=full, paired by seed" in made.table
    assert "-0.200 ± 0.000" in made.table


def test_runs_on_different_data_are_no_pairs(tmp_path):
    for objective, data in (("full", "a"), ("no_repulsion", "b")):
        path = write(tmp_path / data, objective, 0.004, 0.0, 0, points=3)
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["data"]["dataset"] = data
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "Minus" not in compare_runs([tmp_path]).table


def test_the_interval_is_students_and_covers_the_mean_of_three_normal_draws_at_95_percent():
    import numpy as np

    draws = np.random.default_rng(0).normal(size=(4000, 3))
    covered = np.mean([not Cell.over(three).is_clear for three in draws])
    assert covered == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / 4000) ** 0.5)


def test_the_baseline_is_the_configuration_closest_to_the_others_or_the_one_asked_for(tmp_path):
    settings = (("full", 0.004, 0.0), ("full", 0.008, 0.0), ("align_only", 0.004, 0.0))
    for objective, lr, margin in settings:
        write(tmp_path / f"{objective}{lr}", objective, lr, margin, 0, points=3)
    groups = group_runs([read_run(path) for path in find_runs([tmp_path])])
    assert baseline_group(groups).label == "objective=full lr=0.004"
    assert baseline_group(groups, "lr=0.008").label == "objective=full lr=0.008"
    with pytest.raises(UserError, match="fits 2 configurations"):
        baseline_group(groups, "lr=0.004")
    with pytest.raises(UserError, match="fits 0 configurations; give the key=value words"):
        baseline_group(groups, "lr=5")


def test_seeds_form_one_row_with_mean_deviation_and_t_interval(tmp_path):
    for seed, value in enumerate((0.80, 0.82, 0.87)):
        make_run(tmp_path / str(seed), seed=seed, final={"test/knn/teacher": value})
    made = compare_runs([tmp_path])
    (row,) = table(made)
    assert float(row["test/knn/teacher"]) == pytest.approx(0.83)
    assert float(row["test/knn/teacher/std"]) == pytest.approx(0.0360555)  # sqrt(0.0026 / 2)
    half = 4.302653 * 0.0360555 / 3**0.5  # t of 2 degrees of freedom at 97.5 %
    assert float(row["test/knn/teacher/half95"]) == pytest.approx(half, rel=1e-5)
    assert (row["n"], row["seeds"]) == ("3", "0, 1, 2")
    assert "| all runs | 3   | 0.830 ± 0.090" in made.table
    assert made.markdown.read_text() == made.table


def test_a_choice_hides_the_keys_it_fixes_and_shows_those_that_vary_within_it(tmp_path):
    for objective, repulsion in (("full", 1.0), ("no_repulsion", 0.0)):
        for scale in ("sphere", "absolute"):
            path = tmp_path / f"{objective}-{scale}"
            make_run(path, objective=objective, repulsion=repulsion, scale=scale)
    labels = [row["group"] for row in table(compare_runs([tmp_path]))]
    assert labels == [
        "objective=full scale=absolute",
        "objective=full scale=sphere",
        "objective=no_repulsion scale=absolute",
        "objective=no_repulsion scale=sphere",
    ]


def test_a_weight_changed_without_a_choice_names_the_weight(tmp_path):
    for weight in (0.5, 10.0, 2.0):
        make_run(tmp_path / str(weight), repulsion=weight)
    labels = [row["group"] for row in table(compare_runs([tmp_path]))]
    assert labels == ["repulsion=0.5", "repulsion=2", "repulsion=10"]


def test_unfinished_and_repeated_runs_are_named_and_not_counted(tmp_path):
    make_run(tmp_path / "a", final={"test/knn/teacher": 0.5})
    os.utime(tmp_path / "a" / "metrics.json", (1, 1))
    make_run(tmp_path / "again", final={"test/knn/teacher": 0.7})
    make_run(tmp_path / "open", seed=1, final=None)
    made = compare_runs([tmp_path])
    (row,) = table(made)
    assert (row["n"], row["unfinished"], float(row["test/knn/teacher"])) == ("1", "1", 0.7)
    assert "Running, unfinished, not counted: open" in made.table
    assert "a newer run has the same seed: a " in made.table


def test_a_nan_among_seeds_is_not_averaged_away(tmp_path):
    make_run(tmp_path / "0", seed=0, final={"test/knn/teacher": 0.5})
    make_run(tmp_path / "1", seed=1, final={"test/knn/teacher": float("nan")})
    (row,) = table(compare_runs([tmp_path]))
    assert row["test/knn/teacher"] == "nan"


def test_references_are_rows_only_when_data_and_network_are_the_same(tmp_path):
    make_run(tmp_path / "same" / "a")
    make_run(tmp_path / "same" / "b", objective="other")
    assert "raw pixels" in compare_runs([tmp_path / "same"]).table
    make_run(tmp_path / "differ" / "a", data={"name": "cifar10"})
    make_run(tmp_path / "differ" / "b", data={"name": "stl10"})
    assert [row["group"] for row in table(compare_runs([tmp_path / "differ"]))] == [
        "name=cifar10",
        "name=stl10",
    ]
    assert "raw pixels" not in compare_runs([tmp_path / "differ"]).table


def test_a_comparison_does_not_overwrite_the_report_of_a_run(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", objective="other")
    with pytest.raises(UserError, match="itself a run"):
        compare_runs([tmp_path], out=tmp_path / "a")


def test_by_groups_over_the_other_keys_and_pairs_runs_that_share_them(tmp_path):
    make_sweep(tmp_path, runs=24, points=3)
    made = compare_runs([tmp_path], by=["objective"], baseline="objective=full")
    rows = table(made)
    assert [row["group"] for row in rows] == [
        "objective=align_only",
        "objective=full",
        "objective=no_repulsion",
        "objective=no_variance",
    ]
    assert {row["n"] for row in rows} == {"6"}  # three seeds at two learning rates
    assert "| objective=no_variance  | 6     |" in made.table.split("paired by seed")[1]


def test_only_keeps_the_runs_with_a_value_and_says_which_values_there_are(tmp_path):
    make_sweep(tmp_path, runs=24, points=3, finished=0.9)
    made = compare_runs([tmp_path], only=["objective=full,no_variance", "optim.lr=0.002"])
    assert [row["group"] for row in table(made)] == ["objective=full", "objective=no_variance"]
    assert compare_runs([tmp_path], only=["state=running"]).states == {"running": 2}
    for only, message in (
        ("lr=7", r"no run has it; optim.lr is one of 0.001, 0.002"),
        ("lr", "give KEY=VALUE"),
        ("l=3", "'l' is no key"),
    ):
        with pytest.raises(UserError, match=message):
            compare_runs([tmp_path], only=[only])
    with pytest.raises(UserError, match="'objectiv' is no key"):
        compare_runs([tmp_path], by=["objectiv"])


def test_keys_that_change_no_number_do_not_split_runs(tmp_path):
    """One list serves the identity of a job and the report."""
    for seed, graphs in enumerate((True, False)):
        path = make_run(tmp_path / str(seed), seed=seed, method={"cuda_graphs": graphs})
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["choices"]["logger"] = ("csv", "wandb")[seed]
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    assert [row["n"] for row in table(compare_runs([tmp_path]))] == ["2"]


def test_a_queue_of_version_0_1_that_was_off_does_not_split_runs(tmp_path):
    make_run(tmp_path / "old", seed=0, objective="full")
    make_run(tmp_path / "new", seed=1, objective="full")
    config = yaml.safe_load((tmp_path / "old" / "config.yaml").read_text())
    config["objective"]["queue"] = 0
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(config))
    assert [row["group"] for row in table(compare_runs([tmp_path]))] == ["all runs"]


def test_runs_on_several_data_sets_make_a_table_each_and_no_difference_between_them(tmp_path):
    for data in ("a", "b"):
        for objective in ("full", "other"):
            make_run(tmp_path / f"{data}{objective}", objective=objective, data={"dataset": data})
    made = compare_runs([tmp_path], baseline="objective=full")
    assert [line for line in made.table.splitlines() if line[:2] == "##"] == ["## a", "## b"]
    assert made.table.count("Minus objective=full") == 2
    assert [(row["data set"], row["group"]) for row in table(made)] == [
        (data, f"objective={objective}") for data in "ab" for objective in ("full", "other")
    ]
    html = made.report.read_text()
    assert "2 data sets: numbers compare within one of them only" in html
    assert '<option value="a" selected>' in html


def test_a_key_to_group_by_that_one_data_set_lacks_is_unset_there(tmp_path):
    for data, more in (("a", {"width": 1}), ("a", {"width": 2}), ("b", {})):
        path = tmp_path / f"{data}{more.get('width', '')}"
        make_run(path, data={"dataset": data}, model=more)
    labels = [row["group"] for row in table(compare_runs([tmp_path], by=["width"]))]
    assert labels == ["width=1", "width=2", "width=unset"]


def test_of_many_keys_and_metrics_a_table_shows_those_that_explain_and_names_the_rest(tmp_path):
    for i in range(3):
        keys = {f"key{k}": i for k in range(12)}
        probes = {f"test/linear_{k}pct/teacher": 0.5 for k in range(12)}
        make_run(tmp_path / f"{i}", final=probes | {"test/linear/teacher": 0.1 * i}, extra=keys)
    made = compare_runs([tmp_path])
    header = made.table.splitlines()[0]
    assert header.count("|") <= 13
    assert header.split("|")[3].strip() == "linear teacher"
    assert "11 more keys differ (key1, key10," in made.table
    assert [row["group"] for row in table(made)] == ["key0=0", "key0=1", "key0=2"]
    assert {"key11", "test/linear_11pct/teacher"} <= set(table(made)[0])


def test_what_a_search_tuned_is_the_first_metric_of_its_table(tmp_path):
    validation = {"validation/knn/teacher": 0.6, "validation/knn/student": 0.7}
    make_run(tmp_path / "trial_0000", final=FINAL | validation)
    with closing(sqlite3.connect(tmp_path / "study.db")) as base:
        base.execute("CREATE TABLE study_user_attributes (key, value_json)")
        asked = json.dumps({"metric": "validation/knn/main"})
        base.execute("INSERT INTO study_user_attributes VALUES ('asked', ?)", [asked])
        base.commit()
    header, _, row = compare_runs([tmp_path]).table.splitlines()[:3]
    assert header.split("|")[3].strip() == "validation knn main"
    assert row.split("|")[3].strip() == "0.700"


def test_runs_that_ended_before_their_first_step_are_counted_and_not_listed(tmp_path):
    make_run(tmp_path / "a")
    void = make_run(tmp_path / "void", final=None, rows="", objective="other")
    (void / "error.txt").write_text("UserError: no such folder")
    made = compare_runs([tmp_path])
    assert made.states == {"finished": 1, "failed": 1}
    assert "Not listed: 1 that ended before the first step." in made.table
    assert [row["group"] for row in table(made)] == ["all runs"]
    assert "</span> void" not in made.report.read_text()


def test_runs_on_different_test_images_of_one_name_are_no_pairs(tmp_path):
    for objective in ("full", "other"):
        path = make_run(tmp_path / objective, objective=objective)
        (path / "splits.json").write_text(json.dumps({"test": {"digest": objective}}))
    assert "Minus" not in compare_runs([tmp_path]).table
