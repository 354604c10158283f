"""Heads on top of a backbone: the projector."""

from torch import nn

from pnp.errors import UserError


def projector(dim: int, *, hidden: int = 512, out: int = 128, layers: int = 3) -> nn.Sequential:
    """MLP with BatchNorm and ReLU between its `layers` linear maps; the last one is bare.

    Args:
        dim: features coming in.
        hidden: width in between.
        out: embedding dimensions D.
        layers: linear maps, at least 1.

    Raises:
        UserError: a size below 1.
    """
    for name, value in (("hidden", hidden), ("out", out), ("layers", layers)):
        if value < 1:
            raise UserError(f"projector {name}={value} must be at least 1.")
    blocks: list[nn.Module] = []
    for _ in range(layers - 1):
        # BatchNorm follows, so a bias would be subtracted again.
        blocks += [
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
        ]
        dim = hidden
    return nn.Sequential(*blocks, nn.Linear(dim, out, bias=False))
