"""What the benchmarks share: turns, ratios, fits, processes, and what a number belongs to."""

import atexit
import contextlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

MARK = "@result "  # begins the lines that a process of a benchmark means for its parent


def ratio(above: Sequence[float], below: Sequence[float], digits: int = 1) -> str:
    """Median and range of the ratios of one round each.

    >>> ratio([2, 6, 4], [1, 2, 4])
    '2.0× (1.0 – 3.0)'
    """
    found = sorted(a / b for a, b in zip(above, below, strict=True))
    low, middle, high = found[0], statistics.median(found), found[-1]
    return f"{middle:.{digits}f}× ({low:.{digits}f} – {high:.{digits}f})"


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The b of the power law y ≈ a · xᵇ, by least squares of the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0

    Raises:
        ValueError: fewer than 2 points, or one that is not above 0.
    """
    if len(x) < 2 or min(*x, *y) <= 0:
        raise ValueError(f"a power law needs 2 points above 0, got {list(x)} and {list(y)}")
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def order(names: Sequence[str], turn: int) -> list[str]:
    """Who goes when: each round begins with another one, so that nobody always follows the same.

    >>> order(["a", "b", "c"], 1)
    ['b', 'c', 'a']
    """
    start = turn % max(1, len(names))
    return [*names[start:], *names[:start]]


def in_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, title: str = ""
) -> dict[str, list[float]]:
    """Seconds of each, `rounds` times; a round before these warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        progress(f"{title}: round {turn}/{rounds}")
        for name in order(list(runs), turn):
            start = time.perf_counter()
            runs[name]()
            if turn:
                times[name].append(time.perf_counter() - start)
    progress("")
    return times


def progress(text: str) -> None:
    """Show what is going on, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text:<78}", end="" if text else "\r", file=sys.stderr, flush=True)


def machine(threads: int, *packages: str) -> str:
    """What the numbers belong to: machine, versions, date, commit.

    Args:
        threads: of each process that is timed.
        packages: whose versions matter beside torch's.
    """
    import torch

    from pnp.cpu import cores
    from pnp.runs.directory import commit

    able = torch.cpu.get_capabilities()
    bf16 = ", bf16 instructions" if able.get("avx512_bf16") or able.get("amx_bf16") else ""
    parts = [
        f"{able.get('cpu_name') or platform.machine()} "
        f"({torch.backends.cpu.get_cpu_capability()}{bf16}), {cores()} cores, "
        f"{threads} thread{'s' * (threads != 1)}"
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    versions = [f"{name} {version(name)}" for name in packages]
    parts.append(", ".join([f"torch {torch.__version__}", *versions]))
    parts.append(f"Python {platform.python_version()}")
    parts.append(f"{date.today().isoformat()}, commit {commit() or 'unknown'}")
    return " · ".join(parts)


@cache
def _bytecode() -> str:
    folder = tempfile.mkdtemp(prefix="pnp-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def environment() -> dict[str, str]:
    """This process's variables, but compiled modules are kept, as they are on a user's machine.

    Where PYTHONDONTWRITEBYTECODE is set, every process would spend seconds on compiling torch anew.
    """
    variables = dict(os.environ)
    if variables.pop("PYTHONDONTWRITEBYTECODE", ""):
        variables["PYTHONPYCACHEPREFIX"] = _bytecode()
    return variables


def fresh(script: str, *arguments: object, seconds: float | None = None) -> Any:
    """What a script prints by `tell`, run in a process of its own.

    Raises:
        RuntimeError: it failed or took longer than `seconds`; the last lines of its stderr.
    """
    command = [sys.executable, script, *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"longer than {seconds:.0f} s") from error
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise RuntimeError(done.stderr[-2000:] or f"exit status {done.returncode}")


def tell(result: object) -> None:
    """Hand a result to the parent process."""
    print(MARK + json.dumps(result), flush=True)


def wait() -> None:
    """Wait until the parent process gives this one its turn; exit when there is no parent."""
    if not sys.stdin.readline():
        raise SystemExit(0)


class Arm:
    """A process that stays alive, waits for its turn, and `tell`s a result for each turn it had.

    Args:
        script: that it runs.
        arguments: of the script.
        python: interpreter of another environment, which then finds this checkout's package.
    """

    def __init__(self, script: str, *arguments: str, python: str | None = None) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        there = {"PYTHONPATH": str(Path(__file__).parents[1])} if python else {}
        self.process = subprocess.Popen(
            [python or sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment() | there,
        )

    def turn(self) -> Any:
        """Give it one turn and wait for the result.

        Raises:
            RuntimeError: it ended instead; the last lines of its stderr.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its stderr says why
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        self.process.wait()
        self.errors.seek(0)
        raise RuntimeError(self.errors.read()[-2000:].strip())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def arms_in_turns(
    script: str,
    arms: Mapping[str, Sequence[str]],
    rounds: int,
    pythons: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Results of processes that take turns, `rounds` each; the first turn of each warms it up.

    Args:
        script: that every process runs.
        arms: arguments of the script by name.
        rounds: results wanted of each.
        pythons: interpreters of those arms that run in another environment.

    Returns:
        The results, and why the others failed.
    """
    alive, failed = {}, {}
    found: dict[str, list[Any]] = {name: [] for name in arms}
    try:
        for turn in range(rounds + 1):
            for name in order(list(arms), turn):
                if name in failed:
                    continue
                progress(f"round {turn}/{rounds}: {name}")
                if name not in alive:
                    alive[name] = Arm(script, *arms[name], python=(pythons or {}).get(name))
                try:
                    result = alive[name].turn()
                except RuntimeError as error:
                    failed[name] = str(error)
                    found.pop(name)
                    continue
                if turn:
                    found[name].append(result)
    finally:
        for arm in alive.values():
            arm.close()
        progress("")
    return found, failed


def here(name: str) -> str:
    """The path of a script beside this one."""
    return str(Path(__file__).parent / name)
