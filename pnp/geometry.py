"""Geometry of a set of embeddings or features: the quantities that tell collapse from spread.

All take `z` of shape `(N, D)` and work in float32 (float64 stays). Cosines are of `unit(z)`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def widened(z: Tensor) -> Tensor:
    """`z` in at least float32: in bf16 a statistic keeps two or three digits."""
    return z if z.dtype == torch.float64 else z.float()


def unit(z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Rows scaled to length 1, in at least float32."""
    return F.normalize(widened(z), dim=-1)


def mean_cosine(z: Float[Tensor, "n d"]) -> float:
    """Mean ⟨z_i, z_j⟩ over i≠j of unit rows: 1 at complete collapse, about 0 when spread.

    >>> mean_cosine(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    1.0
    """
    n = len(z)
    return float((z.sum(0).square().sum() - z.square().sum()) / (n * (n - 1)))


def sigma(z: Float[Tensor, "n d"]) -> float:
    """σ·√D, the mean over axes of the standard deviation, in units of 1/√D; at most 1."""
    return float(z.std(0).mean() * z.shape[1] ** 0.5)


def mean_norm(z: Float[Tensor, "n d"]) -> float:
    """‖mean z‖ of unit rows: long when everything sits in one cone."""
    return float(z.mean(0).norm())


def spectrum(z: Float[Tensor, "n d"]) -> Float[Tensor, " k"]:
    """Eigenvalues of the centred covariance as shares of their sum, largest first."""
    values = torch.linalg.svdvals(z - z.mean(0)).square()
    return values / values.sum().clamp_min(torch.finfo(z.dtype).tiny)


def effective_rank(z: Float[Tensor, "n d"]) -> float:
    """exp(entropy) of the covariance spectrum (Roy & Vetterli 2007): how many axes are really used.

    It cannot exceed N − 1: take N well above D before reading anything into it.
    """
    shares = spectrum(z)
    return float(torch.special.entr(shares).sum().exp())


def rankme(z: Float[Tensor, "n d"]) -> float:
    """exp(entropy) of the singular values of the uncentred matrix (RankMe, Garrido et al. 2023)."""
    values = torch.linalg.svdvals(z)
    shares = values / values.sum().clamp_min(torch.finfo(z.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


def class_cosines(z: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> tuple[float, float]:
    """Mean cosine of pairs within one class and between two classes, from class sums.

    Returns:
        (within, between); NaN where there is no such pair.
    """
    classes, index = torch.unique(labels, return_inverse=True)
    sums = z.new_zeros(len(classes), z.shape[1]).index_add_(0, index, z)
    counts = torch.bincount(index, minlength=len(classes)).to(z.dtype)
    own = z.square().sum()
    within_sum, all_sum = sums.square().sum() - own, z.sum(0).square().sum() - own
    within_pairs = (counts * (counts - 1)).sum()
    pairs = len(z) * (len(z) - 1)
    within = within_sum / within_pairs
    between = (all_sum - within_sum) / (pairs - within_pairs)
    return float(within), float(between)


def alignment(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """Mean ‖a_i − b_i‖² of two views of the same images (Wang & Isola 2020): 0 is best."""
    return float((a - b).square().sum(-1).mean())


def matched(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """Share of rows of `a` whose most similar row of `b` is their own, by cosine: 1/N is chance.

    Of two views of the same images: needs no labels, and sees collapse as well as views that lie
    apart.
    """
    nearest = (unit(a) @ unit(b).T).argmax(1)
    return float((nearest == torch.arange(len(a), device=a.device)).float().mean())


def uniformity(z: Float[Tensor, "n d"], t: float = 2.0) -> float:
    """`log mean_{i≠j} exp(−t‖z_i − z_j‖²)` of unit rows (Wang & Isola 2020): 0 at collapse."""
    distance2 = torch.pdist(z).square()
    return float(torch.logsumexp(-t * distance2, 0) - torch.log(torch.tensor(len(distance2))))


def wasserstein(z: Float[Tensor, "n d"]) -> float:
    """Wasserstein distance of unit rows from the uniform distribution on the sphere.

    √(1 + mean‖z‖² − (2/√D) tr Σ^½), with Σ the covariance: both are taken as Gaussian (Fang et al.
    2024, https://arxiv.org/abs/2403.00642). 0 when all axes are used alike, √2 at collapse. Rows
    that use k of D axes evenly are at √(2 − 2√(k/D)), where `uniformity` hardly changes.
    """
    n, dims = z.shape
    roots = torch.linalg.svdvals(z - z.mean(0)).sum() / n**0.5
    squared = 1.0 + z.square().sum(1).mean() - 2.0 * roots / dims**0.5
    return float(squared.clamp_min(0.0).sqrt())


def describe(
    z: Float[Tensor, "n d"], labels: Int64[Tensor, " n"] | None = None
) -> dict[str, float]:
    """Every one-set measure above by name; class cosines where labels exist."""
    z = unit(z)
    measures = {
        "mean_cosine": mean_cosine(z),
        "sigma": sigma(z),
        "mean_norm": mean_norm(z),
        "effective_rank": effective_rank(z),
        "uniformity": uniformity(z),
    }
    if labels is not None:
        measures["within_cosine"], measures["between_cosine"] = class_cosines(z, labels)
    return measures


def pair_quantiles(
    z: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], at: tuple[float, ...] = (0.05, 0.5, 0.95)
) -> dict[str, float]:
    """Quantiles of pair cosines within and between classes, such as `within_q05`.

    A mean hides the tail that decides: the closest different-class pairs.
    """
    cosine = unit(z) @ unit(z).T
    same = labels[:, None] == labels[None, :]
    upper = torch.ones_like(same).triu(1)
    quantiles = {}
    for name, chosen in (("within", same & upper), ("between", ~same & upper)):
        # torch.quantile refuses more than 2^24 values; sorting does not.
        values = cosine[chosen].sort().values
        for q in at if len(values) else ():
            quantiles[f"{name}_q{round(100 * q):02d}"] = float(values[round(q * (len(values) - 1))])
    return quantiles


def nearest_other_class(z: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> float:
    """Mean Euclidean distance of unit rows to the nearest row of another class."""
    z = unit(z)
    cosine = (z @ z.T).masked_fill(labels[:, None] == labels[None, :], -1.0)
    return float((2.0 - 2.0 * cosine.amax(1)).clamp_min(0).sqrt().mean())


def softmax_entropy(z: Float[Tensor, "n d"]) -> float:
    """Entropy of softmax(z) in units of log D, mean over rows: 1 is uniform.

    What entropy-based methods trust: it may be close to 1 while every row is the same.
    """
    shares = widened(z).softmax(-1)
    return float(torch.special.entr(shares).sum(-1).mean() / math.log(z.shape[1]))


def describe_fully(
    z: Float[Tensor, "n d"], labels: Int64[Tensor, " n"] | None = None
) -> dict[str, float]:
    """`describe` plus RankMe, softmax entropy, mean distances and the tails between classes."""
    measures = describe(z, labels)
    measures |= {"rankme": rankme(unit(z)), "softmax_entropy": softmax_entropy(z)}
    if labels is not None:
        measures["between_distance"] = math.sqrt(max(0.0, 2 - 2 * measures["between_cosine"]))
        measures["nearest_other_class"] = nearest_other_class(z, labels)
        measures |= pair_quantiles(z, labels)
    return measures
