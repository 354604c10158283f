"""The ledger: claims with rules fixed beforehand, decided by the rows of csv files.

    ledger.py                       verdicts, README.md, figures, sha256
    ledger.py run C3 quick          the runs that are missing, then the verdict
    ledger.py run C3 quick --show   the commands only
    ledger.py convert FILE          finals of 004_contest into C5.csv

`run` writes below runs/claims and compares with the committed verdict; --record adds to C3.csv.
"""

import argparse
from pathlib import Path

import evidence
import pages


def main() -> None:
    """Recompute, run or convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="verdicts", choices=("verdicts", "run", "convert")
    )
    parser.add_argument("name", nargs="?", default="", help="claim, or file to convert")
    parser.add_argument("scale", nargs="?", default="quick", choices=evidence.SCALES)
    add = parser.add_argument
    add("--cifar", default="CIFAR10_JPEG", help="CIFAR-10 as train/CLASS/*.jpg, test/CLASS/*.jpg")
    add("--record", action="store_true", help="add the rows to the ledger itself")
    add("--show", action="store_true", help="print the commands, run nothing")
    add("--budget", type=float, default=1e9, help="seconds; no run is started after them")
    given = parser.parse_args()
    if given.what == "convert":
        evidence.convert(Path(given.name))
    if given.what == "run":
        paths = {"cifar": given.cifar}
        if given.show:
            for job in evidence.jobs(given.name, given.scale, paths):
                print(
                    f"pnp-train {' '.join(job['words'])}", f"# start: {job['start'] or 'as drawn'}"
                )
            return
        here = evidence.HERE
        folder = here if given.record else here.parents[1] / "runs" / "claims"
        left = evidence.run_missing(given.name, given.scale, folder, paths, given.budget)
        print(pages.compare(given.name, given.scale, folder, left))
        if not given.record:
            return
    pages.write()


if __name__ == "__main__":
    main()
