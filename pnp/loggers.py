"""The CSV log that is always written: appended to, and continued, never lost, by a resumed run."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class CSVLog(Logger):
    """One row per logged step in `<folder>/metrics.csv`; columns appear as metrics do.

    Lightning's own CSVLogger deletes the file of an earlier run in the same folder; this one drops
    only the rows after the step it resumes from.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self.columns = ["step", "epoch"]
        self.pending: dict[int, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        """Always `csv`."""
        return "csv"

    @property
    def version(self) -> str:
        """Unused: the run directory is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.file.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> "CSVLog":
        """Itself."""
        return self

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Keep the rows before `step`, drop the later ones: they will be logged again."""
        if not self.file.exists():
            return
        with self.file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        kept = [row for row in rows if int(row["step"]) < step]
        self.columns = list(rows[0]) if rows else self.columns
        self._rewrite(kept)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Collect the metrics of a step; a step's row is written when the next step starts."""
        step = 0 if step is None else step
        if step not in self.pending:
            self.save()
        self.pending.setdefault(step, {"step": step}).update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Append what is pending."""
        rows, self.pending = list(self.pending.values()), {}
        new = [key for row in rows for key in row if key not in self.columns]
        if new:
            self.columns += dict.fromkeys(new)
            old: list[dict[str, Any]] = []
            if self.file.exists():
                with self.file.open(newline="") as stream:
                    old = list(csv.DictReader(stream))
            self._rewrite(old + rows)
        elif rows:
            with self.file.open("a", newline="") as stream:
                csv.DictWriter(stream, self.columns).writerows(rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last row."""
        self.save()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        partial = self.file.with_suffix(".part")
        with partial.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.file)
