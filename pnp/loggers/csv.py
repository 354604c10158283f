"""The CSV log that is always written: appended to, and continued, never lost, by a resumed run."""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from pnp.files import read_csv, replacing

TIMES = ("step", "seconds")


class CSVLog(Logger):
    """One row per logged step in `<folder>/metrics.csv`; columns appear as metrics do.

    `seconds.csv` beside it holds the seconds since the first of these steps, pauses left out: times
    are never the same twice, and metrics.csv is.

    Lightning's own CSVLogger deletes the file of an earlier run in the same folder; this one drops
    only the rows after the step it resumes from.

    Args:
        folder: the run directory.
    """

    name, version = "csv", ""  # pyright: ignore

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self.columns = ["step", "epoch"]
        self.clock = Path(folder) / "seconds.csv"
        self.before, self.started = 0.0, 0.0  # seconds of earlier sessions; when this one began
        self.timed = -1  # the last step with a time

    @property
    def save_dir(self) -> str:
        """The run directory: Lightning's `trainer.log_dir`."""
        return str(self.file.parent)

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Keep the rows before `step`, drop the later ones: they will be logged again."""
        if rows := read_csv(self.file):
            self.columns = list(rows[0])
            _write(self.file, self.columns, [row for row in rows if int(row["step"]) < step])
        if times := [row for row in read_csv(self.clock) if int(row["step"]) < step]:
            self.before = float(times[-1]["seconds"])
        _write(self.clock, TIMES, times)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row; a metric never seen before adds a column."""
        row = {"step": 0 if step is None else step, **metrics}
        self._time(row["step"])
        new = [key for key in row if key not in self.columns]
        if new or not self.file.exists():
            self.columns += new
            _write(self.file, self.columns, [*read_csv(self.file), row])
        else:
            _append(self.file, self.columns, row)

    def _time(self, step: float) -> None:
        """One row of seconds.csv for each step."""
        if step <= self.timed:
            return
        now = time.monotonic()
        self.started = self.started or now
        if not self.clock.exists():
            _write(self.clock, TIMES, [])
        seconds = round(self.before + now - self.started, 2)
        _append(self.clock, TIMES, {"step": step, "seconds": seconds})
        self.timed = step


def _append(file: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    with file.open("a", newline="", encoding="utf-8") as stream:
        csv.DictWriter(stream, columns).writerow(row)


def _write(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with replacing(file) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
