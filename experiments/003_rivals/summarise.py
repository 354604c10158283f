"""Mean and 95 % t-interval over seeds of every method, and paired differences from P¬P.

python experiments/003_rivals/summarise.py fashion_mnist [runs/rivals]   # and results_DATA.csv
"""

import csv
import json
import sys
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t

HERE = Path(__file__).parent
METHODS = ("pnp", "dino", "byol", "simsiam", "simclr", "vicreg", "barlow", "lejepa")
COLUMNS = {
    "20-NN": "test/knn/{}",
    "linear probe": "test/linear/{}",
    "between-class cosine": "test/features/{}/between_cosine",
    "effective rank": "test/features/{}/effective_rank",
    "softmax entropy": "test/features/{}/softmax_entropy",
    "mean band, certified": "band/mean/{}/width",
    "plug-in": "band/mean/{}/plugin",
}


def interval(values: list[float]) -> str:
    """`mean ± half-width` of the 95 % t-interval; a single value as it is."""
    digits = 1 if max(map(abs, values)) > 2 else 3
    if len(values) == 1:
        return f"{values[0]:.{digits}f} (one seed)"
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


def main() -> None:
    """Print the tables and write every value."""
    data = sys.argv[1]
    root = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/rivals")
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    rows = []
    for method in METHODS:
        for file in sorted(root.glob(f"{data}_{method}_s*/metrics.json")):
            metrics, seed = json.loads(file.read_text()), file.parent.name.rsplit("_s")[-1]
            for network in ("student", "teacher"):
                for column, pattern in COLUMNS.items():
                    value = metrics.get(pattern.format(network))
                    if value is not None:
                        by_seed = found.setdefault((method, network), {}).setdefault(column, {})
                        by_seed[seed] = value
                        rows.append([data, method, network, column, seed, value])
    with (HERE / f"results_{data}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["data", "method", "features of", "column", "seed", "value"], *rows])
    head = f"| method | features of | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}"
    print(head)
    for (method, network), values in found.items():
        cells = [interval(list(values[column].values())) for column in COLUMNS]
        print(f"| {method} | {network} | {' | '.join(cells)} |")
    print(f"\nPaired differences from pnp, student\n\n{head}")
    for (method, network), values in found.items():
        if method == "pnp" or network != "student":
            continue
        cells = []
        for column in COLUMNS:
            ours = found["pnp", "student"][column]
            both = [v - ours[seed] for seed, v in values[column].items() if seed in ours]
            cells.append(interval(both) if both else "")
        print(f"| {method} | student | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
