"""Verdicts of results.csv by the rule in README.md."""

from pathlib import Path

import pandas as pd
from scipy.stats import t


def interval(values: pd.Series) -> tuple[float, float]:
    """Mean and half of the 95 % t-interval."""
    n = len(values)
    return values.mean(), t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5


def main() -> None:
    """Print a table of networks, and paired differences from P¬P."""
    table = pd.read_csv(Path(__file__).parent / "results.csv")
    table["lift"] = table.band_precision / table.dissent
    print(f"broken: {(table.exceeded > 0).sum()} of {len(table)} certificates\n")
    print("| network | width | band recall | lift | above | AUC, ten | width, pairs | AUC, pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for name, rows in table.groupby("network", sort=False):
        pair = rows.concept.str.contains("-")
        ten, pairs = rows[~pair], rows[pair]
        auc, pair_auc = interval(ten.auc_dissent), interval(pairs.auc_dissent)
        print(
            f"| {name} | {ten.width.mean():.3f} | {ten.band_recall.mean():.2f} | "
            f"{ten.lift.mean():.2f} | {(ten.lift > 1).sum()} of {len(ten)} | "
            f"{auc[0]:.3f} ± {auc[1]:.3f} | {pairs.width.mean():.3f} | "
            f"{pair_auc[0]:.3f} ± {pair_auc[1]:.3f} |"
        )
    wide = table.pivot_table(index="concept", columns="network", values="auc_dissent")
    print("\n| AUC of P¬P's student less that of | 14 concepts |\n|---|---|")
    for name in wide.columns.drop("pnp student"):
        mean, half = interval(pd.Series(wide["pnp student"] - wide[name]))
        print(f"| {name} | {mean:+.4f} ± {half:.4f} |")


if __name__ == "__main__":
    main()
