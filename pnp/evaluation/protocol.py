"""The protocol of the final table: frozen features, probes, geometry and the band.

Networks see images without augmentation. Probes are fitted on train (l2 chosen on validation, then
refitted on train + validation; the same images are the neighbours) and scored on calibration +
test, which together are the official test images where a data set has them. The band calibrates on
calibration and reports on test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pnp.band.inputs import Budget, Budgets, Method
from pnp.band.scores import clopper_pearson
from pnp.data import DataModule, ImageSet
from pnp.distributed import rank
from pnp.errors import UserError, choice, number, whole
from pnp.evaluation.features import extract, fingerprint, remembered
from pnp.evaluation.gaps import Gaps
from pnp.evaluation.probes import L2_GRID, Space, knn_votes, linear_probe, subset
from pnp.results import Row

FIT = ("train", "validation")
REPORT = ("calibration", "test")
TEXT = (
    "Frozen backbone features (before the projector) of {}, student and EMA "
    "teacher after the last step, selected by nothing. Probes are fitted on train + "
    "validation; the linear probe's l2 is chosen on validation (fitted on train). Their test "
    "numbers are on calibration + test, with 95 % Clopper-Pearson intervals. Bands: heads fitted "
    "likewise, thresholds certified on calibration, numbers on test. References: raw pixels, and "
    "the same backbone before training."
)


class Pixels(nn.Module):
    """The reference without a network: features are the normalised pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, S, S) to (N, C·S·S)."""
        return images.flatten(1)


@dataclass(frozen=True)
class Protocol:
    """Settings of the evaluation, `conf/evaluation`.

    Args:
        k: neighbours of the weighted kNN.
        temperature: of their weights.
        l2: regularisation grid of the linear probe and of the concept heads.
        fractions: shares of the labels of train for the few-label linear probes.
        references: under the same protocol: `pixels`, `random` (the backbone, untrained).
        concepts: of the band; see `pnp.evaluation.concept_bands.concept_targets`.
        band: error budgets, see `pnp.band.inputs.Budgets`; None leaves the band out.
        test: use calibration and test images; off while tuning.
        cache: keep features in the run directory, for `pnp-evaluate`.
        views: features are the mean over that many views, drawn as in training; 1 takes the image
            without augmentation. Pixels are always those of the image.

    Raises:
        UserError: a value out of range.
    """

    k: int = 20
    temperature: float = 0.07
    l2: Sequence[float] = L2_GRID
    fractions: Sequence[float] = (0.01, 0.1)
    references: Sequence[str] = ("pixels", "random")
    concepts: Mapping[str, Any] | None = None
    band: Mapping[str, Any] | None = field(default_factory=dict[str, Any])
    test: bool = True
    cache: bool = False
    views: int = 1

    def __post_init__(self) -> None:
        for name in self.references:
            choice("evaluation.references", name, ("pixels", "random"))
        whole("evaluation.k", self.k)
        whole("evaluation.views", self.views)
        number("evaluation.temperature", self.temperature, 0, open_low=True)
        if not self.l2:
            raise UserError("evaluation.l2=[]: give at least one number above 0.")
        for strength in self.l2:
            number("evaluation.l2", strength, 0, open_low=True)
        for share in self.fractions:
            number("evaluation.fractions", share, 0, 1, open_low=True, open_high=True)
        if (budgets := self.budgets) is not None:
            for key in ("max_fp", "max_fn", "delta"):
                value = getattr(budgets, key)
                number(f"evaluation.band.{key}", value, 0, 1, open_low=True, open_high=True)
            choice("evaluation.band.method", budgets.method, get_args(Method))
            choice("evaluation.band.budget", budgets.budget, get_args(Budget))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose features are needed."""
        return (*FIT, *REPORT) if self.test else FIT

    @property
    def images(self) -> str:
        """The kind of images that networks see, in words."""
        several = f"{self.views} views of each image, averaged"
        return "images without augmentation" if self.views == 1 else several

    @property
    def text(self) -> str:
        """The protocol in words."""
        return TEXT.format(self.images)

    @property
    def budgets(self) -> Budgets | None:
        """Error budgets of the band; None without it."""
        return None if self.band is None else Budgets(**self.band)


def split_features(
    network: nn.Module,
    data: DataModule,
    plain: Callable[[Tensor], Tensor],
    splits: Sequence[str],
    *,
    outputs: int = 1,
    cache: Any = None,
    preprocessing: str = "",
    **extraction: Any,
) -> list[dict[str, Tensor]]:
    """Each output of a network by split, from the cache where it is there already.

    Args:
        network: the network, as it is.
        data: the data set.
        plain: preprocessing without augmentation.
        splits: names of its splits.
        outputs: number of outputs of the network.
        cache: folder, or None.
        preprocessing: names `plain` and the precision, for the cache's key.
        extraction: goes to `extract`.

    Every process of a distributed run calls this and extracts its part; rank 0 gets the features.
    """
    weights = fingerprint(network, preprocessing) if cache else ""
    features = {
        name: remembered(
            cache,
            f"{name}-{_images(data.splits[name])}-{weights}" if cache else "",
            outputs,
            lambda name=name: extract(network, data.splits[name], plain, shared=True, **extraction),
        )
        for name in splits
    }
    if rank() > 0:
        return []
    return [{name: parts[i] for name, parts in features.items()} for i in range(outputs)]


def probe(
    features: Mapping[str, Tensor],
    rotated: Mapping[str, Tensor],
    space: Space,
    data: DataModule,
    protocol: Protocol,
    owner: str,
    gaps: Gaps,
) -> list[Row]:
    """Accuracies of the probes, on validation (fitted on train) and on test (fitted on both).

    Args:
        features: by split, from `split_features`; on one device, where the probes work.
        rotated: the same features in `space`.
        space: of the training features.
        data: the data set with their labels.
        protocol: k, temperature, grid, fractions, and whether test is used.
        owner: of the features.
        gaps: where probes that cannot be fitted are noted.

    Returns:
        `knn` and `linear` on validation, and unless `protocol.test` is off `knn`, `linear`,
        `linear_1pct`, … on test with 95 % Clopper-Pearson intervals; empty without labels.
    """
    place = space.mean.device
    labels = {n: y.to(place) for n in features if (y := data.splits[n].labels) is not None}
    if not labels:
        return []
    classes = len(data.classes)
    train = rotated["train"], labels["train"]
    validation = rotated["validation"], labels["validation"]
    fit = partial(linear_probe, validation=validation, space=space, classes=classes)

    def neighbours(bank: Tensor, truth: Tensor, queries: Tensor) -> Tensor:
        k = min(protocol.k, len(bank))
        return knn_votes(
            bank, truth, queries, classes=classes, k=k, temperature=protocol.temperature
        )

    rows: list[Row] = []
    asked = features["train"], labels["train"], features["validation"]
    votes = gaps.attempt(f"{owner}, knn on validation", neighbours, *asked)
    if votes is not None:
        accuracy = float((votes.argmax(1) == labels["validation"]).float().mean())
        rows.append(Row("", "validation", "probe", owner, "", "knn", accuracy))
    linear = gaps.attempt(f"{owner}, linear", fit, train, grid=protocol.l2, refit=protocol.test)
    if linear is not None:
        rows.append(Row("", "validation", "probe", owner, "", "linear", linear.validation))
    if not protocol.test:
        return rows
    bank, known = (torch.cat([part[name] for name in FIT]) for part in (features, labels))
    queries, truth = (torch.cat([part[name] for name in REPORT]) for part in (features, labels))
    turned = torch.cat([rotated[name] for name in REPORT])

    def few_labels(fraction: float) -> Tensor:
        few = _few(labels["train"], fraction)
        grid = (1.0, 0.1, *protocol.l2)  # few labels want more regularisation
        return fit((train[0][few], train[1][few]), grid=grid, refit=False).logits(turned)

    work: dict[str, Callable[[], Tensor]] = {"knn": partial(neighbours, bank, known, queries)}
    if linear is not None:
        work["linear"] = partial(linear.logits, turned)
    for fraction in protocol.fractions:
        work[f"linear_{100 * fraction:g}pct"] = partial(few_labels, fraction)
    for name, scores in work.items():
        score = gaps.attempt(f"{owner}, {name}", scores)
        if score is None:
            continue
        hits = int((score.argmax(1) == truth).sum())
        low, high = map(float, clopper_pearson(hits, len(truth)))
        rows.append(Row("", "test", "probe", owner, "", name, hits / len(truth), low, high))
    return rows


def _images(split: ImageSet) -> str:
    """Names the images of a split, and the content of their files."""
    return split.digest() + (split.content_digest() or "")


def _few(labels: Tensor, fraction: float) -> Tensor:
    """A fixed share of every class, at least one image of each."""
    order = subset(len(labels), len(labels)).to(labels.device)
    chosen = []
    for label in labels.unique():
        members = order[labels[order] == label]
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return torch.cat(chosen)
