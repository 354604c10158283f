"""Reading run directories: what a run wrote, as plain Python values."""

import csv
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pnp.errors import UserError

# What a run directory is full of and no other run is inside.
SKIPPED = {"checkpoints", "features", "figures", "wandb", ".hydra", ".git"}
# A folder with config.yaml and one of these is a run; splits.json is there before the first step.
MARKS = {"metrics.csv", "metrics.json", "splits.json", "error.txt"}
FRESH = 900  # seconds without a new file after which an unfinished run is no longer "running"

Curve = tuple[list[float], list[float]]
"""Steps (ascending) and the values logged at them."""


@dataclass(frozen=True)
class Run:
    """One run directory; `final` is None while the run has not finished.

    `state` is finished, alarm (finished with a collapse alarm), running, stopped or failed;
    `bands` is `band.json`, the band's width over budgets by concept and representation.
    """

    path: Path
    config: dict[str, Any]
    curves: dict[str, Curve]
    final: dict[str, float] | None
    facts: dict[str, Any]
    alarms: list[dict[str, Any]]
    state: str = "finished"
    error: str = ""
    bands: dict[str, Any] = field(default_factory=dict)

    @property
    def images_per_step(self) -> int | None:
        """Images that one optimizer step sees over all devices; None where the config lacks it."""
        data, trainer, objective = map(self._part, ("data", "trainer", "objective"))
        if _whole(objective.get("global_batch")):  # of all devices and micro-batches together
            return objective["global_batch"]
        size = data.get("batch_size")
        if not isinstance(size, int):
            return None
        for key in ("accumulate_grad_batches", "devices", "num_nodes"):
            factor = trainer.get(key, 1)
            factor = len(factor) if isinstance(factor, list) else factor
            if not _whole(factor):  # `devices: auto`: the config does not tell how many they were
                return None
            size *= factor
        return size

    @property
    def dataset(self) -> str:
        """The name of the data; empty where the config names none."""
        found = self._part("data").get("dataset") or self._part("choices").get("data")
        return str(found or "")

    def _part(self, key: str) -> dict[str, Any]:
        part = self.config.get(key)
        return part if isinstance(part, dict) else {}

    @property
    def last_step(self) -> int:
        """The last optimizer step that anything was logged at; 0 when nothing was."""
        return int(max((steps[-1] for steps, _ in self.curves.values() if steps), default=0))

    @property
    def seed(self) -> Any:
        """The seed in the config, or None."""
        return self.config.get("seed")

    def last(self, key: str) -> float | None:
        """The last value of a logged key, or None if it was never logged."""
        return self.curves[key][1][-1] if key in self.curves else None


def find_runs(directories: Sequence[Path]) -> list[Path]:
    """Find every run below `directories`: folders with `config.yaml` and metrics, sorted.

    Raises:
        UserError: a directory is missing, or there is no run in any of them.
    """
    found: set[Path] = set()
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"no such directory: {directory}. Give a run, or a folder of runs.")
        for folder, below, files in os.walk(directory):
            if "config.yaml" in files and MARKS & set(files):
                found.add(Path(folder).resolve())
            below[:] = [name for name in below if name not in SKIPPED]
    if not found:
        raise UserError(
            f"no run found in {', '.join(map(str, directories))}. "
            "A run is a folder with config.yaml and metrics.csv or metrics.json."
        )
    return sorted(found)


def read_run(path: Path) -> Run:
    """Read one run directory; only `config.yaml` must be there.

    Raises:
        UserError: a file is missing or broken; the message names it.
    """
    final = _read_json(path / "metrics.json", dict, None)
    if final is not None:
        final = _numbers(path / "metrics.json", final)
    alarms = [
        alarm if isinstance(alarm, dict) else {"message": str(alarm)}
        for alarm in _read_json(path / "alarms.json", list, [])
    ]
    error = _read_text(path / "error.txt").strip() if (path / "error.txt").is_file() else ""
    finished = "alarm" if alarms else "finished"
    return Run(
        path=path,
        config=_read_config(path / "config.yaml"),
        curves=_read_curves(path / "metrics.csv"),
        final=final,
        facts=_read_json(path / "run.json", dict, {}),
        alarms=alarms,
        state=finished if final is not None else "failed" if error else _unfinished(path),
        error=error,
        bands=_read_json(path / "band.json", dict, {}),
    )


def last_written(path: Path) -> float:
    """When a run last wrote a file, in seconds since 1970."""
    folders = [path, path / "checkpoints", path / "features"]
    times = [0.0]
    for folder in folders:
        with suppress(OSError):  # not there, or a file was replaced while we looked
            times += [e.stat().st_mtime for e in os.scandir(folder) if e.is_file()]
    return max(times)


def _unfinished(path: Path) -> str:
    return "running" if time.time() - last_written(path) < FRESH else "stopped"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def read_captions(folder: Path) -> dict[str, str]:
    """The captions of a figures folder by file stem, in the order they should be shown."""
    return {k: str(v) for k, v in _read_json(folder / "captions.json", dict, {}).items()}


def band_alarms(run: Run) -> list[str]:
    """What the band's evaluation warns of, one line per concept and representation."""
    return [
        f"{concept} · {representation}: {alarm}"
        for concept, answers in run.bands.items()
        for representation, answer in answers.items()
        for alarm in answer["alarms"]
    ]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    import yaml  # here, not above: `pnp-report --help` needs none of it

    if not path.is_file():
        raise UserError(f"{path} is missing: {path.parent} is not a run that pnp-train wrote.")
    try:
        # The C loader is the same safe loader, ten times as fast: it matters with hundreds of runs.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = yaml.load(_read_text(path), Loader=loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} should hold a mapping of keys to values, not {config!r:.80}.")
    return config


def _read_json(path: Path, kind: type, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} should hold a JSON {kind.__name__}, not {value!r:.80}.")
    return value


def _numbers(path: Path, values: dict[str, Any]) -> dict[str, float]:
    for key, value in values.items():
        if value is not None and not isinstance(value, int | float):
            raise UserError(f"{path}: {key!r} should be a number, not {value!r:.80}.")
    return {key: float("nan") if value is None else float(value) for key, value in values.items()}


def _read_curves(path: Path) -> dict[str, Curve]:
    """Columns of a sparse wide csv; of a step logged twice (a resumed run) the later row counts."""
    if not path.is_file():
        return {}
    text = _read_text(path)
    rows = csv.reader(text.splitlines())
    header = next(rows, [])
    if not header:
        return {}
    if "step" not in header:
        raise UserError(f"{path}: no 'step' column among {', '.join(header)[:200]}.")
    at = header.index("step")
    columns = [(i, key) for i, key in enumerate(header) if key not in {"step", "epoch", ""}]
    values: dict[str, dict[float, float]] = {key: {} for _, key in columns}
    body = list(rows)
    for number, row in enumerate(body):
        # Half a row at the end, of a running or a killed run: its last cell may lack digits.
        if not row or (number == len(body) - 1 and not text.endswith(("\n", "\r"))):
            continue
        try:
            if len(row) > len(header):
                raise ValueError(f"{len(row)} cells under {len(header)} columns")
            step = float(row[at])
            for i, key in columns:
                if i < len(row) and row[i]:
                    values[key][step] = float(row[i])
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}, line {number + 2}: {error}.") from error
    curves: dict[str, Curve] = {}
    for key, points in values.items():
        if points:
            steps = sorted(points)
            curves[key] = (steps, [points[step] for step in steps])
    return curves
