"""Several runs at once on the same cores: threads of OpenMP that sleep while they wait, or spin.

Each arm is `pnp-train`'s step (the plain loop of `arms.py`) with a thread per core. Arms differ in
how long a thread that waits for the others looks again and again before it sleeps: as pnp has it
(`pnp.cpu.sleep_at_barriers`), or as libgomp does by itself. A turn lasts some seconds, with one
process, then two, then four at once, and counts images in all. Arms take turns within a round,
ratios are of one round each. Runs that share the cores without loss train as many images in all as
one run alone, which is what they would do one after the other.

    python benchmarks/threads.py [--rounds 5] [--seconds 6] [--at-once 1 2 4] [--spins 1000]
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from timing import Arm, here, machine, order, progress, ratio, tell, wait

IMAGES = 256  # of an epoch, which is one step
DEFAULT, OWN = "libgomp's own", "pnp's"
SPINS = {DEFAULT: "300000", OWN: ""}  # the number that libgomp takes where no variable is set


def train(spins: str, seconds: float) -> None:
    """Train for some seconds whenever there is a turn, and tell the images and the time."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)
    if spins:
        os.environ["GOMP_SPINCOUNT"] = spins
    from arms import Spec, plain_loop  # imports pnp, then torch

    from pnp.cpu import cores, keep_freed_memory

    keep_freed_memory()
    spec = Spec("bare", rounds=100_000, batch=IMAGES, images=IMAGES, threads=cores())
    _, epoch = plain_loop(spec)
    number = 0
    while True:
        wait()
        started, first = time.perf_counter(), number
        while (spent := time.perf_counter() - started) < seconds:
            epoch(number)
            number += 1
        tell({"images": (number - first) * IMAGES, "seconds": spent})


def total(arms: Sequence[Arm]) -> float:
    """Images per second of all processes together, each given a turn at the same time."""
    with ThreadPoolExecutor(len(arms)) as pool:
        turns = list(pool.map(Arm.turn, arms))
    return sum(turn["images"] / turn["seconds"] for turn in turns)


def table(speed: dict[tuple[str, int], list[float]]) -> list[str]:
    """Markdown: one arm and number of processes per row, ratios of the same round."""
    lines = [
        f"| waiting | runs at once | images/s in all | × alone | × {DEFAULT} |",
        "|---|---|---|---|---|",
    ]
    for (name, count), found in speed.items():
        alone = ratio(found, speed[name, min(n for _, n in speed)], 2)
        other = ratio(found, speed[DEFAULT, count], 2)
        middle = statistics.median(found)
        lines.append(f"| {name} | {count} | {middle:,.0f} | {alone} | {other} |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="counted turns of each (default 5)")
    add("--seconds", type=float, default=6, help="of a turn (default 6)")
    add("--at-once", type=int, nargs="+", default=[1, 2, 4], help="processes (default 1 2 4)")
    add("--spins", nargs="*", default=[], help="further arms: values of GOMP_SPINCOUNT")
    add("--train", metavar="SPINS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train is not None:
        train(given.train, given.seconds)
    from pnp.cpu import cores

    print(
        f"{machine(cores(), 'lightning')}; load {os.getloadavg()[0]:.1f}; {given.rounds} rounds\n"
    )
    spins = {**SPINS, **{f"{count} spins": count for count in given.spins}}
    turns = [(name, count) for count in given.at_once for name in spins]
    speed: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    script, seconds = here("threads.py"), str(given.seconds)
    arms = {
        name: [
            Arm(script, f"--train={value}", "--seconds", seconds) for _ in range(max(given.at_once))
        ]
        for name, value in spins.items()
    }
    try:
        for each in arms.values():
            total(each)  # warms up
        for number in range(given.rounds):
            for name, count in order(turns, number):
                progress(f"round {number + 1}/{given.rounds}: {name}, {count} at once")
                speed[name, count].append(total(arms[name][:count]))
    finally:
        for each in arms.values():
            for arm in each:
                arm.close()
        progress("")
    print("\n".join(table(speed)))


if __name__ == "__main__":
    main()
