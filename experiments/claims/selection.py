"""Selection without labels, audited over runs that exist: the finals of 003, and the ledger's.

    python experiments/claims/selection.py

Rank correlation (Spearman, 95 % bootstrap interval over runs) of measures that need no labels with
what labels say of the same student; both turned so that more is better.
"""

from pathlib import Path

import pandas as pd

from pnp.report.selection import rank_agreement

ROOT = Path(__file__).parents[2]
SIGNS = {"softmax entropy": 1, "effective rank": 1, "RankMe": 1, "Wasserstein": -1,
         "alignment": -1, "uniformity": -1}  # fmt: skip
JUDGES = {"20-NN": 1, "linear": 1, "band": -1}


def finals(data: str) -> pd.DataFrame:
    """Students of 003_rivals on one data set: a row per run."""
    rows = pd.read_csv(ROOT / "experiments" / "003_rivals" / f"results_{data}.csv")
    rows = rows[(rows["features of"] == "student") & (rows["method"] != "untrained")]
    return rows.pivot_table(index=["method", "seed"], columns="column", values="value")


def ledger() -> pd.DataFrame:
    """Runs of the ledger that have probes: `ambiguous`, quick scale, 200 steps."""
    rows = pd.read_csv(ROOT / "experiments" / "claims" / "C5.csv")
    rows = rows[rows["scale"] == "quick"]
    words = {
        "f_student_softmax_entropy": "softmax entropy",
        "f_student_effective_rank": "effective rank", "f_student_rankme": "RankMe",
         "f_student_wasserstein": "Wasserstein",
        "z_student_alignment": "alignment", "f_student_uniformity": "uniformity",
        "knn_student": "20-NN", "linear_student": "linear", "band_student": "band",
    }  # fmt: skip
    return rows.rename(columns=words)


def main() -> None:
    """Print a line for each pair of measure and judge."""
    sets = {name: finals(name) for name in ("fashion_mnist", "cifar10")}
    if (ROOT / "experiments" / "claims" / "C5.csv").is_file():
        sets["ambiguous, quick"] = ledger()
    for name, table in sets.items():
        names = {str(c).split(",")[0]: c for c in table.columns}
        for measure, sign in SIGNS.items():
            for judge, judge_sign in JUDGES.items():
                x, y = names.get(measure), next((c for k, c in names.items() if judge in k), None)
                if x is None or y is None:
                    continue
                pair = table[[x, y]].dropna().to_numpy(float)
                rho, low, high = rank_agreement(sign * pair[:, 0], judge_sign * pair[:, 1])
                words = f"{name:17} {measure:15} {judge:7} n={len(pair)}"
                print(f"{words} {rho:+.2f} [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
