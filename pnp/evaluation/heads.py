"""Concept heads: one binary logistic regression per concept, all fitted in one pass."""

# torch and matplotlib are partly typed: strict here means our own names.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pnp.evaluation.probes import L2_GRID, LinearProbe, minimise, standardisation


def fit_concepts(
    features: Float[Tensor, "n d"],
    targets: Float[Tensor, "n k"],
    keep: Bool[Tensor, "n k"],
    l2: Float[Tensor, " k"],
    start: LinearProbe | None = None,
) -> LinearProbe:
    """K independent logistic regressions: `Σ_k mean BCE_k + l2_k/2 ‖w_k‖²`, minimised together.

    Args:
        features: `(N, d)`.
        targets: 0 or 1 per image and concept.
        keep: images that count for a concept.
        l2: regularisation per concept.
        start: warm start.

    Returns:
        A probe whose k-th output is the logit of concept k.
    """
    mean, scale = standardisation(features)
    x = (features.float() - mean) / scale
    share = keep / keep.sum(0)

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        logits = x @ weight.T + bias
        cost = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (cost * share).sum() + 0.5 * (l2 * weight.square().sum(1)).sum()

    weight, bias = minimise(loss, x.new_zeros(targets.shape[1], x.shape[1]), start)
    return LinearProbe(weight, bias, mean, scale, float(l2.mean()))


def concept_heads(
    train: tuple[Tensor, Tensor, Tensor],
    validation: tuple[Tensor, Tensor, Tensor],
    grid: Sequence[float] = L2_GRID,
) -> LinearProbe:
    """Heads with l2 chosen per concept by the log-loss on validation, refitted on both parts.

    The log-loss, not the accuracy: the band reads the order and the spread of the scores far from
    the decision boundary, which accuracy does not see.

    Args:
        train: features `(N, d)`, targets `(N, K)` and keep `(N, K)`.
        validation: the same of images that only choose.
        grid: candidate l2, strongest first.
    """
    features, targets, keep = validation
    losses, probe = [], None
    for l2 in grid:
        probe = fit_concepts(*train, l2=torch.full((targets.shape[1],), float(l2)), start=probe)
        logits = probe.logits(features)
        cost = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        losses.append((cost * keep).sum(0) / keep.sum(0))
    best = torch.tensor(list(grid), dtype=torch.float32)[torch.stack(losses).argmin(0)]
    both = (torch.cat(parts) for parts in zip(train, validation, strict=True))
    return fit_concepts(*both, l2=best, start=probe)
