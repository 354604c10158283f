"""P¬P's keys, one at a time: the table of validation accuracies, own.csv and own.svg.

python experiments/003_rivals/own.py [runs/rivals_own]
"""

import csv
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from matplotlib.figure import Figure

HERE = Path(__file__).parent
METRICS = {"20-NN": "validation/knn/student", "linear": "validation/linear/student"}


def at(config: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def read(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of each swept key: its value and the metrics, in order of the value."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(root.glob("*/*/metrics.json")):
        key = file.parts[-3]
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        metrics = json.loads(file.read_text())
        row = {name: metrics[metric] for name, metric in METRICS.items()}
        found.setdefault(key, []).append({"value": at(config, key), "config": config, **row})
    return {key: sorted(rows, key=lambda row: row["value"]) for key, rows in found.items()}


def main() -> None:
    """Print the table, write the values and draw them."""
    found = read(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/rivals_own"))
    seeds = found.pop("seed")
    low, middle, high = (f([row["20-NN"] for row in seeds]) for f in (min, mean, max))
    every = [row["20-NN"] for changed in [seeds, *found.values()] for row in changed]
    bottom, top = min(every) - 0.001, max(every) + 0.001
    height = -(-len(found) // 4)
    figure = Figure(figsize=(8.0, 1.7 * height), layout="constrained")
    axes = figure.subplots(height, 4, squeeze=False).flatten()
    for axis in axes[len(found) :]:
        axis.axis("off")
    print("| key | value | 20-NN, validation | linear, validation |\n|---|---|---|---|")
    rows = [("seed", row["value"], row["20-NN"], row["linear"]) for row in seeds]
    for axis, (key, changed) in zip(axes, found.items(), strict=False):
        # The recipe itself belongs into every panel: the run of seed 0.
        recipe = {**seeds[0], "value": at(seeds[0]["config"], key)}
        points = sorted([*changed, recipe], key=lambda row: row["value"])
        names = [str(row["value"]) for row in points]
        axis.axhspan(low, high, color="#0a66c2", alpha=0.15, lw=0)
        axis.plot(names, [row["20-NN"] for row in points], "o-", color="#444444", ms=3, lw=1)
        axis.plot([str(recipe["value"])], [recipe["20-NN"]], "o", color="#0a66c2", ms=6)
        axis.set_title(key.removeprefix("objective."), fontsize=8)
        axis.set_ylim(bottom, top)
        rows += [(key, row["value"], row["20-NN"], row["linear"]) for row in changed]
    figure.supylabel("20-NN accuracy, validation", fontsize=8)
    figure.savefig(HERE / "own.svg", metadata={"Date": None})
    for key, value, knn, linear in rows:
        print(f"| {key} | {value} | {knn:.4f} | {linear:.4f} |")
    print(f"\nrecipe, three seeds: mean {middle:.4f}, from {low:.4f} to {high:.4f}")
    with (HERE / "own.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["key", "value", "knn", "linear"], *rows])


if __name__ == "__main__":
    main()
