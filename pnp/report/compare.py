"""The report of many runs: tables over seeds, curves on top of each other, and trade-offs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pnp.errors import UserError
from pnp.report.groups import Group, baseline_group, group_runs, natural
from pnp.report.page import render, save
from pnp.report.panels import Panel, draw, draw_points, note, split_key, x_range
from pnp.report.payload import payload
from pnp.report.reading import Run, find_runs, read_run
from pnp.report.svg import Series
from pnp.report.table import (
    Column,
    alarm_text,
    cell,
    csv_text,
    markdown_text,
    paired,
    reference_rows,
    table_columns,
)

KEY_PANELS = ("knn", "total", "between_cosine", "mean_cosine", "sigma", "effective_rank")
SCRIPTS = ("page.js", "chart.js", "stats.js", "dashboard.js", "plots.js", "run.js")


class Comparison(NamedTuple):
    """What `compare_runs` wrote, the markdown table as text, and the number of runs by state."""

    report: Path
    csv: Path
    markdown: Path
    table: str
    states: dict[str, int]


def compare_runs(
    dirs: Sequence[Path],
    out: Path | None = None,
    *,
    baseline: str | None = None,
    reload: float | None = None,
) -> Comparison:
    """Compare every run below `dirs`; write `report.html`, `table.csv` and `table.md` to `out`.

    Runs that differ only in their seed form one row: mean ± half a 95 % interval. Runs without
    `metrics.json`, and folders that cannot be read, are listed and not counted.

    Args:
        dirs: folders that hold runs at any depth.
        out: where to write; by default the folder that holds all of `dirs`.
        baseline: what differences are to: a row's label, or `key=value` words that only it has.
        reload: seconds after which the page loads itself again; None for never.

    Raises:
        UserError: no readable run, no such baseline, `out` is itself a run, or is unwritable.
    """
    dirs = [Path(d) for d in dirs]
    base = Path(os.path.commonpath([d.resolve() for d in dirs]))
    out = Path(out) if out is not None else base
    if (out / "config.yaml").exists():
        raise UserError(f"{out} is itself a run; its own report would be lost. Give another --out.")
    runs, broken = read_all(find_runs(dirs))
    groups = group_runs(runs)
    compared = baseline_group(groups, baseline)
    columns = table_columns(runs)
    table = markdown_text(groups, columns, compared, broken, base)
    names = dict(zip(groups[0].keys, groups[0].values, strict=True))
    page = render(
        "compare.html",
        scripts=SCRIPTS,
        title=f"{len(groups)} configuration{'s' * (len(groups) > 1)}, "
        f"{len(runs)} run{'s' * (len(runs) > 1)}",
        base=str(base),
        groups=groups,
        names=list(names.values()) or ["configuration"],
        columns=columns,
        cells=[[cell(group, key) for key, _ in columns] for group in groups],
        reference=reference_rows(groups, columns),
        baseline=compared,
        paired=paired(groups, columns, compared),
        alarms=[alarm_text(group) for group in groups],
        key_panels=curve_panels(groups),
        trade_offs=trade_offs(groups, columns),
        broken=[(os.path.relpath(path, base), message) for path, message in broken],
        link=lambda run: report_link(run, out),
        name=lambda run: os.path.relpath(run.path, base),
        reload=reload,
        data=payload(
            runs,
            ident=lambda run: os.path.relpath(run.path, base),
            link=lambda run: report_link(run, out),
            design=names,
            columns=columns,
            repeated=[run for group in groups for run in group.repeated],
            baseline=compared.values,
            broken=[(os.path.relpath(path, base), message) for path, message in broken],
            reload=reload,
        ),
    )
    states = [run.state for run in runs] + ["unreadable"] * len(broken)
    return Comparison(
        report=save(out / "report.html", page),
        csv=save(out / "table.csv", csv_text(groups, runs)),
        markdown=save(out / "table.md", table),
        table=table,
        states={state: states.count(state) for state in dict.fromkeys(states)},
    )


def read_all(paths: Sequence[Path]) -> tuple[list[Run], list[tuple[Path, str]]]:
    """Every readable run in natural order of the paths, and why the others are not.

    Raises:
        UserError: not one of them is readable.
    """
    runs: list[Run] = []
    broken: list[tuple[Path, str]] = []
    for path in sorted(paths, key=lambda p: natural(str(p))):
        try:
            runs.append(read_run(path))
        except UserError as error:
            broken.append((path, str(error)))
    if not runs:
        raise UserError(broken[0][1])
    return runs, broken


def report_link(run: Run, out: Path) -> str | None:
    """A relative link to a run's own page, if it has one."""
    page = run.path / "report.html"
    return quote(os.path.relpath(page, out.resolve())) if page.is_file() else None


def mean_curve(group: Group, key: str, css: str = "") -> Series | None:
    """Mean over a group's runs at the steps all of them logged, with a least-to-largest ribbon."""
    curves = [dict(zip(*run.curves[key], strict=True)) for run in group.drawn if key in run.curves]
    if not curves:
        return None
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    if not steps:
        return None
    css = f"c{group.colour} d{group.dash} g {css}"
    columns = [[curve[step] for curve in curves] for step in steps]
    mean = [sum(column) / len(column) for column in columns]
    label = " · ".join(group.row)
    if len(curves) == 1:
        return Series(label, steps, mean, css=css)
    low, high = [min(c) for c in columns], [max(c) for c in columns]
    return Series(label, steps, mean, low, high, css)


def curve_panels(groups: Sequence[Group]) -> list[Panel]:
    """The panels that are there without a script: the few metrics one looks at first."""
    keys = dict.fromkeys(key for group in groups for run in group.drawn for key in run.curves)
    xs = x_range([run.curves for group in groups for run in group.drawn])
    points = max(30, min(150, 3000 // len(groups)))  # of each line: a page of moderate size
    panels: dict[str, list[Panel]] = {}
    for key in keys:
        section, name, network = split_key(key)
        twin = key.replace("/student/", "/teacher/")
        evaluated = network in {"teacher", ""} or (network == "student" and twin not in keys)
        if name not in KEY_PANELS or section in {"optim", "speed"} or not evaluated:
            continue
        lines = [mean_curve(group, key, f"g{i}") for i, group in enumerate(groups)]
        if series := [line for line in lines if line is not None]:
            panel = draw(f"{name} {network}".strip(), note(section, name), series, xs, points)
            panels.setdefault(name, []).append(panel)
    return [panel for name in KEY_PANELS for panel in panels.get(name, [])]


def trade_offs(groups: Sequence[Group], columns: Sequence[Column]) -> list[Panel]:
    """Quality against cost, and between-class cosine against effective rank: a dot per group."""

    def dots(name: str, note: str, x_label: str, xs: list[list[float]], key: str) -> Panel | None:
        points = []
        for i, (group, own) in enumerate(zip(groups, xs, strict=True)):
            y = cell(group, key)
            if own and y is not None:
                css = f"c{group.colour} g g{i}"
                points.append(
                    Series(" · ".join(group.row), [sum(own) / len(own)], [y.mean], css=css)
                )
        return draw_points(name, note, points, x_label) if points else None

    images = [
        [float(run.last_step * run.images_per_step) for run in g.finished if run.images_per_step]
        for g in groups
    ]
    seconds = [
        [float(run.facts["training_seconds"]) for run in g.finished if _timed(run)] for g in groups
    ]
    panels = []
    if columns:
        key, heading = columns[0]
        panels.append(dots(f"{heading} against images", "", "images seen", images, key))
        panels.append(dots(f"{heading} against time", "", "seconds of training", seconds, key))
    last = {key for key, _ in columns}
    for network in ("teacher", "student"):
        x, y = (f"last/geometry/{network}/{n}" for n in ("between_cosine", "effective_rank"))
        if {x, y} <= last:
            cosines = [c.mean if (c := cell(g, x)) else None for g in groups]
            own = [[] if c is None else [c] for c in cosines]
            said = "up and to the left: classes apart, many axes in use"
            name = f"effective rank against between-class cosine, {network}"
            panels.append(dots(name, said, "between-class cosine", own, y))
            break
    return [panel for panel in panels if panel is not None]


def _timed(run: Run) -> bool:
    return isinstance(run.facts.get("training_seconds"), int | float)
