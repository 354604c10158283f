"""What sits on a backbone: the projector, and the heads of methods that have one."""

from difflib import get_close_matches
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnp.errors import UserError


def projector(
    dim: int, *, hidden: int = 512, out: int = 128, layers: int = 3, last_norm: bool = False
) -> nn.Sequential:
    """MLP with BatchNorm and ReLU between its `layers` linear maps.

    Args:
        dim: features coming in.
        hidden: width in between.
        out: embedding dimensions D.
        layers: linear maps, at least 1.
        last_norm: end in a BatchNorm without scale and shift, as SimSiam's does.

    Raises:
        UserError: a size below 1.
    """
    _check("projector", hidden=hidden, out=out, layers=layers)
    blocks: list[nn.Module] = []
    for _ in range(layers - 1):
        # BatchNorm follows, so a bias would be subtracted again.
        blocks += [
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
        ]
        dim = hidden
    blocks.append(nn.Linear(dim, out, bias=False))
    if last_norm:
        blocks.append(nn.BatchNorm1d(out, affine=False))
    return nn.Sequential(*blocks)


def predictor(dim: int, *, hidden: int | None = None, out: int | None = None) -> nn.Sequential:
    """MLP of two linear maps that predicts the teacher's z from the student's (BYOL, SimSiam).

    Args:
        dim: embedding dimensions coming in.
        hidden: width in between; None is a quarter of `dim`, SimSiam's bottleneck.
        out: dimensions going out; None is `dim`.

    Raises:
        UserError: a size below 1.
    """
    hidden = max(1, dim // 4) if hidden is None else hidden
    out = dim if out is None else out
    _check("predictor", hidden=hidden, out=out)
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
    )


class Prototypes(nn.Module):
    """Scalar products with `count` unit vectors: DINO's weight-normalised last layer, norm 1.

    Unit inputs give cosines; they become logits by a temperature of some hundredths, so they are
    computed in at least float32 (bf16 would be off by a tenth in the exponent).

    Args:
        dim: dimensions coming in.
        count: prototypes K.

    Raises:
        UserError: fewer than 2 prototypes.
    """

    def __init__(self, dim: int, *, count: int = 2048) -> None:
        super().__init__()
        _check("prototypes", 2, count=count)
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Cosines (N, K) of unit z (N, D)."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z.to(self.weight.dtype), F.normalize(self.weight, dim=1))

    def extra_repr(self) -> str:
        """Sizes, for logs."""
        return f"dim={self.weight.shape[1]}, count={self.weight.shape[0]}"


KINDS = {"predictor": predictor, "prototypes": Prototypes}


def head(kind: str, dim: int, **options: Any) -> nn.Module:
    """The head that `method.head` describes, on `dim`-dimensional embeddings.

    Args:
        kind: `predictor` or `prototypes`.
        dim: embedding dimensions D coming in.
        options: keyword arguments of that head.

    Raises:
        UserError: an unknown kind or option.
    """
    if kind not in KINDS:
        raise UserError(f"method.head.kind={kind!r}: choose one of {', '.join(KINDS)}.")
    known = [name for name in signature(KINDS[kind]).parameters if name != "dim"]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(
                f"method.head.{name} is unknown: a {kind} head has {', '.join(known)}.{hint}"
            )
    return KINDS[kind](dim, **options)


def _check(what: str, least: int = 1, **sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or value < least:
            raise UserError(f"{what} {name}={value} must be a whole number, at least {least}.")
