"""Time and peak memory of one training step against batch, embedding width, views, model width.

Each point is a process of its own, on the default small network and objective with the batch taken
whole. A series ends before its time when a step takes longer than the limit, or when the next one
would not fit into memory. The exponent b of cost ∝ sizeᵇ is fitted to all points of a series and to
its last three: at small sizes a step costs what does not depend on the size. Expected, from what
is computed:

- batch N: networks and views N, repulsion N² of little weight: time 1 to 2, memory 1 (its N × N
  cosines are taken in chunks);
- embedding width D: projector and Gram matrices D: time 0 to 1, memory 0 to 1; the covariance is
  taken on the smaller of its two sides, so that D² ends where D passes N;
- views V: networks V, repulsion V²: time 1 to 2, memory 1;
- model width w: convolutions w², everything elementwise w: time 1 to 2, memory 1 (weights w²).

    python benchmarks/growth.py [--quick] [--only batch,views]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from micro_batches import one_step
from timing import exponent, fresh, machine, progress, tell

BASE = {"batch": 256, "dims": 128, "views": 2, "width": 24}
SERIES = {
    "batch": [2**i for i in range(6, 14)],
    "dims": [2**i for i in range(6, 14)],
    "views": [2, 3, 4, 6, 8],
    "width": [8, 16, 24, 32, 48, 64],
}
QUICK = {"batch": [16, 32, 64], "dims": [16, 64], "views": [2, 3], "width": [4, 8]}
TITLES = {"batch": "batch", "dims": "embedding width", "views": "views", "width": "model width"}
# (time, memory) as sizes grow: lowest and highest exponent.
EXPECTED = {
    "batch": ("1 – 2", "1"),
    "dims": ("0 – 1", "0 – 1"),
    "views": ("1 – 2", "1"),
    "width": ("1 – 2", "1 – 2"),
}
Point = tuple[int, float, float]  # size, seconds, MiB


def free_memory() -> float:
    """MiB that can still be had (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable")) / 1024


def too_much(points: Sequence[Point], size: int, limit: float, free: float) -> str | None:
    """Why the next point of a series is not measured; None if it is.

    Args:
        points: those before it.
        size: of the next one.
        limit: seconds that a step may take.
        free: MiB of memory.
    """
    if not points:
        return None
    last, seconds, mib = points[-1]
    if seconds > limit:
        return f"a step took {seconds:.0f} s"
    if 1.5 * mib * size / last > free:
        return f"{size} may not fit into memory"
    return None


def measure(name: str, sizes: Sequence[int], given: Any) -> tuple[list[Point], str | None]:
    """The points of a series, and why it ended early."""
    points: list[Point] = []
    for size in sizes:
        stop = too_much(points, size, given.limit, free_memory())
        if stop:
            return points, stop
        base = {**BASE, "batch": 32} if given.quick else BASE
        progress(f"{name} {size}")
        point = ("--threads", given.threads, "--point", *{**base, name: size}.values())
        try:
            patience = 60 + 10 * given.limit
            found = [fresh(__file__, *point, seconds=patience) for _ in range(given.repeat)]
        except RuntimeError as error:  # killed for memory, or far too slow
            return points, f"{size} failed: {error}"
        best = min(found, key=lambda run: run["seconds"])
        points.append((size, best["seconds"], max(run["mib"] for run in found)))
    progress("")
    return points, None


def fits(points: Sequence[Point]) -> list[str]:
    """Exponents of time and memory, over all points and over the last three."""
    cells = []
    for column in (1, 2):
        for part in (points, points[-3:]):
            good = [p for p in part if p[column] > 0]
            enough = len(good) > 1
            cells.append(
                f"{exponent([p[0] for p in good], [p[column] for p in good]):.2f}" if enough else ""
            )
    return cells


def plot(found: dict[str, list[Point]], file: Path) -> None:
    """Time and memory per series, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "pnp"  # the same numbers give the same file
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, grid = plt.subplots(2, len(found), figsize=(3 * len(found), 5), squeeze=False)
    for place, (name, points) in enumerate(found.items()):
        sizes = [p[0] for p in points]
        for row, unit in ((0, "seconds"), (1, "MiB")):
            axes, values = grid[row][place], [p[row + 1] for p in points]
            axes.loglog(sizes, values, "o-", label="measured")
            straight = [values[-1] * size / sizes[-1] for size in sizes]
            axes.loglog(sizes, straight, ":", color="grey", label="exponent 1")
            axes.set_xlabel(TITLES[name])
            axes.set_ylabel(unit)
            axes.set_xticks(sizes, [str(size) for size in sizes], rotation=60, minor=False)
            axes.xaxis.set_minor_locator(NullLocator())
    grid[0][0].legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Print the tables and write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a few small points, to see that it works")
    add("--only", default=",".join(SERIES), help="series, split by commas (default all)")
    add("--repeat", type=int, default=2, help="processes per point (default 2): least time")
    add("--limit", type=float, default=20.0, help="seconds a step may take (default 20)")
    add("--threads", type=int, default=1, help="of torch (default 1)")
    add("--plot", type=Path, default=Path(__file__).with_suffix(".svg"), help="SVG to write")
    add("--point", nargs=4, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        import torch

        torch.set_num_threads(given.threads)
        batch, dims, views, width = given.point
        tell(one_step(batch, None, width=width, dims=dims, views=views))
        return
    print(f"{machine(given.threads)}\n")
    base = ", ".join(f"{TITLES[name]} {value}" for name, value in BASE.items())
    print(f"One step at {base} but for what varies; {given.repeat} processes per point.\n")
    series, found = QUICK if given.quick else SERIES, {}
    for name in given.only.split(","):
        points, stop = measure(name, series[name], given)
        found[name] = points
        print(f"| {TITLES[name]} | seconds | extra peak MiB |\n|---|---|---|")
        for size, seconds, mib in points:
            print(f"| {size} | {seconds:.3f} | {mib:.0f} |")
        print(f"\nended early: {stop}\n" if stop else "", flush=True)
    print("| exponent of | time: all | last 3 | expected | memory: all | last 3 | expected |")
    print("|---|---|---|---|---|---|---|")
    for name, points in found.items():
        time_all, time_last, memory_all, memory_last = fits(points)
        time, memory = EXPECTED[name]
        print(
            f"| {TITLES[name]} | {time_all} | {time_last} | {time} | "
            f"{memory_all} | {memory_last} | {memory} |"
        )
    plot(found, given.plot)
    print(f"\nplot: {given.plot}")


if __name__ == "__main__":
    main()
