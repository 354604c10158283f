"""The report of many runs: one table over seeds, and their curves on top of each other."""

import csv
import io
import math
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pnp.errors import UserError
from pnp.report.groups import Group, group_runs
from pnp.report.page import number, render, save, spread
from pnp.report.panels import (
    NETWORKS,
    Panel,
    draw,
    note,
    section_order,
    section_title,
    split_key,
    x_range,
)
from pnp.report.runs import Run, find_runs, read_run
from pnp.report.single import REFERENCES, markdown_table
from pnp.report.svg import Series

# Last values shown beside the final metrics, of the teacher, or of the student where there is none.
MONITORS = {
    "sigma": "σ·√D",
    "between_cosine": "between cos",
    "mean_cosine": "mean cos",
    "effective_rank": "eff. rank",
}
KEY_PANELS = ("knn", "total", "between_cosine", "mean_cosine", "sigma", "effective_rank")
LEFT_OUT = {"optim", "speed"}  # the same for all, or about the machine
POINTS = 150  # per line: many lines share a panel here


class Comparison(NamedTuple):
    """What `compare_runs` wrote, and the markdown table as text."""

    report: Path
    csv: Path
    markdown: Path
    table: str


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one run) over `n` runs that have the value."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def over(cls, values: Sequence[float]) -> "Cell | None":
        """Summarise values, one per run; None when there are none."""
        if not values:
            return None
        if not all(map(math.isfinite, values)):  # a NaN among the runs is not averaged away
            return cls(math.nan, None, len(values))
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values))

    def text(self, n: int) -> str:
        """`mean ± std`, with its own n where some of the group's `n` runs lack the value."""
        std = "" if self.std is None else f" ± {spread(self.std, self.mean)}"
        return f"{number(self.mean)}{std}" + (f" (n={self.n})" if self.n != n else "")


def compare_runs(dirs: Sequence[Path], out: Path | None = None) -> Comparison:
    """Compare every run below `dirs`; write `report.html`, `table.csv` and `table.md` to `out`.

    Runs that differ only in their seed form one row, mean ± sample standard deviation. Runs
    without `metrics.json` are listed as unfinished and not counted.

    Args:
        dirs: folders that hold runs at any depth.
        out: where to write; by default the folder that holds all of `dirs`.

    Raises:
        UserError: no run found, a broken file (named), `out` is itself a run, or is unwritable.
    """
    dirs = [Path(d) for d in dirs]
    paths = find_runs(dirs)
    base = Path(os.path.commonpath([d.resolve() for d in dirs]))
    out = Path(out) if out is not None else base
    if (out / "config.yaml").exists():
        raise UserError(f"{out} is itself a run; its own report would be lost. Give another --out.")
    runs = [read_run(path) for path in paths]
    groups = group_runs(runs)
    columns = table_columns(runs)
    reference = reference_rows(groups, columns)
    table = markdown_text(groups, columns, reference, base)
    key, rest = curve_panels(groups)
    page = render(
        "compare.html",
        title=f"{len(groups)} configuration{'s' * (len(groups) > 1)}, {len(runs)} runs",
        base=str(base),
        groups=groups,
        names=list(groups[0].values) or ["configuration"],
        columns=columns,
        cells=[[cell(group, c) for c in columns] for group in groups],
        reference=reference,
        alarms=[alarm_text(group) for group in groups],
        key_panels=key,
        sections=rest,
        points=POINTS,
        link=lambda run: report_link(run, out),
        name=lambda run: os.path.relpath(run.path, base),
    )
    return Comparison(
        report=save(out / "report.html", page),
        csv=save(out / "table.csv", csv_text(groups, runs)),
        markdown=save(out / "table.md", table),
        table=table,
    )


def table_columns(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(key, heading) of the table: test metrics by protocol, bands, then last monitor values."""
    final = dict.fromkeys(key for run in runs for key in run.final or {})
    plain = [k for k in final if not k.endswith(("/ci_low", "/ci_high"))]
    columns = []
    for key in plain:
        first, *middle, last = key.split("/")
        if first == "test" and len(middle) == 1:
            columns.append((key, f"{middle[0]} {last}"))
        elif key.startswith("band/mean/") and middle[1] in NETWORKS:
            columns.append((key, f"band {last} {middle[1]}"))
    logged = {key for run in runs for key in run.curves}
    for name, heading in MONITORS.items():
        for network in ("teacher", "student"):
            key = f"geometry/{network}/{name}"
            if key in logged:
                columns.append((f"last/{key}", f"{heading} {network}"))
                break
    return columns


def value(run: Run, key: str) -> float | None:
    """A final metric, or the last value of a curve for keys that begin with `last/`."""
    return run.last(key[5:]) if key.startswith("last/") else (run.final or {}).get(key)


def cell(group: Group, column: tuple[str, str]) -> Cell | None:
    """One cell of the table: a metric over the group's finished runs."""
    values = [value(run, column[0]) for run in group.finished]
    return Cell.over([v for v in values if v is not None])


def reference_rows(
    groups: Sequence[Group], columns: Sequence[tuple[str, str]]
) -> list[tuple[str, list[Cell | None]]]:
    """Rows of the two references; none where the compared runs differ in data or network."""
    tops = {key.removeprefix("choices.").split(".")[0] for key in groups[0].keys}
    if tops & {"data", "model", "experiment"}:
        return []
    # One run per seed: the reference does not depend on what else was varied.
    by_seed = {str(run.seed): run for group in groups for run in group.finished}
    rows = []
    for key, name in REFERENCES.items():
        cells = []
        for column, _ in columns:
            parts = column.split("/")
            wanted = f"reference/{key}/{parts[1]}" if parts[0] == "test" else ""
            wanted = f"band/mean/{key}/{parts[3]}" if parts[0] == "band" else wanted
            found = [(run.final or {}).get(wanted) for run in by_seed.values()]
            cells.append(Cell.over([v for v in found if v is not None]))
        if any(cells):
            rows.append((name, cells))
    return rows


def alarm_text(group: Group) -> str:
    """The kinds of alarm in a group's finished runs, with the number of runs they went off in."""
    kinds = [{str(a.get("kind", "alarm")) for a in run.alarms} for run in group.finished]
    counts = Counter(kind for found in kinds for kind in found)
    return ", ".join(f"{kind} ×{n}" for kind, n in sorted(counts.items()))


def report_link(run: Run, out: Path) -> str | None:
    """A relative link to a run's own page, if it has one."""
    page = run.path / "report.html"
    return quote(os.path.relpath(page, out.resolve())) if page.is_file() else None


def markdown_text(
    groups: Sequence[Group],
    columns: Sequence[tuple[str, str]],
    reference: Sequence[tuple[str, list[Cell | None]]],
    base: Path,
) -> str:
    """The table as markdown, with the runs that it does not count named below it."""
    alarms = [alarm_text(group) for group in groups]
    header = ["run", "n", *(heading for _, heading in columns)] + ["alarms"] * any(alarms)
    rows: list[list[Any]] = []
    for group, alarm in zip(groups, alarms, strict=True):
        cells = [cell(group, column) for column in columns]
        n = len(group.finished)
        rows.append([group.label, n, *(c.text(n) if c else "–" for c in cells)])
        rows[-1] += [alarm or "–"] * any(alarms)
    for name, cells in reference:
        n = max(c.n for c in cells if c)
        rows.append([name, n, *(c.text(n) if c else "–" for c in cells)] + ["–"] * any(alarms))
    lines = [markdown_table(header, rows), "", "Mean ± sample standard deviation over n seeds."]
    for group in groups:
        for run in group.unfinished:
            where = os.path.relpath(run.path, base)
            lines.append(f"Unfinished, not counted: {where} ({group.label}), step {run.last_step}.")
        for run in group.repeated:
            where = os.path.relpath(run.path, base)
            lines.append(f"Not counted, a newer run has the same seed: {where} ({group.label}).")
    return "\n".join(lines) + "\n"


def csv_text(groups: Sequence[Group], runs: Sequence[Run]) -> str:
    """Everything in full precision: each metric with its std and n."""
    final = dict.fromkeys(key for run in runs for key in run.final or {})
    keys = [k for k in final if not k.endswith(("/ci_low", "/ci_high"))]
    logged = dict.fromkeys(key for run in runs for key in run.curves)
    keys += [f"last/{k}" for k in logged if k.startswith(("geometry/", "probe/", "loss/"))]
    names = list(groups[0].values)
    header = ["group", *names, "n", "seeds", "unfinished", "alarms"]
    header += [f"{key}{suffix}" for key in keys for suffix in ("", "/std", "/n")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for group in groups:
        row: list[Any] = [group.label, *group.values.values(), len(group.finished), group.seeds]
        row += [len(group.unfinished), alarm_text(group)]
        for key in keys:
            found = cell(group, (key, key))
            row += ["", "", 0] if found is None else [found.mean, found.std, found.n]
        writer.writerow(row)
    return text.getvalue()


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


def curve_panels(
    groups: Sequence[Group],
) -> tuple[list[Panel], list[tuple[str, list[Panel]]]]:
    """The key panels, and all others by section."""
    keys = dict.fromkeys(key for group in groups for run in group.drawn for key in run.curves)
    xs = x_range([run.curves for group in groups for run in group.drawn])
    key_panels: dict[str, list[Panel]] = {}
    rest: dict[str, list[Panel]] = {}
    for key in keys:
        section, name, network = split_key(key)
        if section in LEFT_OUT:
            continue
        lines = [mean_curve(group, key, f"g{i}") for i, group in enumerate(groups)]
        series = [line for line in lines if line is not None]
        if not series:
            continue
        panel = draw(f"{name} {network}".strip(), note(section, name), series, xs, POINTS)
        twin = key.replace("/student/", "/teacher/")
        evaluated = network in {"teacher", ""} or (network == "student" and twin not in keys)
        if name in KEY_PANELS and evaluated:
            key_panels.setdefault(name, []).append(panel)
        else:
            rest.setdefault(section, []).append(panel)
    first = [panel for name in KEY_PANELS for panel in key_panels.get(name, [])]
    return first, [(section_title(s), rest[s]) for s in section_order(rest)]
