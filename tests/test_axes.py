"""Images, forward passes and seconds beside the steps, and curves drawn against them."""

import json

import pytest
from report_runs import make_run

from pnp.cli.report import main
from pnp.errors import UserError
from pnp.files import read_csv
from pnp.loggers.csv import CSVLog
from pnp.report.compare import compare_runs
from pnp.report.reading import read_run
from pnp.report.single import write_report

ROWS = "0,0,2.0,,\n10,0,1.0,0.9,0.3\n20,1,0.5,0.4,0.45\n"


def run(path, rate, seed=0):
    """A run of three logged steps that takes `rate` seconds a step, 32 of 64 images each."""
    make_run(path, seed=seed, rows=ROWS, objective=f"o{rate}")
    lines = (path / "metrics.csv").read_text().splitlines()
    lines = [lines[0] + ",images_seen,forwards_per_image"] + [
        f"{line},{32 * (step + 1)},{2.0 * (step + 1)}"
        for line, step in zip(lines[1:], (0, 10, 20), strict=True)
    ]
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    seconds = "".join(f"{step},{rate * step}\n" for step in (0, 10, 20))
    (path / "seconds.csv").write_text("step,seconds\n" + seconds)
    return path


def test_axes_are_no_curves_and_tell_each_step(tmp_path):
    read = read_run(run(tmp_path / "a", 3))
    assert set(read.curves) == {"loss/total", "geometry/student/mean_cosine", "probe/teacher/knn"}
    assert read.along("step", [0, 5]) == [0, 5]
    assert read.along("images", [0, 20]) == [32, 32 * 21]
    assert read.along("forwards", [10]) == [22]
    assert read.along("seconds", [10, 15]) == [30, 45]
    assert read.last_step == 20


def test_the_pages_of_one_run_and_of_many_are_drawn_against_the_axis_asked_for(tmp_path):
    one, two = run(tmp_path / "runs" / "a", 3), run(tmp_path / "runs" / "b", 1)
    main([str(one), "--x", "forwards"])
    page = (one / "report.html").read_text()
    assert "Against forward passes per training image." in page
    assert "last logged step 20" in page
    made = compare_runs([tmp_path / "runs"], x="seconds").report.read_text()
    assert '"title":"seconds of training"' in made
    for path in (one, two):
        (end,) = read_run(path).along("seconds", [20])
        assert f'"x":{json.dumps(end)}' in made


def test_a_run_without_the_axis_is_named(tmp_path):
    make_run(tmp_path / "old", rows=ROWS)
    with pytest.raises(UserError, match=r"old did not log seconds of training"):
        write_report(tmp_path / "old", x="seconds")
    with pytest.raises(UserError, match=r"old did not log seconds of training"):
        compare_runs([tmp_path / "old"], tmp_path / "out", x="seconds")


def test_seconds_go_on_where_a_resumed_run_left_them_and_metrics_csv_holds_none(tmp_path):
    log = CSVLog(tmp_path)
    for step in range(4):
        log.log_metrics({"epoch": 0, "loss/total": 1.0}, step)
        log.log_metrics({"epoch": 0, "probe/student/knn": 0.5}, step)
    (tmp_path / "seconds.csv").write_text("step,seconds\n0,0.0\n1,100.0\n2,200.0\n3,300.0\n")
    resumed = CSVLog(tmp_path)
    resumed.continue_from(2)
    resumed.log_metrics({"epoch": 1, "loss/total": 1.0}, 2)
    rows = read_csv(tmp_path / "seconds.csv")
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    assert 100 <= float(rows[-1]["seconds"]) < 150
    assert "seconds" not in (tmp_path / "metrics.csv").read_text()
