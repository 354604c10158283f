"""What tuning found: validation accuracy of every run, the winners in bold, and tuning_DATA.csv.

python experiments/003_rivals/choose.py fashion_mnist [runs/rivals_tune]
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
# Per method the key that was tuned beside the learning rate.
KEYS = {
    "pnp": "method.momentum",
    "dino": "method.momentum",
    "byol": "method.momentum",
    "simsiam": "optim.weight_decay",
    "simclr": "objective.temperature",
    "vicreg": "objective.covariance",
    "barlow": "objective.redundancy",
    "lejepa": "objective.weight",
}


def value(config: Any, key: str) -> float:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def main() -> None:
    """Print and write the table."""
    data = sys.argv[1]
    root = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/rivals_tune") / data
    rows = []
    for method, key in KEYS.items():
        for file in sorted((root / method).glob("*/metrics.json")):
            config = yaml.safe_load((file.parent / "config.yaml").read_text())
            found = json.loads(file.read_text())
            rows.append(
                {
                    "method": method,
                    "lr": value(config, "optim.lr"),
                    "key": key,
                    "value": value(config, key),
                    "knn": round(found["validation/knn/student"], 4),
                    "linear": round(found["validation/linear/student"], 4),
                }
            )
    with (HERE / f"tuning_{data}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(
        "| method | lr | key | value | 20-NN, validation | linear, validation |\n"
        "|---|---|---|---|---|---|"
    )
    best = {
        m: max((r for r in rows if r["method"] == m), key=lambda r: r["knn"], default=None)
        for m in KEYS
    }
    for row in rows:
        mark = "**" if row is best[row["method"]] else ""
        cells = [
            f"{mark}{row['method']}{mark}",
            *(str(row[k]) for k in ("lr", "key", "value", "knn", "linear")),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
