"""Seconds to 90 % 10-NN on CIFAR-10: run the recipe with n seeds, one line of records.csv each.

A line that is there (same source, machine, overrides, seed) is not run again. The table says what
the seeds amount to; the rules are in README.md.

    python experiments/speedrun/run.py [--root CIFAR10] [--runs 5]      # a record
    python experiments/speedrun/run.py --validation optim.lr=0.003      # to choose
"""

import argparse
import csv
import hashlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIELDS = (
    "on", "seed", "knn10", "seconds", "source", "commit", "machine", "torch", "date", "overrides",
)  # fmt: skip
# The contest's choice for P¬P (experiments/LOG.md, 2026-11-27); its length is a guess, not tuned.
RECIPE = (
    "model=resnet18",
    "objective.kernel=logsumexp",
    "objective.temperature=0.2",
    "data.batch_size=512",
    "optim.lr=0.002",
    "trainer.max_epochs=150",
)


def source() -> str:
    """Hash of every file that decides what is computed."""
    sha = hashlib.sha256()
    files = [*ROOT.glob("pnp/**/*.py"), *ROOT.glob("conf/**/*.yaml"), Path(__file__)]
    for file in sorted(files):
        sha.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()[:12]


def words(on: str, seed: int, root: str | None, overrides: Iterable[str]) -> list[str]:
    """Overrides of pnp-train: the rules of README.md last, so that no recipe changes them."""
    judged = "validation" if on == "validation" else "test"
    trained = "train" if judged == "validation" else "train,validation"
    return [
        "data=cifar10",
        *([f"data.root={root}"] if root else []),
        *RECIPE,
        "~callbacks.monitor",
        "~callbacks.checkpoints",
        "logger=csv",
        *overrides,
        f"seed={seed}",
        f"data.pretrain_on=[{trained}]",
        f"evaluation.test={str(judged == 'test').lower()}",
        "evaluation.k=10",
        "evaluation.temperature=1000000.0",  # every neighbour counts alike
        "evaluation.references=[]",
        "evaluation.fractions=[]",
        "evaluation.band=null",
        "evaluation.l2=[0.001]",
    ]


def run(on: str, seed: int, given: argparse.Namespace) -> dict[str, object]:
    """Train, judge the student of the last step, and say what the numbers belong to.

    Raises:
        SystemExit: pnp-train failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "run"
        options = [*words(on, seed, given.root, given.overrides), f"run_dir={where}"]
        command = [sys.executable, "-m", "pnp.cli.train", *options]
        if done := subprocess.run(command, check=False).returncode:
            raise SystemExit(f"seed {seed}: pnp-train ended with exit status {done}")
        metrics = json.loads((where / "metrics.json").read_text("utf-8"))
        facts = json.loads((where / "run.json").read_text("utf-8"))
    return {
        "on": on,
        "seed": seed,
        "knn10": metrics[f"{on}/knn/student"],
        "seconds": facts["training_seconds"],
        "source": source(),
        **{key: facts[key] for key in ("commit", "machine", "torch")},
        "date": date.today().isoformat(),
        "overrides": " ".join(given.overrides),
    }


def margin(values: Sequence[float]) -> float:
    """Half the 95 % t-interval of the mean; infinite for one value.

    >>> round(margin([0.89, 0.90, 0.91]), 4)
    0.0248
    """
    from scipy.stats import t

    if len(values) < 2:
        return math.inf
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def table(rows: Iterable[dict[str, str]]) -> list[str]:
    """Markdown: a line per recipe and machine, with the mean and its margin over the seeds."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("on", "overrides", "machine", "source"))
        groups.setdefault(key, []).append(row)
    lines = ["| on | overrides | machine | source | n | 10-NN | s | |", "|---" * 8 + "|"]
    for key, group in groups.items():
        accuracy, seconds = ([float(r[name]) for r in group] for name in ("knn10", "seconds"))
        mean, off = statistics.mean(accuracy), margin(accuracy)
        counts = key[0] == "test" and len(group) >= 5 and mean - off >= 0.9
        numbers = f"{mean:.4f} ± {off:.4f} | {statistics.mean(seconds):.0f} ± {margin(seconds):.0f}"
        lines.append(f"| {' | '.join(key)} | {len(group)} | {numbers} | {'record' * counts} |")
    return lines


def main() -> None:
    """Run the seeds that are missing and print the table."""
    add = (parser := argparse.ArgumentParser(description=__doc__)).add_argument
    add("--root", help="folder of CIFAR-10 (default: where pnp-train looks, else downloaded)")
    add("--runs", type=int, default=5, help="seeds (default 5)")
    add("--validation", action="store_true", help="choose: judge on 5,000 images of train")
    add("--records", type=Path, default=HERE / "records.csv", help="default records.csv here")
    add("overrides", nargs="*", help="of pnp-train, over the recipe")
    given = parser.parse_args()
    from pnp.runs.directory import provenance

    on = "validation" if given.validation else "test"
    rows: list[dict[str, str]] = []
    if given.records.exists():
        rows = list(csv.DictReader(given.records.open(newline="", encoding="utf-8")))
    same = [on, source(), provenance()["machine"], " ".join(given.overrides)]
    names = ("on", "source", "machine", "overrides")
    there = {row["seed"] for row in rows if [row[name] for name in names] == same}
    for seed in range(given.runs):
        if str(seed) in there:
            continue
        row = {key: str(value) for key, value in run(on, seed, given).items()}
        new = not given.records.exists()
        with given.records.open("a", newline="", encoding="utf-8") as stream:
            lines = [list(FIELDS)] * new + [[row[name] for name in FIELDS]]
            csv.writer(stream, lineterminator="\n").writerows(lines)
        rows.append(row)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
