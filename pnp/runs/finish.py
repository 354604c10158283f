"""Files and table that an evaluation leaves in a run directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pnp.results import Row


def write_results(folder: Path, rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, float]:
    """Write metrics.json, run.json and report.html, print the main table; return the metrics."""
    from pnp.evaluation.gaps import Gaps
    from pnp.evaluation.protocol import TEXT
    from pnp.files import write_json
    from pnp.report import write_report
    from pnp.results import PARTIAL, to_metrics

    metrics = to_metrics(rows)
    write_json(folder / "metrics.json", metrics)
    (folder / PARTIAL).unlink(missing_ok=True)
    write_json(folder / "run.json", {**facts, "protocol": TEXT})
    report = Gaps().attempt("the report", lambda: write_report(folder))
    print_table(rows)
    if report is not None:
        print(f"report: {report}")
    return metrics


def print_table(rows: Sequence[Row]) -> None:
    """Print the main table, and the irreducible band where η is known."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pnp.results import OWNERS, describe, find, main_table

    metrics, lines, note = main_table(rows)
    if lines:
        headings = [describe(metric).heading for metric in metrics]
        table = Table("frozen features of", *headings, box=SIMPLE_HEAD, pad_edge=False)
        table.caption = escape(note)
        for owner, cells in lines.items():
            table.add_row(OWNERS[owner], *(f"{cell.value:.4f}" if cell else "" for cell in cells))
        Console().print(table)
    for row in find(rows, metric="oracle/width")[:1]:
        print(f"irreducible band (oracle): {row.value:.4f}")
