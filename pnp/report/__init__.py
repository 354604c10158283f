"""Reports: one self-contained page per run, one table and page for any set of runs."""

from typing import TYPE_CHECKING, Any

from pnp.report.reading import Run, find_runs, read_run
from pnp.report.single import write_report

if TYPE_CHECKING:
    from pnp.report.compare import Comparison, compare_runs

__all__ = ["Comparison", "Run", "compare_runs", "find_runs", "read_run", "write_report"]


def __getattr__(name: str) -> Any:
    """Import the comparison when it is used: a training run needs no pandas and no Altair."""
    if name in ("Comparison", "compare_runs"):
        from pnp.report import compare

        return getattr(compare, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
