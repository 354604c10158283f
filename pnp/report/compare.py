"""The report of many runs: the table over seeds, and charts that any browser filters."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pandas as pd

from pnp.errors import UserError
from pnp.report.charts import embed
from pnp.report.compare_charts import band_chart, curve_chart, filter_selects, trade_off_charts
from pnp.report.groups import Group, baseline_group, full_key, group_runs, natural, only_runs
from pnp.report.page import markdown_table, number, render, save
from pnp.report.reading import Run, find_runs, read_runs, tuned_metrics
from pnp.report.selection import Agreement, audit, comparable
from pnp.report.table import Table, table_columns


class Comparison(NamedTuple):
    """Files written, the markdown table as text, and the number of runs by state."""

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
    by: Sequence[str] | None = None,
    only: Sequence[str] = (),
    x: str = "step",
) -> Comparison:
    """Compare every run below `dirs`; write `report.html`, `table.csv` and `table.md` to `out`.

    Runs that differ only in their seed form one row: mean ± half a 95 % interval. Runs without
    `metrics.json`, and folders that cannot be read, are listed and not counted.

    Args:
        dirs: folders that hold runs at any depth.
        out: where to write; by default the folder that holds all of `dirs`.
        baseline: group that others are compared with: its label, or `key=value` words.
        by: configuration keys to group by; by default all that differ.
        only: `key=value` conditions that the runs must meet.
        x: what curves are drawn against, of `reading.AXES`.

    Raises:
        UserError: no readable run, no such baseline or key, `out` is itself a run or unwritable.
    """
    dirs = [Path(d) for d in dirs]
    base = Path(os.path.commonpath([d.resolve() for d in dirs]))
    out = Path(out) if out is not None else base
    if (out / "config.yaml").exists():
        raise UserError(f"{out} is itself a run; its own report would be lost. Give another --out.")
    runs, broken = read_runs(sorted(find_runs(dirs), key=lambda path: natural(str(path))))
    runs = only_runs(runs, only)
    states = Counter([run.state for run in runs] + ["unreadable"] * len(broken))
    begun = [run for run in runs if not run.is_void] or runs
    void = len(runs) - len(begun)
    runs = begun
    if by is not None:
        by = [full_key(word, [run.flat for run in runs], "--by") for word in by]
    tuned = tuned_metrics(runs)
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(run.dataset, []).append(run)
    sections = sorted(by_data.values(), key=len, reverse=True)
    grouped = [group_runs(own, by) for own in sections]
    firsts = baselines(grouped, baseline)
    tables = [
        Table(groups, table_columns(own, tuned), first, base, own[0].dataset * (len(sections) > 1))
        for own, groups, first in zip(sections, grouped, firsts, strict=True)
    ]
    groups = [group for table in tables for group in table.groups]
    filters, configurations = filter_selects(tables)
    charts = [
        *curve_chart(groups, configurations, filters, x),
        *trade_off_charts(groups, table_columns(runs, tuned), configurations, filters),
        *band_chart(groups, configurations, filters),
    ]
    judged = comparable(runs)
    agreements = audit([run.numbers for run in judged])
    page = render(
        "compare.html",
        scripts=embed({f"chart-{chart.id}": chart.spec for chart in charts}),
        title=f"{len(groups)} configuration{'s' * (len(groups) > 1)}, "
        f"{len(runs)} run{'s' * (len(runs) > 1)}",
        only=only,
        void=void,
        tables=tables,
        uncounted=[run for table in tables for run in table.uncounted()]
        + [("unreadable", message, None) for message in broken],
        filters=filters if charts else [],
        charts=charts,
        agreements=agreements,
        judged=judged[0].dataset if judged else "",
        link=lambda run: report_link(run, out),
    )
    words = "\n".join(table.markdown() for table in tables)
    words += "".join(f"Unreadable, not counted: {message}\n" for message in broken)
    words += selection_markdown(agreements)
    if void:
        words += f"Not listed: {void} that ended before the first step.\n"
    frames = [table.frame(own) for table, own in zip(tables, sections, strict=True)]
    return Comparison(
        report=save(out / "report.html", page),
        csv=save(out / "table.csv", pd.concat(frames).to_csv(index=False, lineterminator="\n")),
        markdown=save(out / "table.md", words),
        table=words,
        states=dict(states),
    )


def selection_markdown(agreements: Sequence[Agreement]) -> str:
    """The audit of label-free measures as a table; empty where too few runs compare."""
    if not agreements:
        return ""
    rows = [
        [a.measure, a.judge, a.runs, f"{number(a.rho)} [{number(a.low)}, {number(a.high)}]",
         "yes" if a.trusted else "no"]
        for a in agreements
    ]  # fmt: skip
    head = ["measure without labels", "judge", "runs", "rank correlation", "trusted"]
    return f"\n## Selection without labels\n\n{markdown_table(head, rows)}\n"


def baselines(sections: Sequence[Sequence[Group]], wanted: str | None) -> list[Group]:
    """The baseline of every data set: the one that is wanted, where it fits.

    Raises:
        UserError: `wanted` fits nowhere.
    """
    picked, errors = list[Group](), list[UserError]()
    for groups in sections:
        try:
            picked.append(baseline_group(groups, wanted))
        except UserError as error:
            errors.append(error)
            picked.append(baseline_group(groups))
    if len(errors) == len(sections):
        raise errors[0]
    return picked


def report_link(run: Run, out: Path) -> str | None:
    """A relative link to a run's own page, if it has one."""
    page = run.path / "report.html"
    return quote(os.path.relpath(page, out.resolve())) if page.is_file() else None
