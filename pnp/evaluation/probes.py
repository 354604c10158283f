"""Probes of frozen features: exact weighted kNN, logistic regressions of classes and concepts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pnp.errors import UserError
from pnp.geometry import unit

# Regularisation per image, `λ/2 ‖W‖²` beside the mean cross-entropy; scikit-learn's C is 1/(λ·N).
L2_GRID = (1e-2, 1e-3, 1e-4)
# The l2 is chosen among fits on at most this many training images: reading features is what costs,
# and how much regularisation is right hardly moves between 20,000 images and 60,000.
CHOOSE_ON = 20_000


def products(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], least: float = 1e9
) -> Float[Tensor, "n m"]:
    """All inner products of rows, `a bᵀ`; those of `least` multiplications or more by oneDNN.

    torch's default on a CPU is MKL, which uses AVX-512 on Intel CPUs only: for kNN among 33,000
    rows of 3,072 numbers oneDNN took 0.63 of the time (benchmarks/RESULTS.md).
    """
    large = len(a) * len(b) * a.shape[1] >= least
    plain = (a.device.type, a.dtype, b.dtype) == ("cpu", torch.float32, torch.float32)
    if large and plain and torch.backends.mkldnn.is_available():
        with torch.no_grad():
            return F.linear(a.contiguous().to_mkldnn(), b.contiguous().to_mkldnn()).to_dense()
    return a @ b.T


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
        cosine, nearest = products(chunk, bank).topk(k, dim=1)
        weight = ((cosine - 1.0) / temperature).exp()  # −1: the same votes, and no overflow
        votes.append(
            weight.new_zeros(len(chunk), classes).scatter_add_(1, bank_labels[nearest], weight)
        )
    return torch.cat(votes)


@dataclass(frozen=True)
class Space:
    """Features standardised per axis, then rotated to their principal axes.

    A rotation changes neither the logistic loss nor ‖W‖², but it lets the solver scale each axis by
    the curvature there: tens of iterations instead of hundreds.

    `mean`, `scale`: `(d,)`; `rotation`: `(d, d)`, None where d is too large for it to pay;
    `values`: variance along each axis of the space.
    """

    mean: Tensor
    scale: Tensor
    rotation: Tensor | None
    values: Tensor

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], largest: int = 4096) -> "Space":
        """The space of a training set; up to `largest` axes are rotated."""
        features = features.float()
        mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
        if features.shape[1] > largest:
            return cls(mean, scale, None, torch.ones_like(mean))
        x = (features - mean) / scale
        gram = products(x.T, x.T) / len(x)
        try:
            values, rotation = torch.linalg.eigh(gram)
        except RuntimeError:  # LinAlgError: of equal images float32 may not converge
            values, rotation = (part.float() for part in torch.linalg.eigh(gram.double()))
        return cls(mean, scale, rotation, values.clamp_min(0))

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Features in this space."""
        x = (features.float() - self.mean) / self.scale
        return x if self.rotation is None else products(x, self.rotation.T)


@dataclass(frozen=True)
class LinearProbe:
    """A linear map of features in a `Space`: `logits = x Wᵀ + b`.

    `l2` is the regularisation of a probe of classes, `validation` the accuracy that chose it.
    """

    weight: Tensor
    bias: Tensor
    l2: float = math.nan
    validation: float = math.nan

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits of features that are in the space."""
        return x @ self.weight.T + self.bias


def minimise(
    loss: Callable[[Tensor, Tensor], Tensor],
    space: Space,
    l2: Float[Tensor, " k"],
    start: LinearProbe | None = None,
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Weight and bias at the minimum of `loss(weight, bias) + Σ_k l2_k/2 ‖w_k‖²`, by L-BFGS.

    Each coordinate is scaled by the curvature to expect there: a tenth of the variance (that of
    a logistic loss at a probability of about 0.1) plus l2.
    """
    step = (0.1 * space.values + l2[:, None]).rsqrt()
    scaled = (torch.zeros_like(step) if start is None else start.weight / step).requires_grad_()
    bias = (torch.zeros_like(l2) if start is None else start.bias.clone()).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled, bias], max_iter=200, tolerance_grad=1e-5, tolerance_change=1e-6,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        weight = scaled * step
        value = loss(weight, bias) + 0.5 * (l2 * weight.square().sum(1)).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    weight, bias = (scaled * step).detach(), bias.detach()
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise UserError("the fit ended in weights that are not finite.")
    return weight, bias


def fit_linear(
    x: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    space: Space,
    *,
    classes: int,
    l2: Sequence[float],
    start: LinearProbe | None = None,
) -> list[LinearProbe]:
    """Multinomial logistic regressions, one per l2: `mean cross-entropy + l2/2 ‖W‖²`, bias free.

    All are solved together: reading `x` is what costs, and they share it.

    Args:
        x: features in `space`.
        labels: their classes.
        space: of the training features.
        classes: number of classes.
        l2: regularisations; scikit-learn's C is 1/(l2·N).
        start: warm start of all.
    """
    target = labels[:, None].expand(-1, len(l2))

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        logits = (x @ weight.T + bias).view(len(x), len(l2), classes)
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="sum") / len(x)

    every = torch.tensor(list(l2), device=x.device).repeat_interleave(classes)
    weight, bias = minimise(loss, space, every, start)
    parts = zip(weight.split(classes), bias.split(classes), l2, strict=True)
    return [LinearProbe(w, b, strength) for w, b, strength in parts]


def subset(n: int, most: int) -> Int64[Tensor, " m"]:
    """At most `most` of the numbers below n, the same ones each time, in random order.

    Random because folders come sorted by class.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most]


def linear_probe(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    space: Space,
    *,
    classes: int,
    grid: Sequence[float] = L2_GRID,
    refit: bool = True,
) -> LinearProbe:
    """The linear probe of the protocol: l2 chosen on validation, then refitted on both parts.

    The candidates are fitted on at most `CHOOSE_ON` training images.

    Args:
        train: features in `space`, `(N, d)`, and labels `(N,)`.
        validation: the same of images that only choose.
        space: of the training features.
        classes: number of classes.
        grid: candidate l2.
        refit: fit on train and validation with the chosen l2; else return the best fit on train.
    """
    x, labels = validation
    some = subset(len(train[0]), CHOOSE_ON)
    fits = fit_linear(train[0][some], train[1][some], space, classes=classes, l2=grid)
    accuracy = [float((fit.logits(x).argmax(1) == labels).float().mean()) for fit in fits]
    best = fits[accuracy.index(max(accuracy))]
    if refit:
        x, labels = (torch.cat(parts) for parts in zip(train, validation, strict=True))
        (best,) = fit_linear(x, labels, space, classes=classes, l2=(best.l2,), start=best)
    return replace(best, validation=max(accuracy))


def fit_concepts(
    x: Float[Tensor, "n d"],
    targets: Float[Tensor, "n k"],
    keep: Bool[Tensor, "n k"],
    space: Space,
    l2: Float[Tensor, " k"],
    start: LinearProbe | None = None,
) -> LinearProbe:
    """K independent logistic regressions: `Σ_k mean BCE_k + l2_k/2 ‖w_k‖²`, minimised together.

    Args:
        x: features in `space`.
        targets: 0 or 1 per image and concept.
        keep: images that count for a concept.
        space: of the training features.
        l2: regularisation per concept.
        start: warm start.

    Returns:
        A probe whose k-th output is the logit of concept k.
    """
    share = keep / keep.sum(0)

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        logits = x @ weight.T + bias
        cost = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (cost * share).sum()

    weight, bias = minimise(loss, space, l2, start)
    return LinearProbe(weight, bias)


def concept_heads(
    train: tuple[Tensor, Tensor, Tensor],
    validation: tuple[Tensor, Tensor, Tensor],
    space: Space,
    grid: Sequence[float] = L2_GRID,
) -> LinearProbe:
    """Heads with l2 chosen per concept by the log-loss on validation, refitted on both parts.

    The log-loss, not the accuracy: the band reads the order and the spread of the scores far from
    the decision boundary, which accuracy does not see.

    Args:
        train: features in `space` `(N, d)`, targets `(N, K)` and keep `(N, K)`.
        validation: the same of images that only choose.
        space: of the training features.
        grid: candidate l2.
    """
    x, targets, keep = validation
    some = subset(len(train[0]), CHOOSE_ON)
    l2, count = torch.tensor(list(grid), device=x.device), targets.shape[1]
    wide = [values[some].repeat(1, len(grid)) for values in train[1:]]
    fits = fit_concepts(train[0][some], wide[0], wide[1], space, l2.repeat_interleave(count))
    logits = fits.logits(x).view(len(x), len(grid), count)
    cost = F.binary_cross_entropy_with_logits(
        logits, targets[:, None].expand_as(logits), reduction="none"
    )
    best = ((cost * keep[:, None]).sum(0) / keep.sum(0)).argmin(0)
    row = best * count + torch.arange(count, device=x.device)
    start = replace(fits, weight=fits.weight[row], bias=fits.bias[row])
    x, targets, keep = (torch.cat(parts) for parts in zip(train, validation, strict=True))
    return fit_concepts(x, targets, keep, space, l2[best], start)
