"""Tables of results.csv: width of the band, paired differences, random labels of equal worth."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t


def interval(values: pd.Series) -> str:
    """Mean ± half of the 95 % t-interval."""
    n = len(values)
    half = t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5
    return f"{values.mean():.3f} ± {half:.3f}"


def main() -> None:
    """Print one table for each data set."""
    table = pd.read_csv(Path(__file__).parent / "results.csv")
    for data, rows in table.groupby("data"):
        wide = rows.pivot_table(index="labels", columns=["arm", "seed"], values="width")
        random, label = wide["random"], wide["label"]
        # The mean curve of random labels, made to fall, read at the width that chosen labels reach.
        falling, sizes = random.mean(axis=1).cummin().to_numpy(), np.log(random.index.to_numpy())
        print(
            f"\n{data}\n\n| labels | random | label | paired difference | as many random labels |"
        )
        print("|---|---|---|---|---|")
        for size in wide.index:
            width = label.loc[size].mean()
            worth = np.exp(np.interp(-width, -falling, sizes))
            word = f"over {wide.index[-1]:,}" if width < falling[-1] else f"{worth:,.0f}"
            cells = interval(random.loc[size]), interval(label.loc[size])
            print(f"| {size:,} | {cells[0]} | {cells[1]} | "
                  f"{interval(label.loc[size] - random.loc[size])} | {word} |")  # fmt: skip
        errors = rows[["fp", "fn"]].max(axis=1)
        print(f"\nlargest error rate on test: {errors.max():.4f}")


if __name__ == "__main__":
    main()
