"""The table of many runs: means over seeds with intervals, paired differences, markdown and csv."""

import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from pnp.metrics import Metric, describe
from pnp.report.groups import Group, differing_keys, settings
from pnp.report.page import markdown_table, number, spread
from pnp.report.reading import Run
from pnp.results import MEAN, NETWORKS, OWNERS, REFERENCES, Row, logged_best, to_rows

# Last values shown beside the final metrics, of the teacher, or of the student where there is none.
MONITORS = {
    "sigma": "σ·√D",
    "between_cosine": "between cos",
    "mean_cosine": "mean cos",
    "effective_rank": "eff. rank",
}
ORDER = ("linear", "knn", "views", "width", "plugin")  # of importance
ROOM = 10  # keys and metrics that a page of 1280 pixels holds
SECTIONS_IN_CSV = ("geometry/", "probe/", "loss/")


@dataclass(frozen=True)
class Column:
    """One column: key in `Run.numbers`, heading in table.md, owner, words, result if it is one."""

    key: str
    heading: str
    owner: str
    words: Metric
    row: Row | None = None

    @property
    def title(self) -> str:
        """The heading on a page."""
        return f"{self.words.heading}, {self.owner}"


@dataclass(frozen=True)
class Cell:
    """Mean over `n` runs, sample standard deviation and half of its 95 % t interval, if n > 1."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def over(cls, values: Iterable[float]) -> "Cell | None":
        """Summarise the values of runs: NaN for a run that lacks it, inf for one not finite."""
        present = [float(value) for value in values if not math.isnan(value)]
        if not present:
            return None
        if not all(map(math.isfinite, present)):  # it is not averaged away
            return cls(math.nan, None, len(present))
        std = statistics.stdev(present) if len(present) > 1 else None
        return cls(statistics.fmean(present), std, len(present))

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval of the mean (Student's t); None for one run."""
        if self.std is None:
            return None
        return float(stdtrit(self.n - 1, 0.975)) * self.std / math.sqrt(self.n)

    @property
    def is_clear(self) -> bool:
        """The interval of the mean excludes 0."""
        return self.half is not None and abs(self.mean) > self.half

    def text(self, n: int) -> str:
        """`mean ± half`, with its own n where some of the group's `n` runs lack the value."""
        half = "" if self.half is None else f" ± {spread(self.half, self.mean)}"
        return f"{number(self.mean)}{half}" + (f" (n={self.n})" if self.n != n else "")


def table_columns(runs: Sequence[Run], tuned: Sequence[str] = ()) -> list[Column]:
    """The columns: what was tuned, probes on test, mean bands, then last monitor values."""
    columns: dict[str, Column] = {}
    for key in tuned:
        (row,) = to_rows({key.replace("main", "network"): 0.0})
        words = replace(describe(row.metric), heading=f"{describe(row.metric).heading}, tuned")
        owner = "main" if "main" in key else row.owner
        columns[key] = Column(key, key.replace("/", " "), owner, words)
    for row in (row for run in runs for row in run.rows if row.owner in NETWORKS and not row.data):
        band = row.kind == "band" and row.concept == MEAN
        if band or (row.kind == "probe" and row.split == "test"):
            heading = f"{'band ' * band}{row.metric} {row.owner}"
            columns[row.key] = Column(row.key, heading, row.owner, describe(row.metric), row)
    logged = {key for run in runs for key in run.curves}
    for name, heading in MONITORS.items():
        keys = {owner: f"geometry/{owner}/{name}" for owner in ("teacher", "student")}
        if owner := next((owner for owner in keys if keys[owner] in logged), None):
            key = f"last/{keys[owner]}"
            columns[key] = Column(key, f"{heading} {owner}", owner, describe(name))
    return list(columns.values())


def value_of(run: Run, key: str) -> float:
    """A number of a run: NaN where it lacks it, inf where it is not finite."""
    if "/main" in key:
        _, value = logged_best(run.numbers, key) or ("", None)
    else:
        value = run.numbers.get(key)
    return math.nan if value is None else value if math.isfinite(value) else math.inf


def cell(group: Group, key: str) -> Cell | None:
    """A number over the finished runs of a group."""
    return Cell.over(value_of(run, key) for run in group.finished.values())


def difference(group: Group, baseline: Group, key: str) -> Cell | None:
    """A number over the runs of a group, minus that of the baseline's run each is paired with."""
    pairs = [
        (value_of(run, key), value_of(baseline.finished[pair], key))
        for pair, run in group.finished.items()
        if pair in baseline.finished
    ]
    return Cell.over(math.inf if a == b == math.inf else a - b for a, b in pairs)


@dataclass(frozen=True)
class Table:
    """Groups of runs with their columns, cells, differences and references.

    Args:
        groups: the rows.
        columns: the columns.
        baseline: the group that others are compared with.
        base: the folder that paths are relative to.
        name: of the data set, where there are several.
    """

    groups: list[Group]
    columns: list[Column]
    baseline: Group
    base: Path
    name: str = ""

    @cached_property
    def shown(self) -> list[int]:
        """The columns that fit a page, the most important ones first where some are left out."""
        room = max(4, ROOM - len(self.groups[0].shown))
        if len(self.columns) <= room:
            return list(range(len(self.columns)))

        def rank(i: int) -> int:
            row = self.columns[i].row
            known = ORDER.index(row.metric) if row and row.metric in ORDER else len(ORDER)
            return -1 if self.columns[i].words.heading.endswith("tuned") else known

        return sorted(range(len(self.columns)), key=rank)[:room]

    @property
    def remark(self) -> str:
        """Remarks on what else differs between the groups, and whether they can be compared."""
        group, parts = self.groups[0], []
        names = list(group.values)
        if hidden := [name for name in names if name not in group.shown]:
            some = ", ".join(hidden[:8]) + ", …" * (len(hidden) > 8)
            parts.append(f"{len(hidden)} more keys differ ({some}): see table.csv.")
        if moved := [k for k in group.keys if k.startswith(("data.", "evaluation."))]:
            some = ", ".join(moved[:4]) + ", …" * (len(moved) > 4)
            parts.append(f"Compare with care: data or evaluation differ, too ({some}).")
        return " ".join(parts)

    def rows(self) -> list[list[Cell | None]]:
        """The cells of every group."""
        return [[cell(group, column.key) for column in self.columns] for group in self.groups]

    def paired(self) -> list[tuple[Group, list[Cell | None]]]:
        """Paired differences: every other group that shares a pair with the baseline."""
        others = [group for group in self.groups if group is not self.baseline]
        rows = [(g, [difference(g, self.baseline, c.key) for c in self.columns]) for g in others]
        return [(group, row) for group, row in rows if any(row)]

    def references(self) -> list[tuple[str, list[Cell | None]]]:
        """Rows of the references; none where the compared runs differ in data or network."""
        runs = [run for group in self.groups for run in group.runs]
        keys = [key.removeprefix("choices.") for key in differing_keys(list(map(settings, runs)))]
        if {key.split(".")[0] for key in keys} & {"data", "model", "experiment"}:
            return []
        # One run per seed: the reference does not depend on what else was varied.
        by_seed = {str(run.seed): run for group in self.groups for run in group.finished.values()}
        rows = []
        for owner in REFERENCES:
            keys = [replace(c.row, owner=owner).key if c.row else "" for c in self.columns]
            values = [[value_of(run, key) for run in by_seed.values()] for key in keys]
            if any(row := list(map(Cell.over, values))):
                rows.append((OWNERS[owner], row))
        return rows

    def uncounted(self) -> list[tuple[str, str, Group]]:
        """State, path and group of every run that is not counted."""
        listed = list[tuple[str, str, Group]]()
        for group in self.groups:
            listed += [(run.state, self.place(run), group) for run in group.unfinished]
            listed += [("repeated", self.place(run), group) for run in group.repeated]
        return listed

    def place(self, run: Run) -> str:
        """A run's path below the common folder."""
        return os.path.relpath(run.path, self.base)

    def markdown(self) -> str:
        """The tables as markdown, with the runs that they do not count named below."""
        headings = [self.columns[i].heading for i in self.shown]
        rows = [
            [group.label, group.n, *self._texts(row, group.n), group.alarms or "–"]
            for group, row in zip(self.groups, self.rows(), strict=True)
        ]
        for name, row in self.references():
            rows.append([name, n := largest(row), *self._texts(row, n), "–"])
        cut = None if any(group.alarms for group in self.groups) else -1
        header = ["run", "n", *headings, "alarms"][:cut]
        lines = [f"## {self.name}", ""] if self.name else []
        lines += [markdown_table(header, [row[:cut] for row in rows]), ""]
        lines.append(
            "Mean over n seeds ± half of its 95 % interval (Student's t); table.csv has std."
        )
        lines += [self.remark] if len(self.groups[0].values) > len(self.groups[0].shown) else []
        if paired := self.paired():
            rows = [[g.label, n := largest(row), *self._texts(row, n)] for g, row in paired]
            lines += ["", f"Minus {self.baseline.label}, paired by seed:", ""]
            lines += [markdown_table(["run", "pairs", *headings], rows), ""]
        for group in self.groups:
            for run in group.unfinished:
                lines.append(
                    f"{run.state.capitalize()}, unfinished, not counted: {self.place(run)} "
                    f"({group.label}), step {run.last_step}."
                )
            for run in group.repeated:
                where = f"{self.place(run)} ({group.label})"
                lines.append(f"Not counted, a newer run has the same seed: {where}.")
        return "\n".join(lines) + "\n"

    def frame(self, runs: Sequence[Run]) -> pd.DataFrame:
        """Everything in full precision: each metric with its std, half 95 % interval and n."""
        keys = dict.fromkeys(row.key for run in runs for row in run.rows)
        logged = dict.fromkeys(key for run in runs for key in run.curves)
        keys |= dict.fromkeys(f"last/{k}" for k in logged if k.startswith(SECTIONS_IN_CSV))
        header = ["group", *self.groups[0].values, "n", "seeds", "unfinished", "alarms"]
        header += [f"{key}{suffix}" for key in keys for suffix in ("", "/std", "/half95", "/n")]
        rows = []
        for group in self.groups:
            seeds = ", ".join(str(run.seed) for run in group.finished.values())
            row: list[Any] = [group.label, *group.values.values(), group.n, seeds]
            row += [len(group.unfinished), group.alarms]
            for key in keys:
                c = cell(group, key)
                # An empty cell means "none": a mean that is not a number is written as a word.
                row += [str(c.mean), c.std, c.half, c.n] if c else [None, None, None, 0]
            rows.append(row)
        frame = pd.DataFrame(rows, columns=header, dtype=object)
        if self.name:
            frame.insert(0, "data set", self.name)
        return frame

    def _texts(self, row: Sequence[Cell | None], n: int) -> list[str]:
        return [c.text(n) if c else "–" for c in (row[i] for i in self.shown)]


def largest(row: Sequence[Cell | None]) -> int:
    """The largest n of a row."""
    return max(c.n for c in row if c)
