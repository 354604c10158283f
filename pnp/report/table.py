"""The table of many runs: means over seeds with intervals, paired differences, markdown and csv."""

import csv
import io
import math
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pnp.report.groups import Group
from pnp.report.page import number, spread
from pnp.report.panels import NETWORKS
from pnp.report.reading import Run
from pnp.report.single import REFERENCES, markdown_table

# Last values shown beside the final metrics, of the teacher, or of the student where there is none.
MONITORS = {
    "sigma": "σ·√D",
    "between_cosine": "between cos",
    "mean_cosine": "mean cos",
    "effective_rank": "eff. rank",
}
Column = tuple[str, str]
"""Key and heading."""


def t_quantile(n: int) -> float:
    """Half a 95 % interval of a mean over `n` values is this times s/√n (Student's t)."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975))


@dataclass(frozen=True)
class Cell:
    """Mean over `n` runs, sample standard deviation and half of its 95 % t interval, if n > 1."""

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

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval of the mean; None for one run."""
        return None if self.std is None else t_quantile(self.n) * self.std / math.sqrt(self.n)

    def text(self, n: int) -> str:
        """`mean ± half`, with its own n where some of the group's `n` runs lack the value."""
        half = "" if self.half is None else f" ± {spread(self.half, self.mean)}"
        return f"{number(self.mean)}{half}" + (f" (n={self.n})" if self.n != n else "")


def table_columns(runs: Sequence[Run]) -> list[Column]:
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


def cell(group: Group, key: str) -> Cell | None:
    """One cell of the table: a metric over the group's finished runs."""
    values = [value(run, key) for run in group.finished]
    return Cell.over([v for v in values if v is not None])


def difference(group: Group, baseline: Group, key: str) -> Cell | None:
    """The group's metric minus the baseline's, over seeds that both have on the same data."""

    def pair(run: Run) -> tuple[str, str]:
        return run.dataset, str(run.seed)

    theirs = {pair(run): value(run, key) for run in baseline.finished}
    pairs = [(value(run, key), theirs.get(pair(run))) for run in group.finished]
    return Cell.over([a - b for a, b in pairs if a is not None and b is not None])


def reference_rows(
    groups: Sequence[Group], columns: Sequence[Column]
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


def markdown_text(
    groups: Sequence[Group],
    columns: Sequence[Column],
    baseline: Group,
    broken: Sequence[tuple[Path, str]],
    base: Path,
) -> str:
    """The tables as markdown, with the runs that they do not count named below."""
    alarms = [alarm_text(group) for group in groups]
    header = ["run", "n", *(heading for _, heading in columns)] + ["alarms"] * any(alarms)
    rows: list[list[Any]] = []
    for group, alarm in zip(groups, alarms, strict=True):
        rows.append([group.label, len(group.finished)])
        rows[-1] += _texts([cell(group, key) for key, _ in columns], len(group.finished))
        rows[-1] += [alarm or "–"] * any(alarms)
    for name, cells in reference_rows(groups, columns):
        n = max(c.n for c in cells if c)
        rows.append([name, n, *_texts(cells, n)] + ["–"] * any(alarms))
    lines = [markdown_table(header, rows), ""]
    lines.append("Mean over n seeds ± half of its 95 % interval (Student's t); table.csv has std.")
    if changed := paired(groups, columns, baseline):
        cells = [[g.label, max(c.n for c in row if c), row] for g, row in changed]
        rows = [[label, n, *_texts(row, n)] for label, n, row in cells]
        lines += ["", f"Minus {baseline.label}, paired by seed:", ""]
        lines.append(markdown_table(["run", "pairs", *(h for _, h in columns)], rows))
    lines += [""] if changed else []
    for group in groups:
        for run in group.unfinished:
            where = os.path.relpath(run.path, base)
            said = f"{run.state.capitalize()}, unfinished, not counted: {where} ({group.label})"
            lines.append(f"{said}, step {run.last_step}.")
        for run in group.repeated:
            where = os.path.relpath(run.path, base)
            lines.append(f"Not counted, a newer run has the same seed: {where} ({group.label}).")
    lines += [f"Unreadable, not counted: {message}" for _, message in broken]
    return "\n".join(lines) + "\n"


def paired(
    groups: Sequence[Group], columns: Sequence[Column], baseline: Group
) -> list[tuple[Group, list[Cell | None]]]:
    """Rows of paired differences: every other group that shares a seed with the baseline."""
    others = [group for group in groups if group is not baseline]
    rows = [(g, [difference(g, baseline, key) for key, _ in columns]) for g in others]
    return [(group, cells) for group, cells in rows if any(cells)]


def csv_text(groups: Sequence[Group], runs: Sequence[Run]) -> str:
    """Everything in full precision: each metric with its std, half 95 % interval and n."""
    final = dict.fromkeys(key for run in runs for key in run.final or {})
    keys = [k for k in final if not k.endswith(("/ci_low", "/ci_high"))]
    logged = dict.fromkeys(key for run in runs for key in run.curves)
    keys += [f"last/{k}" for k in logged if k.startswith(("geometry/", "probe/", "loss/"))]
    names = list(groups[0].values)
    header = ["group", *names, "n", "seeds", "unfinished", "alarms"]
    header += [f"{key}{suffix}" for key in keys for suffix in ("", "/std", "/half95", "/n")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for group in groups:
        row: list[Any] = [group.label, *group.values.values(), len(group.finished), group.seeds]
        row += [len(group.unfinished), alarm_text(group)]
        for key in keys:
            found = cell(group, key)
            row += (
                ["", "", "", 0] if found is None else [found.mean, found.std, found.half, found.n]
            )
        writer.writerow(row)
    return text.getvalue()


def _texts(cells: Sequence[Cell | None], n: int) -> list[str]:
    return [c.text(n) if c else "–" for c in cells]
