"""Claims about the pages: what they show of one run and of many, and what they do not load."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import FINAL, make_run, make_sweep, write

from pnp.band import allowed_errors, min_calibration_size, plan
from pnp.band.inputs import Budgets
from pnp.cli.report import main
from pnp.errors import UserError
from pnp.report.charts import summarise
from pnp.report.compare import compare_runs
from pnp.report.multiples import draw
from pnp.report.reading import read_run
from pnp.report.single import band_silence, reasons, summary, write_report
from pnp.results import Row

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


class Page(HTMLParser):
    """Well-formedness and everything that a browser would fetch."""

    VOID = frozenset({"meta", "img", "input", "br", "link", "path", "circle"})

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.images: list[dict] = []
        self.headings: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.fetched += [found[key] for key in ("src", "srcset", "poster", "data") if key in found]
        self.fetched += [found["href"]] if tag == "link" else []
        if tag == "img":
            self.images.append(found)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parse(path: Path) -> tuple[str, Page]:
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open in ([], ["p"])
    return html, page


def test_the_page_of_a_run_fetches_nothing_and_describes_its_pictures(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "figures").mkdir()
    (run / "figures" / "pca.png").write_bytes(PIXEL)
    (run / "figures" / "views.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (run / "figures" / "captions.json").write_text('{"views": "Two views of each image"}')
    html, page = parse(write_report(run))
    assert page.fetched
    assert all(address.startswith("data:") for address in page.fetched)
    assert not re.search(r"@import|url\((?!#)", html)
    assert [image["alt"] for image in page.images] == ["Two views of each image", "Pca"]
    assert page.headings[0] == "h1"
    assert set(page.headings[1:]) == {"h2"}
    assert html.index('id="final"') == html.index('<h2 id="') + 4  # it begins with the final table


def test_the_content_policy_admits_the_library_with_its_calls_and_no_other_script(tmp_path):
    make_sweep(tmp_path, runs=6, points=4)
    html, page = parse(compare_runs([tmp_path]).report)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 2
    assert re.fullmatch(r"(vegaEmbed\(.*\);\n?)+", scripts[1])
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}" in html
    )
    assert not page.fetched


def test_the_page_of_one_run_has_no_script_at_all(tmp_path):
    html, _ = parse(write_report(make_run(tmp_path / "run")))
    assert "<script" not in html
    assert "script-src 'none'" in html


def test_the_final_table_puts_networks_beside_references_with_intervals(tmp_path):
    html, _ = parse(write_report(make_run(tmp_path / "run")))
    text = re.sub(r"<[^>]+>|\s+", " ", html[html.index('id="final"') : html.index("</table>")])
    text = re.sub(r"\s+", " ", text)
    assert "the teacher 89.0 [88.3, 89.6] 86.2 the student – 84.0" in text
    assert "raw pixels – 84.6 randomly initialised 83.5 –" in text


def test_strings_from_a_run_are_shown_and_never_run(tmp_path):
    evil = "\"><script>alert(1)</script><img src=http://evil.example/x>\u2028'+alert(3)+'"
    band = {evil: {"teacher": {"alarms": [evil], "curves": {}}}}
    final = FINAL | {f"band/{evil.replace('/', '')}/teacher/width": 0.1, evil: 1.0}
    for i in range(2):
        named = {"objective": evil * i or "full", "note": evil, "name": evil}
        run = make_run(tmp_path / f"{i}", final=final, **named)
        (run / "gaps.json").write_text(json.dumps({evil: evil}))
        (run / "error.txt").write_text(evil)
        (run / "alarms.json").write_text(json.dumps([{"kind": evil, "message": evil, "step": 3}]))
        (run / "run.json").write_text(json.dumps({evil: {"command": evil}}))
        (run / "band.json").write_text(json.dumps(band))
        text = (run / "metrics.csv").read_text().replace("loss/total", "loss/<script>alert(2)")
        (run / "metrics.csv").write_text(text)
    one, many = write_report(run), compare_runs([tmp_path]).report
    for written, scripts in ((one, 0), (many, 2)):
        html, page = parse(written)
        assert len(re.findall("<script>(?!alert)", html)) == scripts
        assert "<script>alert" not in html
        assert "default-src 'none'" in html
        assert not any("evil" in address for address in page.fetched)
        assert "&lt;script&gt;alert(1)" in html
    assert "\u2028" not in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[1]


def test_an_unfinished_run_without_any_optional_file_still_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", final=None)
    html, _ = parse(write_report(run))
    assert "last logged step 30; no metrics.json yet" in html
    empty = make_run(tmp_path / "empty", final=None, rows="")
    assert "<svg" not in parse(write_report(empty))[0]


def test_a_value_that_is_not_finite_is_a_gap_and_is_counted(tmp_path):
    html, _ = parse(write_report(make_run(tmp_path / "run")))
    assert "1 value not finite (gaps)" in html
    chart = draw({"": ([0, 1, 2, 3, 4], [1, 2, float("nan"), 4, 5])}, (0, 4), "a")
    (line,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--k0\)', chart)
    assert line.count("M") == 2
    assert "nan" not in chart


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([5], [0.1]),
        ([0, 1], [3, 3]),
        ([0, 1], [1e-320, 0]),
        ([0, 1], [-1e299, 1e299]),
        ([0, 1e12], [-1e-9, 1e9]),
        ([0, 1], [float("inf"), float("nan")]),
    ],
)
def test_degenerate_series_can_be_drawn(x, y):
    assert draw({"teacher": (x, y)}, (x[0], x[-1]), "a<b").count("a&lt;b") == 1


def test_a_long_curve_becomes_means_of_neighbours_that_keep_its_extremes():
    steps = [float(i) for i in range(5000)]
    spike = [1.0 if i == 777 else 0.0 for i in range(5000)]
    rows = summarise([[{"a": (steps, spike)}, {"a": (steps, [0.0] * 5000)}]] * 10, ["a"])
    own = [row for row in rows if row["c"] == 3]
    assert len(own) <= 300
    assert own[-1]["x"] == 4999
    assert max(row["h"][0] for row in own) == 1
    assert sum(row["m"][0] for row in own) * (5000 / len(own)) == pytest.approx(0.5, rel=0.02)


def test_a_mean_curve_has_only_the_steps_that_all_runs_logged():
    runs = [{"a": ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])}, {"a": ([1.0, 2.0], [4.0, float("nan")])}]
    rows = summarise([runs, [], [{"b": ([0.0], [9.0])}]], ["a", "b"])
    assert rows == [
        {"c": 0, "x": 1.0, "m": [3.0, None], "l": [2.0, None], "h": [4.0, None]},
        {"c": 2, "x": 0.0, "m": [None, 9.0]},
    ]


def test_band_metrics_become_one_row_per_concept(tmp_path):
    final = FINAL | {"band/lobed/teacher/width": 0.67, "band/lobed/teacher/width/ci_low": 0.65}
    final |= {"band/lobed/teacher/width/ci_high": 0.69, "band/mean/teacher/width": 0.67}
    html, _ = parse(write_report(make_run(tmp_path / "one", final=final)))
    table = html[html.index('id="bands"') :].split("</table>")[0]
    assert table.count('<th scope="row">') == 1  # no mean of a single concept
    assert "[65.0, 69.0]" in table
    final |= {"band/star/teacher/width": 0.2}
    html, _ = parse(write_report(make_run(tmp_path / "two", final=final)))
    bands = html[html.index('id="bands"') :]
    assert "certified bands of the teacher: from 20.0 % (“star”) to 67.0 % (“lobed”)." in bands
    assert bands.index("mean of the concepts") < bands.index("lobed · teacher")


def test_the_same_warning_is_said_once_with_all_it_is_about(tmp_path):
    run = make_run(tmp_path / "run")
    answers = {owner: {"alarms": ["too few: add samples"]} for owner in ("teacher", "pixels")}
    (run / "band.json").write_text(json.dumps({f"class {i}": answers for i in range(9)}))
    final = FINAL | {f"band/class {i}/teacher/width": 1.0 for i in range(9)}
    (run / "metrics.json").write_text(json.dumps(final))
    html, _ = parse(write_report(run))
    assert html.count("too few: add samples") == 1
    assert "all concepts (teacher, raw pixels)" in html


def counted(n: int, *names: str) -> list[Row]:
    """Rows of bands that n calibration images allow."""
    k = allowed_errors(n, 0.01)
    values = {"thr/k_fp": k, "thr/k_fn": k, "data/n_calib": n}
    return [Row("", "test", "band", "student", c, m, v) for c in names for m, v in values.items()]


def test_bands_that_too_few_images_leave_without_an_answer_say_how_many_it_takes():
    said = band_silence(counted(25, "a", "b"), Budgets())
    assert "bands say nothing, whatever the network: 25 calibration images are too few" in said
    first, half = re.findall(r"needs ([\d,]+).* about ([\d,]+)", said)[0]
    assert int(first) == min_calibration_size(0.01)
    assert plan([int(half.replace(",", ""))], 0.01, 0.01)[0].fp >= 0.005
    assert not band_silence(counted(int(first), "a"), Budgets())
    some = counted(25, "a") + counted(int(first), "b")
    assert "bands of 1 of 2 concepts say nothing" in band_silence(some, Budgets())


@pytest.mark.parametrize(
    ("final", "sentence"),
    [
        (
            {"test/linear/student": 0.57, "test/linear/student/ci_low": 0.562}
            | {"test/linear/student/ci_high": 0.578, "test/linear/teacher": 0.56}
            | {"reference/pixels/linear": 0.446, "reference/random/linear": 0.369},
            "Student: 57.0 % linear probe, 12.4 points above raw pixels and 20.1 points above the "
            "untrained network; the teacher lags: 56.0 %.",
        ),
        (
            {"test/knn/student": 0.5, "test/knn/student/ci_low": 0.4}
            | {"test/knn/student/ci_high": 0.6, "reference/pixels/knn": 0.45},
            "Student: 50.0 % kNN, not clearly different from raw pixels (45.0 %).",
        ),
        ({"test/views/network": 0.444}, "Network: 44.4 % matched views."),
        ({"test/features/student/sigma": 1.0}, ""),
    ],
)
def test_the_page_of_a_run_begins_with_what_it_achieved(tmp_path, final, sentence):
    choice = {"validation/linear/student": 0.6, "validation/linear/teacher": 0.5}
    run = read_run(make_run(tmp_path / "run", final=choice | final))
    assert summary(run) == sentence
    html, _ = parse(write_report(run.path))
    assert ('<p class="summary">' in html) == bool(sentence)


def test_alarms_and_gaps_of_one_reason_are_one_line_with_every_place():
    pairs = [(f"too few: got {i}", f"class {i}") for i in range(16)] + [("tied: 3 %", "class 2")]
    (few, places), tied = reasons(pairs)
    assert (few, len(places)) == ("too few: got 0", 16)
    assert tied == ("tied: 3 %", ["class 2"])


def test_a_step_logged_again_after_a_resume_counts_once_and_half_a_last_row_is_ignored(tmp_path):
    rows = "0,0,1,,\n10,0,9,,\n10,0,2,,\n20,0,3,0."
    run = read_run(make_run(tmp_path / "run", rows=rows))
    assert run.curves["loss/total"] == ([0.0, 10.0], [1.0, 2.0])


def test_every_state_of_a_run_is_shown_and_a_broken_one_does_not_stop_the_others(tmp_path, capsys):
    made = make_sweep(tmp_path, runs=12, points=4, finished=0.75)
    _, stopped, failed = made[-3:]
    for file in [*stopped.iterdir(), stopped]:
        os.utime(file, (1e9, 1e9))
    (failed / "error.txt").write_text("UserError: the loss is not finite at step 3")
    (made[0] / "metrics.json").write_text("{")
    main([str(tmp_path)])
    assert "runs: 5 finished, 3 alarm, 1 running, 1 stopped, 1 failed, 1 unreadable" in (
        capsys.readouterr().out
    )
    html, _ = parse(tmp_path / "report.html")
    listed = re.findall(r'<li><span class="state (\w+)">\w+</span> ([^ ]+)', html)
    states = ("running", "stopped", "failed")
    assert listed[:3] == list(zip(states, [path.name for path in made[-3:]], strict=True))
    assert listed[3][0] == "unreadable"
    assert "not valid JSON" in (tmp_path / "table.md").read_text()


def test_a_run_that_has_logged_nothing_yet_is_in_the_report(tmp_path):
    make_sweep(tmp_path, runs=3, points=4)
    started = write(tmp_path / "started", "full", 0.016, 0.0, 7, points=2, done=False)
    (started / "metrics.csv").unlink()
    (started / "splits.json").write_text("{}")
    html, _ = parse(compare_runs([tmp_path]).report)
    assert '<span class="state running">running</span> started' in html


def test_a_last_line_without_its_end_is_no_value_even_when_it_reads_as_one(tmp_path):
    path = write(tmp_path / "run", "full", 0.004, 0.0, 0, points=5)
    text = (path / "metrics.csv").read_text()
    for cut in range(1, 60):
        (path / "metrics.csv").write_text(text[:-cut])
        assert read_run(path).curves["probe/teacher/knn"][0] == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.csv", "step,loss/total\n0,abc\n1,2\n", "line 2"),
        ("metrics.csv", "step,loss/total\n0,1,2\n1,2\n", "more cells than the 2"),
        ("metrics.csv", "epoch,loss/total\n0,1\n", "no 'step' column"),
        ("metrics.json", "{", "not valid JSON"),
        ("metrics.json", '{"test/knn/teacher": "good"}', "should be a number"),
        ("alarms.json", "{}", "JSON list"),
        ("config.yaml", "a: [", "not valid YAML"),
        ("config.yaml", "!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("config.yaml", "- 1", "mapping"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, said):
    run = make_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(str(run / name))) as caught:
        write_report(run)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [(lambda p: None, "no such directory"), (lambda p: p.mkdir(), "no run found")],
)
def test_the_command_ends_with_status_2_and_one_line(tmp_path, capsys, make, said):
    make(tmp_path / "runs")
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "runs")])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_the_command_reports_one_run_in_place_and_several_in_their_common_folder(tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", objective="other")
    main([str(tmp_path / "a")])
    assert "| the teacher" in capsys.readouterr().out
    assert (tmp_path / "a" / "report.html").is_file()
    main([str(tmp_path / "a"), str(tmp_path / "b")])
    printed = capsys.readouterr().out
    assert "| objective=full " in printed
    for name in ("report.html", "table.csv", "table.md"):
        assert (tmp_path / name).is_file()
        assert name in printed
    assert 'href="a/report.html"' in (tmp_path / "report.html").read_text()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from pnp.cli.report import parser; parser().format_help();"
        "print(sorted({'jinja2', 'yaml', 'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_filter_of_the_page_is_there_for_every_key_that_differs(tmp_path):
    make_sweep(tmp_path, runs=24, points=4)
    html, _ = parse(compare_runs([tmp_path]).report)
    options = {
        id: re.findall("<option[^>]*>([^<]*)", text)
        for id, text in re.findall(r'<select id="(\w+)"[^>]*>(.*?)</select>', html)
    }
    assert options["k0"] == ["all", "align_only", "full", "no_repulsion", "no_variance"]
    assert options["k1"] == ["all", "0.001", "0.002"]
    assert "kNN during training, teacher" in options["metric"]
    assert options["band"] == ["lobed, certified", "lobed, plug-in"]
    assert {"images seen", "linear probe, teacher"} <= set(options["tradeup"])


@pytest.mark.slow
def test_a_browser_draws_every_chart_without_a_complaint(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser")
    make_sweep(tmp_path / "runs", runs=24, points=10, finished=0.9)
    page = compare_runs([tmp_path / "runs"]).report
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    options += ("--disable-component-update", "--disable-sync", "--no-first-run")
    options += ("--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}")
    command = [browser, *options, "--virtual-time-budget=9000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.count('class="marks"') == 4
    assert "CONSOLE" not in done.stderr
