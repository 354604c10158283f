"""Images per second of every method on the one loop, and what each costs beside P¬P.

Each method is a process of its own (`arms.py`) with the default network, in turns of one epoch.

    python benchmarks/methods.py [--rounds 3] [--images 2560]
"""

import argparse
import statistics

from arms import SCRIPT, Spec
from step import has_bf16
from timing import arms_in_turns, machine, ratio

METHODS = ("pnp", "dino", "byol", "simsiam", "simclr", "vicreg", "barlow", "lejepa")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="timed epochs of each method (default 3)")
    add("--images", type=int, default=2560, help="per epoch (default 2560)")
    add("--batch", type=int, default=256, help="images per step (default 256)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    add("--threads", type=int, help="of torch in each process (default: all cores)")
    given = parser.parse_args()
    from pnp.cpu import cores

    base = {
        "rounds": given.rounds,
        "batch": given.batch,
        "images": given.images,
        "device": given.device,
        "threads": given.threads or cores(),
        "precision": "bf16-mixed" if has_bf16(given.device) else "32-true",
    }
    print(f"{machine(base['threads'], 'lightning', 'lightly')}\n")
    print(
        f"small_cnn, batch {given.batch}, {given.images:,} images of 32×32 RGB, "
        f"{base['precision']}, {given.device}; {given.rounds} rounds: median (min – max)\n",
        flush=True,
    )
    calls = {name: Spec("ours", method=name, **base).arguments() for name in METHODS}
    found, failed = arms_in_turns(SCRIPT, calls, given.rounds)
    speeds = {name: [turn["speed"] for turn in turns] for name, turns in found.items()}
    print("| method | images/s | speed beside pnp |\n|---|---|---|")
    for name, speed in speeds.items():
        beside = ratio(speed, speeds["pnp"], 2) if "pnp" in speeds else ""
        print(f"| {name} | {statistics.median(speed):,.0f} | {beside} |")
    for name, why in failed.items():
        print(f"\n{name} did not run:\n{why}")


if __name__ == "__main__":
    main()
