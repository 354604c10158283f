"""Labels that `pnp-decide label` chooses against random ones: the band that they buy, 5 seeds.

    python experiments/006_labels/run.py RUN…

RUN is a run on Fashion-MNIST or CIFAR-10. Rows go to results.csv beside this file; (data, seed)
pairs that are there already are skipped.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp.band.inputs import Budgets
from pnp.decider.fit import fit
from pnp.decider.label import informative
from pnp.decider.parts import Part, Question
from pnp.evaluation.features import extract
from pnp.export.encoder import Encoder
from pnp.runs import directory, reopen

OUT = Path(__file__).parent / "results.csv"
POSITIVE = {
    "Fashion-MNIST": ("Pullover", "Coat", "Shirt"),
    "CIFAR-10 (JPEG)": ("bird", "cat", "deer", "dog", "frog", "horse"),
}
# At .05 Fashion-MNIST needs no band, whatever the labels.
BUDGETS = {"Fashion-MNIST": Budgets(0.01, 0.01), "CIFAR-10 (JPEG)": Budgets(0.05, 0.05)}
Data = dict[str, tuple[Tensor, Tensor]]  # split -> features and labels
SEEDS, POOL, CALIBRATION, VALIDATION = range(5), 10_000, 2_000, 200
STEPS = (100, 200, 400, 800, 1600)  # labels of the head


def features(folder: Path) -> tuple[str, Encoder, Data]:
    """Name of the data, encoder, and features and labels of train, calibration and test."""
    file = directory.find_checkpoint(str(folder), "run")
    run = reopen.open_run(file)
    encoder, _, _ = reopen.encoder(run, "student")
    name = "Fashion-MNIST" if "Sandal" in run.data.classes else "CIFAR-10 (JPEG)"
    positive = torch.tensor([run.data.classes.index(c) for c in POSITIVE[name]])
    found = {}
    for split in ("train", "calibration", "test"):
        images = run.data.splits[split]
        images = images.subset(torch.arange(min(len(images), POOL + VALIDATION)))
        (x,) = extract(encoder, images, lambda pixels: pixels)
        assert images.labels is not None
        found[split] = x, torch.isin(images.labels, positive)
    return name, encoder, found


def part(data: tuple[Tensor, Tensor], rows: np.ndarray) -> Part:
    """These rows as a part; the content hash is their number."""
    index = torch.from_numpy(rows)
    return Part(data[0][index], data[1][index], index)


def simulate(
    encoder: Encoder, data: Data, budgets: Budgets, arm: str, seed: int
) -> list[tuple[int, float, float, float]]:
    """Labels of the head, width of the band, and both error rates on test, after each step."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data["train"][1]))
    validation, labelled = order[:VALIDATION], order[VALIDATION : VALIDATION + STEPS[0]]
    pool = order[VALIDATION : VALIDATION + POOL]
    calibration = rng.permutation(len(data["calibration"][1]))[:CALIBRATION]
    x, y = data["test"][0], data["test"][1].numpy()
    results = []
    for more in (*np.diff(STEPS).tolist(), 0):
        parts = {
            "head": part(data["train"], labelled),
            "validation": part(data["train"], validation),
            "calibration": part(data["calibration"], calibration),
        }
        (decider,) = fit(encoder, [Question(arm, arm, parts)], budgets, {})
        region = decider.thresholds.regions(decider.scores(x))
        errors = ((region == 1) & ~y).mean(), ((region == 0) & y).mean()
        width = float((region == -1).mean())
        results.append((len(labelled), width, float(errors[0]), float(errors[1])))
        rest = pool[~np.isin(pool, labelled)]
        new = data["train"][0][torch.from_numpy(rest)]
        points = ((new - decider.reference["mean"]) @ decider.reference["axes"]).numpy()
        chosen = informative(decider.scores(new), points, decider.thresholds, more)
        labelled = np.concatenate([labelled, rest[:more] if arm == "random" else rest[chosen]])
    return results


def main() -> None:
    """Append the rows that results.csv lacks."""
    torch.set_num_threads(1)
    done = set()
    if OUT.exists():
        with OUT.open(newline="") as stream:
            done = {(row["data"], int(row["seed"])) for row in csv.DictReader(stream)}
    for folder in map(Path, sys.argv[1:]):
        name, encoder, data = features(folder)
        for seed in SEEDS:
            if (name, seed) in done:
                continue
            new = not OUT.exists()
            rows = [
                (name, seed, arm, size, f"{width:.4f}", f"{fp:.4f}", f"{fn:.4f}")
                for arm in ("random", "label")
                for size, width, fp, fn in simulate(encoder, data, BUDGETS[name], arm, seed)
            ]
            with OUT.open("a", newline="") as stream:
                writer = csv.writer(stream)
                if new:
                    writer.writerow(("data", "seed", "arm", "labels", "width", "fp", "fn"))
                writer.writerows(rows)
            print(name, seed, *(row[4] for row in rows), flush=True)


if __name__ == "__main__":
    main()
