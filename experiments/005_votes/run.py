"""Bands on human ambiguity: features of runs, pixels and an untrained network on CIFAR-10N votes.

    python experiments/005_votes/run.py RUN…

Each RUN was trained with data.votes=FILE. Rows go to results.csv beside this file; networks that
are there already are skipped, so that it goes on where it was stopped.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pnp.band.concepts import parse_concepts
from pnp.band.inputs import Budgets
from pnp.band.scores import auroc
from pnp.data import DataModule
from pnp.evaluation.concept_bands import SPLITS, ConceptBand, concept_bands, concept_targets
from pnp.evaluation.features import extract
from pnp.evaluation.probes import Space
from pnp.evaluation.protocol import Pixels
from pnp.runs import directory, reopen

OUT = Path(__file__).parent / "results.csv"
PAIRS = (("cat", "dog"), ("automobile", "truck"), ("deer", "horse"), ("airplane", "ship"))
ONE, PAIR = Budgets(0.02, 0.02), Budgets(0.05, 0.05)
HEAD = 10_000  # training images that fit the heads, beside those of validation
COLUMNS = (
    "network", "concept", "images", "positives", "dissent", "width", "plugin", "fp", "fn", "budget",
    "exceeded", "oracle", "oracle_recall", "oracle_precision", "band_recall", "band_precision",
    "auc_dissent", "auroc",
)  # fmt: skip


def networks(runs: list[Path]) -> Iterator[tuple[str, nn.Module, reopen.Run]]:
    """Name, network and run: pixels and the untrained network of the first run, then each run's."""
    for i, folder in enumerate(runs):
        run = reopen.open_run(directory.find_checkpoint(str(folder), "run"))
        if i == 0:
            yield "pixels", Pixels(), run
            assert run.untrained is not None
            yield "untrained", run.untrained, run
        for name, network in run.module.networks.items():
            yield f"{folder.name} {name}", network, run


def features(network: nn.Module, run: reopen.Run) -> dict[str, Tensor]:
    """Features by split; of train the first `HEAD` images, whose order is random already."""
    found = {}
    for name in SPLITS:
        images = run.data.splits[name]
        some = images.subset(torch.arange(min(len(images), HEAD)))
        found[name] = extract(network, some, run.module.views.plain)[0]
    return found


def concepts(classes: tuple[str, ...]) -> dict[str, object]:
    """One against the rest for each class, and the four pairs among those who named either."""
    asked: dict[str, object] = {name: [name] for name in classes}
    for one, other in PAIRS:
        ignore = [name for name in classes if name not in (one, other)]
        asked[f"{one}-{other}"] = {"positive": [one], "negative": [other], "ignore": ignore}
    return asked


def row(name: str, concept: str, band: ConceptBand, dissent: np.ndarray) -> dict[str, object]:
    """One line of results.csv."""
    m = band.report.metrics
    inside = band.region == -1
    return {
        "network": name, "concept": concept, "images": len(band.y), "positives": band.y.mean(),
        "dissent": dissent.mean(), "width": m["band/width"], "plugin": m["band/plugin"],
        "fp": m["err/fp_joint"], "fn": m["err/fn_joint"], "budget": m["err/fp_budget"],
        "exceeded": sum(alarm.startswith("exceeded") for alarm in band.report.alarms),
        "oracle": m["oracle/width"], "oracle_recall": m["oracle/recall"],
        "oracle_precision": m["oracle/precision"],
        "band_recall": inside[dissent].mean(),
        "band_precision": dissent[inside].mean() if inside.any() else np.nan,
        "auc_dissent": auroc(-np.abs(band.scores), dissent.astype(int)),
        "auroc": m["rank/auroc"],
    }  # fmt: skip


def disagree(data: DataModule, asked: dict[str, object]) -> dict[str, np.ndarray]:
    """Test images of which some annotator says P and some says not-P, for each concept."""
    votes = data.splits["test"].votes
    assert votes is not None
    found = {}
    for name, concept in parse_concepts(asked, data.classes).items():
        y, _, keep = zip(*(concept.assign(column) for column in votes.T.numpy()), strict=True)
        answers = np.where(np.stack(keep), np.stack(y), -1)
        found[name] = (answers == 1).any(0) & (answers == 0).any(0)
    return found


def main() -> None:
    """Append the rows of every network that results.csv lacks."""
    done = set()
    if OUT.exists():
        with OUT.open(newline="") as stream:
            done = {line["network"] for line in csv.DictReader(stream)}
    for name, network, run in networks([Path(word) for word in sys.argv[1:]]):
        if name in done:
            continue
        data, asked = run.data, concepts(run.data.classes)
        targets = concept_targets(data, asked)
        for part in (targets.y, targets.keep, targets.eta):
            part.update({split: values[:HEAD] for split, values in part.items()})
        found = features(network, run)
        space = Space.of(found["train"])
        rotated = {split: space(part) for split, part in found.items()}
        dissent = disagree(data, asked)
        rows = []
        for budgets, wanted in ((ONE, lambda c: "-" not in c), (PAIR, lambda c: "-" in c)):
            bands = concept_bands(rotated, space, targets, budgets)
            rows += [row(name, c, b, dissent[c][b.index]) for c, b in bands.items() if wanted(c)]
        new = not OUT.exists()
        with OUT.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerows(
                {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows
            )
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
