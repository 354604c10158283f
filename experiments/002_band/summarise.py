"""Mean and 95 % t-interval over seeds of every representation's band, from metrics.json files.

python experiments/002_band/summarise.py runs/band   # prints tables, writes results.csv beside it
"""

import csv
import json
import sys
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t

SEEDS = (0, 1, 2)
OBJECTIVES = ("full", "no_repulsion")
OWNERS = ("teacher", "student", "pixels", "random")


def interval(values: list[float], digits: int = 3) -> str:
    """`mean ± half-width` of the 95 % t-interval."""
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


def read(folder: Path, data: str, objective: str) -> list[dict[str, float]]:
    """The metrics of every seed."""
    files = [folder / f"{data}_{objective}_s{seed}" / "metrics.json" for seed in SEEDS]
    return [json.loads(file.read_text()) for file in files]


def rows(
    folder: Path, data: str, columns: dict[str, str]
) -> list[tuple[str, str, list[list[float]]]]:
    """(owner, objective, values per column per seed); references come from the runs of `full`."""
    found = []
    for objective in OBJECTIVES:
        runs = read(folder, data, objective)
        for owner in OWNERS:
            if owner in ("pixels", "random") and objective != "full":
                continue
            values = []
            for pattern in columns.values():
                keys = [
                    pattern.format(owner),
                    "reference/{}/{}".format(owner, pattern.split("/")[1]),
                ]
                key = next((k for k in keys if k in runs[0]), None)
                values.append([] if key is None else [run[key] for run in runs])
            found.append((owner, objective if owner in ("teacher", "student") else "–", values))
    return found


def table(folder: Path, data: str, columns: dict[str, str], out: list[list[object]]) -> None:
    """Print one markdown table, and add every single value to `out`."""
    print(f"| features of | objective | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for owner, objective, values in rows(folder, data, columns):
        cells = [interval(v) if v else "" for v in values]
        print(f"| {owner} | {objective} | {' | '.join(cells)} |")
        for column, value in zip(columns, values, strict=True):
            out += [
                [data, owner, objective, column, s, v] for s, v in zip(SEEDS, value, strict=False)
            ]
    full, without = (read(folder, data, objective) for objective in OBJECTIVES)
    for owner in ("teacher", "student"):
        cells = []
        for pattern in columns.values():
            key = pattern.format(owner)
            pairs = (
                [b[key] - a[key] for a, b in zip(full, without, strict=True)]
                if key in full[0]
                else []
            )
            cells.append(interval(pairs) if pairs else "")
        print(f"| {owner} | no_repulsion − full, paired | {' | '.join(cells)} |")
    print()


def main() -> None:
    """Print both tables and write results.csv."""
    folder = Path(sys.argv[1])
    out: list[list[object]] = []
    lobed = "band/lobed/{}/"
    table(
        folder,
        "ambiguous",
        {
            "linear probe": "test/linear/{}",
            "20-NN": "test/knn/{}",
            "band, certified": lobed + "width",
            "plug-in": lobed + "plugin",
            "oracle": lobed + "oracle/width",
            "excess": lobed + "oracle/excess",
            "true FP": lobed + "err/fp_joint_eta",
            "true FN": lobed + "err/fn_joint_eta",
        },
        out,
    )
    coin = "band/top_or_coin/{}/"
    table(
        folder,
        "fmnist",
        {
            "linear probe": "test/linear/{}",
            "20-NN": "test/knn/{}",
            "mean band of all concepts, certified": "band/mean/{}/width",
            "plug-in": "band/mean/{}/plugin",
            "coin-flip concept, certified": coin + "width",
            "its oracle": coin + "oracle/width",
            "its excess": coin + "oracle/excess",
        },
        out,
    )
    with (Path(__file__).parent / "results.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["data", "features", "objective", "measure", "seed", "value"])
        writer.writerows(out)


if __name__ == "__main__":
    main()
