"""Files and table that an evaluation leaves in a run directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pnp.evaluation.gaps import Gaps
from pnp.files import write_json
from pnp.metrics import describe
from pnp.results import OWNERS, PARTIAL, Row, find, main_network, main_table, to_metrics

if TYPE_CHECKING:
    from pnp.evaluation.protocol import Protocol


def write_results(
    folder: Path, rows: Sequence[Row], facts: dict[str, Any], protocol: "Protocol"
) -> dict[str, float]:
    """Write metrics.json, run.json and report.html, print the main table; return the metrics."""
    from pnp.report.single import band_silence, write_report

    metrics = to_metrics(rows)
    write_json(folder / "metrics.json", metrics)
    main = facts.get("main") or main_network(rows)  # decided once, when the run ends
    if main:
        facts = {**facts, "main": main}
    write_json(folder / "run.json", {**facts, "protocol": protocol.text})
    report = Gaps().attempt("the report", lambda: write_report(folder))
    print_table(rows, "" if protocol.views == 1 else f"Features of {protocol.images}.")
    if main and len(main) > 3:
        print_main(main)
    if protocol.budgets and (silence := band_silence(rows, protocol.budgets)):
        print(silence)
    if report is not None:
        print(f"report: {report}")
    return metrics


def mark_finished(folder: Path) -> None:
    """Say that nothing is left to be written: see `pnp.runs.jobs`."""
    for file in (folder / PARTIAL, *folder.glob(f"*/{PARTIAL}")):  # of further data sets
        file.unlink(missing_ok=True)


def print_main(main: Mapping[str, Any]) -> None:
    """Print the better of several networks and what decided."""
    name, values = main["network"], {k: v for k, v in main.items() if k not in ("network", "by")}
    others = ", ".join(f"{other} {value:.3f}" for other, value in values.items() if other != name)
    metric = describe(main["by"].removeprefix("validation/")).heading
    print(f"main network, better on validation: {name} ({metric} {values[name]:.3f}; {others})")


def print_table(rows: Sequence[Row], remark: str = "") -> None:
    """Print the main table with a remark, and the irreducible band where η is known."""
    metrics, lines, note = main_table(rows)
    if lines:
        headings = [describe(metric).heading for metric in metrics]
        table = Table("frozen features of", *headings, box=SIMPLE_HEAD, pad_edge=False)
        table.caption = escape(f"{note} {remark}".strip())
        for owner, cells in lines.items():
            table.add_row(OWNERS[owner], *(f"{cell.value:.4f}" if cell else "" for cell in cells))
        Console().print(table)
    for row in find(rows, metric="oracle/width")[:1]:
        print(f"irreducible band (oracle): {row.value:.4f}")
