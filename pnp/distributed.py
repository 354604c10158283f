"""The only file that knows torch.distributed: one process is the identity everywhere."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank; 0 when there is one process."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """The number of processes that train together; 1 when there is one process."""
    return dist.get_world_size() if _active() else 1


class _Gather(torch.autograd.Function):
    """Concatenate every rank's rows; backward keeps this rank's slice, times the world size.

    Every rank computes the same loss L of the gathered rows, so each already holds all of dL/dz.
    DDP averages parameter gradients over W ranks, hence W · dL/dz of the own rows: averaging then
    gives exactly the gradient of L on the global batch, without a collective in backward.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, dim: int) -> Tensor:
        parts = [torch.empty_like(z) for _ in range(world_size())]
        dist.all_gather(parts, z.contiguous())
        ctx.dim, ctx.rows = dim, z.shape[dim]
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        own = grad_outputs[0].narrow(ctx.dim, rank() * ctx.rows, ctx.rows)
        return own * world_size(), None


def gather(z: Tensor, dim: int = 0) -> Tensor:
    """Concatenate `z` of all ranks along `dim`, with the gradient that DDP's averaging needs.

    Args:
        z: the local rows; every rank must bring the same shape (the loader sees to it).
        dim: the dimension that counts images.

    Returns:
        The global tensor, equal on all ranks; `z` itself when there is one process.
    """
    return z if world_size() == 1 else _Gather.apply(z, dim)  # pyright: ignore[reportReturnType]
