"""The tables of the contest, from results.jsonl: `python experiments/004_contest/summarise.py`.

Tuning: the best arm of each method. Finals and equal seconds: mean ± half of the 95 % t-interval of
each method, and P¬P minus the best rival of each column, paired by seed, Bonferroni-corrected for
the 8 rivals of the rule, however many have run. Nothing is printed of what has not been run.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from run import LAYERS, RIVALS
from scipy.stats import t

FIRST = ", first"  # of the first rule
FILE = Path(__file__).parent / "results.jsonl"
COLUMNS = {
    "test/knn/student": ("20-NN", 1),
    "test/linear/student": ("linear", 1),
    "band/mean/student/width": ("band, certified", -1),
    "band/mean/student/plugin": ("band, plug-in", -1),
}
LOBED = {key: key.replace("mean", "lobed") for key in COLUMNS}  # the concept of `ambiguous`

Row = dict[str, Any]
Runs = dict[str, dict[int, Row]]  # method -> seed -> metrics


def half(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the t-interval of a mean."""
    n = len(values)
    return float(t.ppf((1 + level) / 2, n - 1)) * statistics.stdev(values) / n**0.5


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def tuning(rows: Sequence[Row], stage: str, data: str) -> str:
    """The best arm of each method on validation, and how many arms ran."""
    body: list[tuple[float, list[str]]] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        arms = [r for r in rows if (r["stage"], r["data"], r["method"]) == (stage, data, method)]
        scored = [
            (sum(values) / 2, values, row["arm"])
            for row in arms
            if "metrics" in row
            and (values := [row["metrics"][f"validation/{m}/student"] for m in ("knn", "linear")])
        ]
        if scored:
            best, values, arm = max(scored, key=lambda item: item[0])
            words = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in arm.items())
            cells = [method, str(len(arms)), *(f"{v:.4f}" for v in values), f"{best:.4f}", words]
            body.append((best, cells))
    head = ("method", "arms", "20-NN", "linear", "mean", "best arm")
    return table(head, [cells for _, cells in sorted(body, reverse=True)])


def runs_of(rows: Sequence[Row], stage: str, data: str) -> Runs:
    """Metrics by method and seed; in `seconds` P¬P's are those of its finals.

    Finals with the projector of the first rule are a method of their own where there are others:
    a rival's take part, P¬P's are shown.
    """
    found: Runs = {}
    again = {r["method"] for r in rows if r["data"] == data and r["stage"] == "final"
             and LAYERS in r["arm"]}  # fmt: skip
    for row in rows:
        same = row["stage"] == stage or (stage == "seconds" and row["method"] == "pnp"
                                         and row["stage"] == "final")  # fmt: skip
        if same and row["data"] == data and "metrics" in row:
            before = row["method"] in again and LAYERS not in row["arm"]
            method = row["method"] + FIRST * before
            found.setdefault(method, {})[row["seed"]] = row["metrics"]
    return found


def _rivals(runs: Runs) -> list[str]:
    """Rivals with two seeds or more."""
    return [m for m, own in runs.items() if m not in ("pnp", "pnp" + FIRST) and len(own) > 1]


def contest(runs: Runs, data: str) -> str:
    """Means of every method and P¬P's distance from the best rival of each column."""
    names = LOBED if data == "ambiguous" else {key: key for key in COLUMNS}
    rivals = _rivals(runs)
    seeds = set.intersection(*(set(runs[method]) for method in ("pnp", *rivals)))

    def values(method: str, key: str, chosen: Iterable[int]) -> list[float]:
        return [runs[method][seed][names[key]] for seed in sorted(chosen)]

    body = []
    for method, own in runs.items():
        cells = [method, str(len(own))]
        for key in COLUMNS:
            numbers = values(method, key, own)
            spread = f" ± {half(numbers):.4f}" if len(numbers) > 1 else ""
            cells.append(f"{statistics.fmean(numbers):.4f}{spread}")
        body.append(cells)
    last = ["P¬P − best rival", str(len(seeds))]
    for key, (_, sign) in COLUMNS.items():
        if len(seeds) < 2:
            last.append("")
            continue
        means = {m: sign * statistics.fmean(values(m, key, seeds)) for m in rivals}
        best = max(means, key=lambda method: means[method])
        pairs = zip(values("pnp", key, seeds), values(best, key, seeds), strict=True)
        gaps = [a - b for a, b in pairs]
        wide = half(gaps, 1 - 0.05 / len(RIVALS))
        mean = statistics.fmean(gaps)
        verdict = "" if abs(mean) <= wide else (" ahead" if mean * sign > 0 else " behind")
        last.append(f"{mean:+.4f} ± {wide:.4f} ({best}){verdict}")
    return table(["method", "seeds", *(name for name, _ in COLUMNS.values())], [*body, last])


def summary(rows: Sequence[Row]) -> str:
    """Every table there are runs for."""
    parts = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for stage, title in (("tune", "Tuning"), ("projector", "Projector")):
            if any((row["stage"], row["data"]) == (stage, data) for row in rows):
                parts.append(f"### {title}, {data}\n\n{tuning(rows, stage, data)}")
        for stage, title in (("final", "Equal steps"), ("seconds", "Equal seconds")):
            runs = runs_of(rows, stage, data)
            if "pnp" in runs and _rivals(runs):
                parts.append(f"### {title}, {data}\n\n{contest(runs, data)}")
    failed = [row for row in rows if "error" in row]
    parts += [f"failed: {r['data']} {r['method']} {r['arm']}: {r['error'][:80]}" for r in failed]
    return "\n".join(parts)


if __name__ == "__main__":
    print(summary([json.loads(line) for line in FILE.read_text().splitlines()]))
