"""Claims about run reports and comparisons, on run directories made by hand."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from pnp.cli.report import main
from pnp.errors import UserError
from pnp.report import Comparison, compare_runs, read_run, write_report
from pnp.report.panels import split_key
from pnp.report.svg import Series, line_chart, thin
from pnp.report.ticks import linear_ticks, log_ticks, tick_label

FINAL = {
    "test/linear/teacher": 0.8897,
    "test/linear/teacher/ci_low": 0.8831,
    "test/linear/teacher/ci_high": 0.8957,
    "test/knn/teacher": 0.8621,
    "test/knn/student": 0.8402,
    "reference/pixels/knn": 0.8461,
    "reference/random/linear": 0.8353,
}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


def make_run(
    path: Path,
    *,
    seed: int = 0,
    objective: str = "full",
    repulsion: float = 1.0,
    scale: str = "sphere",
    final: dict | None = FINAL,
    rows: str = "0,0,1.5,,\n10,0,1.0,0.9,0.3\n20,1,nan,0.5,0.4\n30,1,0.5,0.4,0.45\n",
    **config,
) -> Path:
    path.mkdir(parents=True)
    settings = {
        "choices": {"method": "pnp", "objective": objective, "data": "ambiguous", "logger": "csv"},
        "seed": seed,
        "run_dir": str(path),
        "data_order": {"order_seed": seed},
        "objective": {"scale": scale, "weights": {"repulsion": repulsion}},
        **config,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    header = "step,epoch,loss/total,geometry/student/mean_cosine,probe/teacher/knn\n"
    (path / "metrics.csv").write_text(header + rows)
    if final is not None:
        (path / "metrics.json").write_text(json.dumps(final))
    return path


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


def table(made: Comparison) -> list[dict[str, str]]:
    return list(csv.DictReader(made.csv.read_text(encoding="utf-8").splitlines()))


def test_the_page_of_a_run_fetches_nothing_and_describes_its_pictures(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "figures").mkdir()
    (run / "figures" / "pca.png").write_bytes(PIXEL)
    (run / "figures" / "views.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (run / "figures" / "captions.json").write_text('{"views": "Two views of each image"}')
    html, page = parse(write_report(run))
    assert page.fetched
    assert all(address.startswith("data:") for address in page.fetched)
    assert not re.search(r"@import|url\(", html)
    assert [image["alt"] for image in page.images] == ["Two views of each image", "Pca"]
    assert page.headings[0] == "h1"
    assert set(page.headings[1:]) == {"h2"}


def test_the_content_policy_admits_our_script_and_no_other(tmp_path):
    import base64
    import hashlib

    html, _ = parse(write_report(make_run(tmp_path / "run")))
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html


def test_the_final_table_puts_networks_beside_references_with_intervals(tmp_path):
    html, _ = parse(write_report(make_run(tmp_path / "run")))
    text = re.sub(r"<[^>]+>|\s+", " ", html[html.index('id="final"') : html.index("</table>")])
    text = re.sub(r"\s+", " ", text)
    assert "the teacher 0.890 [0.883, 0.896] 0.862 the student – 0.840" in text
    assert "raw pixels – 0.846 randomly initialised 0.835 –" in text


def test_student_and_teacher_share_a_panel():
    assert (
        split_key("geometry/student/mean_cosine")[:2]
        == split_key("geometry/teacher/mean_cosine")[:2]
    )
    assert split_key("loss/total") == ("loss", "total", "")
    assert split_key("minutes") == ("other", "minutes", "")


def test_strings_from_a_run_are_shown_and_never_run(tmp_path):
    evil = '"><script>alert(1)</script><img src=http://evil.example/x>'
    run = make_run(tmp_path / "run", objective=evil, note=evil)
    (run / "alarms.json").write_text(json.dumps([{"kind": evil, "message": evil, "step": 3}]))
    (run / "run.json").write_text(json.dumps({evil: {"command": evil}}))
    text = (run / "metrics.csv").read_text().replace("loss/total", "loss/<script>alert(2)")
    (run / "metrics.csv").write_text(text)
    make_run(tmp_path / "other", objective="full")
    for written in (write_report(run), compare_runs([tmp_path]).report):
        html, page = parse(written)
        assert html.count("<script>") == 1
        assert not any("evil" in address for address in page.fetched)
        assert "&lt;script&gt;alert(1)" in html


def test_an_unfinished_run_without_any_optional_file_still_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", final=None)
    html, _ = parse(write_report(run))
    assert "Unfinished" in html
    assert "last logged step 30" in html
    empty = make_run(tmp_path / "empty", final=None, rows="")
    assert "<svg" not in parse(write_report(empty))[0]


def test_a_value_that_is_not_finite_is_a_gap_and_is_counted(tmp_path):
    html, _ = parse(write_report(make_run(tmp_path / "run")))
    assert "1 value not finite (gaps)" in html
    chart = line_chart([Series("a", [0, 1, 2, 3], [1, 2, float("nan"), 4])], title="a")
    (line,) = re.findall(r'class="line[^"]*"[^>]* d="([^"]+)"', chart)
    assert line.count("M") == 2
    assert "nan" not in chart
    assert "no finite value" in line_chart([Series("a", [0], [float("inf")])], title="a")


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([5], [0.1]),
        ([0, 1], [3, 3]),
        ([0, 1], [1e-320, 0]),
        ([0, 1], [-1e299, 1e299]),
        ([0, 1e12], [-1e-9, 1e9]),
    ],
)
def test_degenerate_series_are_drawn_inside_the_chart(x, y):
    chart = line_chart([Series("a", x, y)], title="a")
    lines = " ".join(re.findall(r'class="line[^"]*"[^>]* d="M([^"]+)"', chart))
    places = [(float(a), float(b)) for a, b in re.findall(r"(-?[\d.]+) (-?[\d.]+)", lines)]
    assert places
    assert all(0 <= px <= 360 and 0 <= py <= 190 for px, py in places)


def test_positions_and_the_scale_give_the_values_back():
    x, y = [1, 10, 1000], [0.25, -0.5, 2.0]
    chart = line_chart([Series("a", x, y)], title="a", log_x=True)
    scale = re.search(r'data-scale="([^"]+)"', chart)
    x0, x1, y0, y1, left, right, bottom, top, log = map(float, scale[1].split())
    line = re.search(r'class="line[^"]*"[^>]* d="M([^"]+)"', chart)[1]
    numbers = list(map(float, line.split()))
    assert log == 1
    for px, py, wanted_x, wanted_y in zip(numbers[::2], numbers[1::2], x, y, strict=True):
        across, up = (px - left) / (right - left), (bottom - py) / (bottom - top)
        assert 10 ** (x0 + across * (x1 - x0)) == pytest.approx(wanted_x, rel=1e-3)
        assert y0 + up * (y1 - y0) == pytest.approx(wanted_y, abs=1e-3)


def test_thinning_keeps_the_extremes_and_the_ribbon_of_each_kept_point():
    y = [float(i % 7) for i in range(10_000)]
    y[1234], y[7777] = -50.0, 99.0
    kept = thin(Series("a", range(10_000), y, [v - 1 for v in y], [v + 1 for v in y]), 400)
    assert len(kept.x) <= 400
    assert {-50.0, 99.0} <= set(kept.y)
    assert all(y[x] == v for x, v in zip(kept.x, kept.y, strict=True))
    assert [v - 1 for v in kept.y] == kept.low


def test_ticks_are_round_and_inside():
    assert linear_ticks(-1.2, -0.1) == pytest.approx([-1.0, -0.75, -0.5, -0.25])
    assert log_ticks(0.001, 0.1) == [0.001, 0.01, 0.1]
    assert log_ticks(100, 400) == [100, 200]
    assert [tick_label(v, 500) for v in (0, 9500, 12500)] == ["0", "9500", "12.5k"]
    assert [tick_label(v, 0.0025) for v in (0.9975, 1.0)] == ["0.9975", "1.0000"]


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
    import os

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


def test_band_metrics_become_one_row_per_concept(tmp_path):
    final = FINAL | {"band/lobed/teacher/width": 0.67, "band/lobed/teacher/width/ci_low": 0.65}
    final |= {"band/lobed/teacher/width/ci_high": 0.69, "band/star/teacher/width": 0.2}
    html, _ = parse(write_report(make_run(tmp_path / "run", final=final)))
    table = html[html.index('id="band-table"') :].split("</table>")[0]
    assert table.count('<th scope="row">') == 2
    assert "[0.650, 0.690]" in table


def test_a_step_logged_again_after_a_resume_counts_once_and_half_a_last_row_is_ignored(tmp_path):
    rows = "0,0,1,,\n10,0,9,,\n10,0,2,,\n20,0,3,0."
    run = read_run(make_run(tmp_path / "run", rows=rows))
    assert run.curves["loss/total"] == ([0.0, 10.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.csv", "step,loss/total\n0,abc\n1,2\n", "line 2"),
        ("metrics.csv", "step,loss/total\n0,1,2\n1,2\n", "3 cells under 2 columns"),
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


def test_a_comparison_does_not_overwrite_the_report_of_a_run(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", objective="other")
    with pytest.raises(UserError, match="itself a run"):
        compare_runs([tmp_path], out=tmp_path / "a")


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
