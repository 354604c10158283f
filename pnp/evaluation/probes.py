"""Probes of frozen features: exact weighted kNN and multinomial logistic regression."""

# torch and matplotlib are partly typed: strict here means our own names.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from pnp.errors import UserError
from pnp.geometry import unit

# Regularisation per image, `λ/2 ‖W‖²` beside the mean cross-entropy; scikit-learn's C is 1/(λ·N).
L2_GRID = (1e-2, 1e-3, 1e-4, 1e-5)


def knn_votes(
    bank: Float[Tensor, "m d"],
    bank_labels: Int64[Tensor, " m"],
    queries: Float[Tensor, "n d"],
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    entries: int = 1 << 25,
) -> Float[Tensor, "n c"]:
    """Class votes of the k nearest neighbours by cosine, each weighing `exp(cosine / temperature)`.

    Exact (no index), in chunks of queries: at most `entries` similarities are alive at once.
    The protocol is that of Wu et al. 2018 and DINO (k = 20, temperature 0.07).

    Args:
        bank: features of labelled images.
        bank_labels: their classes.
        queries: features to classify.
        classes: number of classes.
        k: neighbours; at most the size of the bank.
        temperature: of the weights.
        entries: bound on a chunk's size.

    Raises:
        UserError: more neighbours than images in the bank.
    """
    if not 1 <= k <= len(bank):
        raise UserError(f"knn k={k} must lie between 1 and the {len(bank)} labelled images.")
    bank, queries = unit(bank), unit(queries)
    votes = []
    for chunk in queries.split(max(1, entries // len(bank))):
        cosine, nearest = (chunk @ bank.T).topk(k, dim=1)
        weight = ((cosine - 1.0) / temperature).exp()  # −1: the same votes, and no overflow
        votes.append(
            weight.new_zeros(len(chunk), classes).scatter_add_(1, bank_labels[nearest], weight)
        )
    return torch.cat(votes)


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of standardised features: `logits = ((x − mean)/scale) Wᵀ + b`.

    `l2` is the regularisation it was fitted with, `validation` the accuracy that chose it.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    l2: float
    validation: float = float("nan")

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Class logits of features."""
        return (features.float() - self.mean) / self.scale @ self.weight.T + self.bias


def fit_linear(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    *,
    classes: int,
    l2: float,
    start: LinearProbe | None = None,
    max_iter: int = 200,
) -> LinearProbe:
    """Multinomial logistic regression by L-BFGS: `mean cross-entropy + l2/2 ‖W‖²`.

    Features are standardised with the mean and standard deviation of `features`; the bias is not
    regularised. `start` warm-starts the weights.
    """
    mean, scale = standardisation(features)
    x = (features.float() - mean) / scale

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(x @ weight.T + bias, labels) + 0.5 * l2 * weight.square().sum()

    weight, bias = minimise(loss, x.new_zeros(classes, x.shape[1]), start, max_iter)
    return LinearProbe(weight, bias, mean, scale, l2)


def standardisation(
    features: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and standard deviation per feature, the latter kept away from 0."""
    return features.float().mean(0), features.float().std(0).clamp_min(1e-6)


def minimise(
    loss: Callable[[Tensor, Tensor], Tensor],
    zeros: Float[Tensor, "k d"],
    start: LinearProbe | None = None,
    max_iter: int = 200,
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Weight and bias at the minimum of a convex `loss(weight, bias)`, by L-BFGS."""
    weight = (zeros if start is None else start.weight).clone().requires_grad_()
    bias = (zeros[:, 0] if start is None else start.bias).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, tolerance_grad=1e-5, tolerance_change=1e-7,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(weight, bias)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return weight.detach(), bias.detach()


def linear_probe(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    classes: int,
    grid: Sequence[float] = L2_GRID,
) -> LinearProbe:
    """The linear probe of the protocol: l2 chosen on validation, then refitted on both parts.

    Args:
        train: features `(N, d)` and labels `(N,)`.
        validation: the same of images that only choose.
        classes: number of classes.
        grid: candidate l2, strongest first (each fit starts from the one before).
    """
    best: LinearProbe | None = None
    best_accuracy = -1.0
    probe = None
    for l2 in grid:
        probe = fit_linear(*train, classes=classes, l2=l2, start=probe)
        hits = probe.logits(validation[0]).argmax(1) == validation[1]
        accuracy = float(hits.float().mean())
        if accuracy > best_accuracy:
            best, best_accuracy = probe, accuracy
    assert best is not None
    features, labels = (torch.cat(parts) for parts in zip(train, validation, strict=True))
    final = fit_linear(features, labels, classes=classes, l2=best.l2, start=best)
    return LinearProbe(final.weight, final.bias, final.mean, final.scale, final.l2, best_accuracy)
