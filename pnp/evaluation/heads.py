"""Concept heads: one binary logistic regression per concept, all fitted in one pass."""

# torch and matplotlib are partly typed: strict here means our own names.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pnp.evaluation.probes import CHOOSE_ON, L2_GRID, LinearProbe, Space, minimise, subset


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
        space: see `pnp.evaluation.probes.Space`.
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
    return LinearProbe(weight, bias, space, float(l2.mean()))


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
    part = [values[some] for values in train]
    wide = (part[1].repeat(1, len(grid)), part[2].repeat(1, len(grid)))
    l2 = torch.tensor(list(grid), dtype=torch.float32)
    count = targets.shape[1]
    fits = fit_concepts(part[0], *wide, space, l2.repeat_interleave(count))
    logits = fits.of(x).view(len(x), len(grid), count)
    cost = F.binary_cross_entropy_with_logits(
        logits, targets[:, None].expand_as(logits), reduction="none"
    )
    best = ((cost * keep[:, None]).sum(0) / keep.sum(0)).argmin(0)
    row = best * count + torch.arange(count)
    start = replace(fits, weight=fits.weight[row], bias=fits.bias[row])
    features, answers, kept = (torch.cat(parts) for parts in zip(train, validation, strict=True))
    return fit_concepts(features, answers, kept, space, l2[best], start)
