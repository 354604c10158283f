"""Seconds from a command to its help, and to the first optimizer step of the default training run.

Each run is a new process, timed from its start. A training run ends with its first optimizer step,
told by the line that pnp-train prints at the end of an epoch of one step; the data are all there
by then, the default network and every group are as they are by default but for the monitors, which
would look at the network before the line appears. Runs take turns; the first of each is not
counted, so that files are in the disk's cache and modules compiled.

    python benchmarks/startup.py [--rounds 5] [OVERRIDE ...]
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from timing import environment, machine, order, progress

TRAIN = [sys.executable, "-m", "pnp.cli.train"]
STEP = re.compile(r"\bstep 1/")


def help_seconds() -> float:
    """Seconds of `pnp-train --help`."""
    started = time.perf_counter()
    subprocess.run([*TRAIN, "--help"], stdout=subprocess.DEVNULL, check=True, env=environment())
    return time.perf_counter() - started


def first_step_seconds(overrides: Sequence[str]) -> float:
    """Seconds from the command to the end of its first optimizer step.

    Raises:
        RuntimeError: it ended before; what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *TRAIN,
            "trainer.max_steps=1",
            "~callbacks.monitor",
            "~callbacks.checkpoints",
            f"hydra.run.dir={folder}/run",
            *overrides,
        ]
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment(), "TMPDIR": folder},  # what it leaves when it is killed
            start_new_session=True,  # its helpers (W&B) end with it
        )
        assert process.stdout is not None
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if STEP.search(line):
                    return time.perf_counter() - started
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise RuntimeError("".join(said[-20:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each (default 5)")
    parser.add_argument("overrides", nargs="*", help="of pnp-train, for instance data=cifar10")
    given = parser.parse_args()
    from pnp.cpu import cores

    wandb, csv = given.overrides, ["logger=csv", *given.overrides]
    runs: dict[str, Callable[[], float]] = {
        "pnp-train --help": help_seconds,
        "first step, logger=csv": lambda: first_step_seconds(csv),
        "first step, W&B offline": lambda: first_step_seconds(wandb),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(given.rounds + 1):
        for name in order(list(runs), turn):
            progress(f"round {turn}/{given.rounds}: {name}")
            spent = runs[name]()
            if turn:
                seconds[name].append(spent)
    progress("")
    print(f"{machine(cores(), 'lightning', 'hydra-core', 'wandb')}; {given.rounds} rounds\n")
    print("| command to | least s | median s | most s |\n|---|---|---|---|")
    for name, spent in seconds.items():
        middle = statistics.median(spent)
        print(f"| {name} | {min(spent):.2f} | {middle:.2f} | {max(spent):.2f} |")


if __name__ == "__main__":
    main()
