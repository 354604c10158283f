"""Reports: one self-contained page per run, one table and page for any set of runs."""

from pnp.report.compare import Comparison, compare_runs
from pnp.report.reading import Run, find_runs, read_run
from pnp.report.single import write_report

__all__ = ["Comparison", "Run", "compare_runs", "find_runs", "read_run", "write_report"]
