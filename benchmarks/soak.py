"""Memory, open files and step time of a long training of a tiny network, with slopes.

A `pnp-train` of its own with monitors, W&B offline and checkpoints every 50 steps; its resident
memory, open files and step are read from outside. Slopes are fitted to what comes after the first
fifth, which warms up, each with its 95 % interval, from the residuals of ten blocks, since
neighbouring readings are alike. Flat is an interval that holds 0. Linux only.

    python benchmarks/soak.py [--steps 100000] [--minutes 15]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import environment, machine, progress

TINY = (
    "data.n_train=64", "data.validation=40", "data.calibration=40", "data.test=40",
    "data.batch_size=16", "model.width=4", "model.depth=2", "model.projector.hidden=16",
    "model.projector.out=8", "method.log_every=10", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "callbacks.checkpoints.every_n_steps=50",
    "evaluation.test=false", "wandb.mode=offline",
)  # fmt: skip


def slope(x: np.ndarray, y: np.ndarray, blocks: int = 10) -> tuple[float, float]:
    """Slope of y over x, and half of its 95 % interval, from the means of blocks of readings."""
    x, y = (np.array([part.mean() for part in np.array_split(a, blocks)]) for a in (x, y))
    x = x - x.mean()
    fitted = float(x @ y / (x @ x))
    rest = y - y.mean() - fitted * x
    return fitted, 2.306 * float(np.sqrt(rest @ rest / (blocks - 2) / (x @ x)))  # t of 8


def last_step(file: Path) -> int:
    """The step of the last whole row of `metrics.csv`."""
    if not file.exists():
        return 0
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 4000))
        lines = stream.read().split(b"\n")[:-1]
    step = lines[-1].split(b",")[0]
    return int(step) if step.isdigit() else 0


def watch(steps: int, seconds: float, folder: Path) -> np.ndarray:
    """Rows of (time, step, resident KiB, open files), one a second."""
    words = [*TINY, f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "hydra.run.dir=run"]
    command = [sys.executable, "-m", "pnp.cli.train", *words]
    rows, began = [], time.monotonic()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env=environment() | {"OMP_NUM_THREADS": "1"},
        )
        proc = Path(f"/proc/{process.pid}")
        while process.poll() is None and time.monotonic() - began < seconds:
            time.sleep(1)
            if step := last_step(folder / "run" / "metrics.csv"):
                pages = int((proc / "statm").read_text().split()[1])
                files = len(list((proc / "fd").iterdir()))
                rows.append((time.monotonic() - began, step, pages * 4, files))
                progress(f"step {step:,} of {steps:,}")
        process.terminate()
        process.wait()
    progress("")
    if len(rows) < 25:
        raise RuntimeError((folder / "log.txt").read_text())
    return np.array(rows, float)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=15, help="at most (default 15)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = watch(given.steps, 60 * given.minutes, Path(folder))
    rows = rows[len(rows) // 5 :]
    seconds, step, memory, files = rows.T
    pace = np.diff(step) / np.diff(seconds)
    print(f"{machine(1, 'lightning', 'wandb')}; steps {step[0]:,.0f} to {step[-1]:,.0f}\n")
    print("| | mean | slope per 1,000 steps (95 %) |\n|---|---|---|")
    for name, x, y in (
        ("resident memory, MiB", step, memory / 1024),
        ("open files", step, files),
        ("steps per second", step[1:], pace),
    ):
        fitted, half = slope(x, y)
        low, high = 1000 * (fitted - half), 1000 * (fitted + half)
        print(f"| {name} | {y.mean():.1f} | {1000 * fitted:+.2f} ({low:+.2f} – {high:+.2f}) |")
    print("\nOne process; step time is that of a shared machine.")


if __name__ == "__main__":
    main()
