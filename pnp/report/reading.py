"""Run directories, read as plain Python values."""

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pnp.errors import UserError
from pnp.files import flatten, read_csv, read_json, read_text, read_yaml
from pnp.keys import upgrade
from pnp.metrics import Metric, describe
from pnp.results import GAPS, OWNERS, Row, to_rows

# Folders inside a run, where no other run is looked for.
SKIPPED = {"checkpoints", "features", "figures", "wandb", ".hydra", ".git"}
# A folder with config.yaml and one of these is a run; splits.json is there before the first step.
MARKS = {"metrics.csv", "metrics.json", "splits.json", "error.txt"}
OWN = ("image_folder", "array", "hf")  # data sets of the user's own
AXES = {  # what curves are drawn against: title, and the column that tells it at each step
    "step": ("optimizer step", ""),
    "images": ("images seen", "images_seen"),
    "forwards": ("forward passes per training image", "forwards_per_image"),
    "seconds": ("seconds of training", "seconds"),
}
FRESH = 900  # seconds without a new file after which an unfinished run is no longer "running"

Curve = tuple[list[float], list[float]]
"""Steps (ascending) and the values logged at them."""


@dataclass(frozen=True)
class Run:
    """One run directory.

    Args:
        path: the directory.
        config: the resolved configuration, in today's form, with the evaluation that gave metrics.
        curves: what was logged in training, by key.
        metrics: `metrics.json`; None while the run has not finished.
        facts: `run.json`.
        alarms: collapse alarms.
        state: finished, alarm (finished, with a collapse alarm), running, stopped or failed.
        error: `error.txt`.
        bands: `band.json`: widths over allowed errors by concept and owner.
        gaps: what the evaluation left out, with the reasons.
        test: digest of the test split; empty for runs that recorded none.
        axes: images seen, forward passes per image and seconds at the logged steps.
    """

    path: Path
    config: dict[str, Any]
    curves: dict[str, Curve]
    metrics: dict[str, float] | None
    facts: dict[str, Any]
    alarms: list[dict[str, Any]]
    state: str = "finished"
    error: str = ""
    bands: dict[str, Any] = field(default_factory=dict)
    gaps: dict[str, Any] = field(default_factory=dict)
    test: str = ""
    axes: dict[str, Curve] = field(default_factory=dict)

    def along(self, x: str, steps: Sequence[float]) -> list[float] | None:
        """Steps in the unit of an axis, interpolated; None where the run did not log it."""
        if x == "step":
            return list(steps)
        known, values = self.axes.get(AXES[x][1], ([], []))
        return [float(v) for v in np.interp(steps, known, values)] if known else None

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The configuration by dotted keys."""
        return flatten(self.config)

    def part(self, key: str) -> dict[str, Any]:
        """A section of the configuration; empty where there is none."""
        part = self.config.get(key)
        return part if isinstance(part, dict) else {}

    @cached_property
    def rows(self) -> list[Row]:
        """The final results; none while the run has not finished."""
        return to_rows(self.metrics or {})

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Final results by key, and the last value of every curve below `last/`."""
        last = {f"last/{key}": values[-1] for key, (_, values) in self.curves.items()}
        return {row.key: row.value for row in self.rows} | last

    @property
    def images_per_step(self) -> int | None:
        """Images that one optimizer step sees over all devices; None where the config lacks it."""
        data, trainer = self.part("data"), self.part("trainer")
        for part in ("objective", "method"):
            if _is_count(whole := self.part(part).get("global_batch")):
                return whole  # of all devices and micro-batches together
        chosen = self.facts.get("auto") or {}  # what `auto` became
        factors: list[Any] = [chosen.get("data.batch_size", data.get("batch_size"))]
        for key in ("accumulate_grad_batches", "devices", "num_nodes"):
            factor = trainer.get(key, 1)
            factors.append(len(factor) if isinstance(factor, list) else factor)
        # `devices: auto`: the config does not tell how many.
        return math.prod(factors) if all(map(_is_count, factors)) else None

    @property
    def dataset(self) -> str:
        """The name of the data, of own images with their folder; empty without any."""
        data = self.part("data")
        name = str(data.get("dataset") or self.part("choices").get("data") or "")
        place = data.get("root") or data.get("images") or data.get("name")
        return f"{name} {Path(str(place)).name}" if name in OWN and place else name

    @property
    def is_void(self) -> bool:
        """It ended before it logged a step."""
        return self.state in ("failed", "stopped") and not self.curves

    @property
    def last_step(self) -> int:
        """The last optimizer step that anything was logged at; 0 when nothing was."""
        return int(max((steps[-1] for steps, _ in self.curves.values()), default=0))

    @property
    def seed(self) -> Any:
        """The seed in the config, or None."""
        return self.config.get("seed")


def split_key(key: str) -> tuple[str, str, str]:
    """Section, name and owner (a network, the batch, or an empty string) of a logged key.

    >>> split_key("geometry/student/mean_cosine")
    ('geometry', 'mean_cosine', 'student')
    """
    first, *parts = key.split("/") if "/" in key else ("other", key)
    owner = next((part for part in parts if part in (*OWNERS, "batch")), "")
    return first, "/".join(part for part in parts if part != owner) or owner, owner


def describe_curve(section: str, name: str) -> Metric:
    """The words for a logged curve."""
    return describe(f"loss/{name}" if section == "loss" else name)


def find_runs(directories: Sequence[Path]) -> list[Path]:
    """Find every run below `directories`: folders with `config.yaml` and metrics, sorted.

    Raises:
        UserError: a directory is missing, or there is no run in any of them.
    """
    paths: set[Path] = set()
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"no such directory: {directory}. Give a run, or a folder of runs.")
        for folder, below, files in os.walk(directory):
            if "config.yaml" in files and MARKS & set(files):
                paths.add(Path(folder).resolve())
            below[:] = [name for name in below if name not in SKIPPED]
    if not paths:
        raise UserError(
            f"no run found in {', '.join(map(str, directories))}. "
            "A run is a folder with config.yaml and metrics.csv or metrics.json."
        )
    return sorted(paths)


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Every readable run, and for the others a message that names the file.

    Raises:
        UserError: not one of them is readable.
    """
    runs, broken = list[Run](), list[str]()
    for path in paths:
        try:
            runs.append(read_run(path))
        except UserError as error:
            broken.append(str(error))
    if not runs:
        raise UserError(broken[0])
    return runs, broken


def read_run(path: Path) -> Run:
    """Read one run directory; only `config.yaml` must be there.

    Raises:
        UserError: a file is missing or broken; the message names it.
    """
    metrics = read_json(path / "metrics.json", dict, None)
    if metrics is not None:
        metrics = _numbers(path / "metrics.json", metrics)
    alarms = [
        alarm if isinstance(alarm, dict) else {"message": str(alarm)}
        for alarm in read_json(path / "alarms.json", list, [])
    ]
    curves = _read_curves(path / "metrics.csv")
    axes = {column: curves.pop(column) for _, column in AXES.values() if column in curves}
    axes |= _read_curves(path / "seconds.csv")
    error = read_text(path / "error.txt").strip() if (path / "error.txt").is_file() else ""
    if metrics is not None:
        state = "alarm" if alarms else "finished"
    else:
        state = "failed" if error else _unfinished(path)
    config, facts = _read_config(path / "config.yaml"), read_json(path / "run.json", dict, {})
    evaluated = facts.get("evaluated")
    if isinstance(evaluated, dict) and "evaluation" in evaluated:  # by pnp-evaluate, in place
        config["evaluation"] = evaluated.pop("evaluation")
    return Run(
        path=path,
        config=config,
        curves=curves,
        metrics=metrics,
        facts=facts,
        alarms=alarms,
        state=state,
        error=error,
        bands=read_json(path / "band.json", dict, {}),
        gaps=read_json(path / GAPS, dict, {}),
        axes=axes,
        test=str((read_json(path / "splits.json", dict, {}).get("test") or {}).get("digest", "")),
    )


def tuned_metrics(runs: Iterable[Run]) -> list[str]:
    """The metrics that searches asked for whose trials are among the runs."""
    metrics: list[str] = []
    for study in sorted({run.path.parent / "study.db" for run in runs}):
        if study.is_file():
            with suppress(sqlite3.Error), closing(sqlite3.connect(study)) as base:
                asked = "SELECT value_json FROM study_user_attributes WHERE key = 'asked'"
                metrics += [json.loads(value)["metric"] for (value,) in base.execute(asked)]
    return list(dict.fromkeys(metrics))


def _unfinished(path: Path) -> str:
    """`running` where a file was written lately, else `stopped`."""
    times = [0.0]
    for folder in (path, path / "checkpoints", path / "features"):
        with suppress(OSError):  # not there, or a file was replaced while we looked
            times += [e.stat().st_mtime for e in os.scandir(folder) if e.is_file()]
    return "running" if time.time() - max(times) < FRESH else "stopped"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing: {path.parent} is not a run that pnp-train wrote.")
    config = read_yaml(path)
    try:
        return upgrade(config)
    except UserError:  # this version cannot train it again, but its numbers stand
        return config


def _numbers(path: Path, values: dict[str, Any]) -> dict[str, float]:
    for key, value in values.items():
        if value is not None and not isinstance(value, int | float):
            raise UserError(f"{path}: {key!r} should be a number, not {value!r:.80}.")
    return {key: float("nan") if value is None else float(value) for key, value in values.items()}


def _read_curves(path: Path) -> dict[str, Curve]:
    """Columns of a sparse wide csv; of a step logged twice (a resumed run) the later row counts."""
    values: dict[str, dict[float, float]] = {}
    for line, row in enumerate(read_csv(path), 2):
        if "step" not in row:
            raise UserError(f"{path}: no 'step' column among {', '.join(row)[:200]}.")
        try:
            step = int(float(row["step"]))
            for key, cell in row.items():
                if cell and key not in ("step", "epoch"):
                    values.setdefault(key, {})[step] = float(cell)
        except (ValueError, OverflowError) as error:
            raise UserError(f"{path}, line {line}: {error}.") from error
    curves: dict[str, Curve] = {}
    for key, points in values.items():
        steps = sorted(points)
        curves[key] = (steps, [points[step] for step in steps])
    return curves
