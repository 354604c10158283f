"""Closed-form repulsion and covariance beside autograd of the plain formula: time and peak memory.

Time is forward + backward on one CPU thread, both forms in turns within one process. Memory is the
peak of the resident set above its level before the call, each form in a fresh process (Linux).

    python benchmarks/objectives.py [--rounds 7]
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from memory import extra_peak
from torch import Tensor
from torch.nn.functional import normalize

from pnp import losses

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import naive

# term, N, D: rows of one view
CASES = [
    ("repulsion", 512, 128),
    ("repulsion", 4096, 128),
    ("repulsion", 512, 2048),
    ("repulsion", 2048, 2048),
    ("covariance", 4096, 128),
    ("covariance", 512, 2048),
    ("covariance", 2048, 2048),
    ("covariance", 512, 8192),
]
FORMS = {"closed": losses, "naive": naive}


def step(term: str, form: str, n: int, d: int) -> Callable[[], object]:
    """Forward and backward of one term on random unit vectors (1, n, d)."""
    draws = torch.Generator().manual_seed(0)
    z = normalize(torch.randn(1, n, d, generator=draws), dim=-1).requires_grad_()
    function: Callable[[Tensor], Tensor] = getattr(FORMS[form], term)

    def run() -> Tensor | None:
        z.grad = None
        function(z).backward()
        return z.grad

    return run


def peak(term: str, form: str, n: int, d: int) -> float:
    """Extra peak memory in MiB of one step."""
    run = step(term, form, n, d)
    step(term, form, 8, 4)()  # what is loaded lazily is loaded now
    return extra_peak(run)


def measured(term: str, form: str, n: int, d: int) -> float:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", term, form, str(n), str(d)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each form (default 7)")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        term, form, n, d = options.peak
        print(json.dumps(peak(term, form, int(n), int(d))))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread, {options.rounds} rounds\n")
    print("| term | N, D | naive ms | naive MiB | faster (min – max) | memory |")
    print("|---|---|---|---|---|---|")
    for term, n, d in CASES:
        runs = {form: step(term, form, n, d) for form in FORMS}
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        for turn in range(options.rounds + 1):
            for form, run in runs.items():
                print(f"\r{term} {n} {d}: round {turn}   ", end="", file=sys.stderr)
                start = time.perf_counter()
                run()
                if turn:  # the first turn warms up
                    times[form].append(time.perf_counter() - start)
        ratios = sorted(a / b for a, b in zip(times["naive"], times["closed"], strict=True))
        memory = {form: measured(term, form, n, d) for form in FORMS}
        plain = 1000 * statistics.median(times["naive"])
        print(
            f"| {term} | {n}, {d} | {plain:.1f} | {memory['naive']:.0f} | "
            f"{statistics.median(ratios):.1f}× ({ratios[0]:.1f} – {ratios[-1]:.1f}) | "
            f"{memory['closed'] / memory['naive']:.2f}× |",
            flush=True,
        )
    huge = measured("repulsion", "closed", 32_768, 128)
    print(f"\nrepulsion at N = 32,768, D = 128: {huge:.0f} MiB of extra memory")


if __name__ == "__main__":
    main()
