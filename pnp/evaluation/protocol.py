"""The protocol of the final table: probes of frozen backbone features, student and teacher.

Networks see images without augmentation. Probes are fitted on train (l2 chosen on validation, then
refitted on train + validation; the same images are the neighbours) and scored on calibration +
test, which together are the official test images where a data set has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pnp.data import DataModule
from pnp.evaluation.band import clopper_pearson
from pnp.evaluation.features import extract
from pnp.errors import UserError
from pnp.evaluation.probes import L2_GRID, knn_votes, linear_probe

FIT = ("train", "validation")
REPORT = ("calibration", "test")


class Pixels(nn.Module):
    """The reference without a network: features are the normalised pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) to (N, C·S·S)."""
        return images.flatten(1)


@dataclass
class Protocol:
    """What `conf/evaluation` sets.

    Args:
        k: neighbours of the weighted kNN.
        temperature: of their weights.
        l2: regularisation grid of the linear probe.
        references: judged on the same protocol: `pixels`, `random` (the backbone, untrained).
        test: look at the test images; off while tuning.
    """

    k: int = 20
    temperature: float = 0.07
    l2: Sequence[float] = L2_GRID
    references: Sequence[str] = ("pixels", "random")
    test: bool = True

    def __post_init__(self) -> None:
        for name in self.references:
            if name not in ("pixels", "random"):
                raise UserError(f"evaluation.references={name!r}: choose from pixels, random.")
        if self.k < 1 or not self.temperature > 0 or not self.l2 or min(self.l2) <= 0:
            raise UserError(
                f"evaluation: k={self.k}, temperature={self.temperature} and l2={self.l2} must all "
                "be above 0."
            )


def split_features(
    network: nn.Module,
    data: DataModule,
    plain: Callable[[Tensor], Tensor],
    splits: Sequence[str] = (*FIT, *REPORT),
    **extraction: Any,
) -> dict[str, Tensor]:
    """Features of the named splits; `extraction` goes to `extract`."""
    return {name: extract(network, data.splits[name], plain, **extraction)[0] for name in splits}


def probe(features: Mapping[str, Tensor], data: DataModule, protocol: Protocol) -> dict[str, float]:
    """Accuracy of both probes, on validation (fitted on train) and on test (fitted on both).

    Args:
        features: by split, from `split_features`.
        data: whose labels they belong to.
        protocol: k, temperature, grid, and whether test is looked at.

    Returns:
        `validation/knn`, `validation/linear`, and unless `protocol.test` is off `test/knn`,
        `test/linear`, each test number with a 95 % Clopper-Pearson interval in `/ci_low` and
        `/ci_high`; empty without labels.
    """
    labels = {n: l for n in features if (l := data.splits[n].labels) is not None}
    if not labels:
        return {}
    classes = len(data.classes)
    knn: Any = {"classes": classes, "temperature": protocol.temperature}
    bank = features["train"], labels["train"]
    truth = labels["validation"]
    votes = knn_votes(*bank, features["validation"], k=min(protocol.k, len(bank[0])), **knn)
    linear = linear_probe(bank, (features["validation"], truth), classes=classes, grid=protocol.l2)
    results = {
        "validation/knn": float((votes.argmax(1) == truth).float().mean()),
        "validation/linear": linear.validation,
    }
    if not protocol.test:
        return results
    bank = tuple(torch.cat([part[name] for name in FIT]) for part in (features, labels))
    queries, truth = (torch.cat([part[name] for name in REPORT]) for part in (features, labels))
    votes = knn_votes(*bank, queries, k=min(protocol.k, len(bank[0])), **knn)
    for name, scores in (("knn", votes), ("linear", linear.logits(queries))):
        hits = int((scores.argmax(1) == truth).sum())
        low, high = clopper_pearson(hits, len(truth))
        results[f"test/{name}"] = hits / len(truth)
        results[f"test/{name}/ci_low"], results[f"test/{name}/ci_high"] = float(low), float(high)
    return results
