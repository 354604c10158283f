"""The only file that knows torch.distributed: one process is the identity everywhere."""

import atexit
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank; 0 when there is one process."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """The number of processes that train together; 1 when there is one process."""
    return dist.get_world_size() if _active() else 1


def leave_at_exit() -> None:
    """Leave the group of processes, if there is one, before the interpreter ends.

    Otherwise a thread of gloo may be letting go of a tensor just then, which aborts the process
    ("terminate called without an active exception"); Lightning then kills the other ranks in the
    middle of their evaluation. Call it when no collective is left to come.
    """
    if _active():
        atexit.register(_leave)


def _leave() -> None:
    if _active():  # Lightning leaves by itself with NCCL
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """Concatenate every rank's rows; backward keeps this rank's slice, times the world size.

    Every rank has the loss L of the gathered rows, and dL/dz of its own ones at least. DDP averages
    parameter gradients over W ranks, hence W · dL/dz of the own rows: averaging then gives exactly
    the gradient of L on the global batch, without a collective in backward.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, dim: int, counts: list[int]) -> Tensor:
        # Collectives want one shape: short ranks are filled up, and the filling is cut off again.
        shape = list(z.shape)
        shape[dim] = max(counts)
        sent = z.new_zeros(shape)
        sent.narrow(dim, 0, z.shape[dim]).copy_(z)
        parts = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(parts, sent)
        ctx.dim, ctx.start, ctx.count = dim, sum(counts[: rank()]), z.shape[dim]
        return torch.cat([p.narrow(dim, 0, n) for p, n in zip(parts, counts, strict=True)], dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        own = grad_outputs[0].narrow(ctx.dim, ctx.start, ctx.count)
        return own * world_size(), None, None


def gather(z: Tensor, dim: int = 0) -> Tensor:
    """Concatenate `z` of all ranks along `dim`, with the gradient that DDP's averaging needs.

    Args:
        z: the local rows; ranks may bring different numbers of them.
        dim: the dimension that counts images.

    Returns:
        The global tensor, equal on all ranks; `z` itself when there is one process.
    """
    return gather_images(z, dim)[0]


def gather_images(z: Tensor, dim: int = 0) -> tuple[Tensor, slice | None]:
    """`gather`, and where this rank's images are in it; None when there is one process."""
    if world_size() == 1:
        return z, None
    mine = torch.tensor([z.shape[dim]], device=z.device)
    counts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(counts, mine)
    numbers = [int(n) for n in counts]
    start = sum(numbers[: rank()])
    everyone: Any = _Gather.apply(z, dim, numbers)
    return everyone, slice(start, start + z.shape[dim])


class _GlobalMean(torch.autograd.Function):
    """The mean over all ranks' images; backward is the own share, times the world size."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, count: int) -> Tensor:
        summed = total(torch.stack([mean * count, mean.new_tensor(count)]))
        ctx.save_for_backward(world_size() * count / summed[1])
        return summed[0] / summed[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (share,) = ctx.saved_tensors
        return grad_outputs[0] * share, None


def global_mean(mean: Tensor, count: int) -> Tensor:
    """The mean over the images of all ranks, with the gradient that DDP's averaging needs.

    Args:
        mean: a scalar, the mean over this rank's images.
        count: this rank's images; ranks may have different numbers of them.

    Returns:
        A scalar, equal on all ranks; `mean` itself when there is one process.
    """
    if world_size() == 1:
        return mean
    value: Any = _GlobalMean.apply(mean, count)
    return value


def total(value: Tensor) -> Tensor:
    """The sum of `value` over ranks, without gradient."""
    return _reduced(value, dist.ReduceOp.SUM)


def largest(value: Tensor) -> Tensor:
    """The largest `value` of all ranks, without gradient."""
    return _reduced(value, dist.ReduceOp.MAX)


def told(answer: bool) -> bool:
    """What rank 0 answers, on every rank."""
    if world_size() == 1:
        return answer
    box = [answer]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _reduced(value: Tensor, how: Any) -> Tensor:
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value, how)
    return value


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Replace every gradient of `module` by its mean over ranks, in one reduction per dtype.

    What DistributedDataParallel does after each backward, for a step of several backwards. Nothing
    happens with one process.
    """
    if world_size() == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    for dtype in {g.dtype for g in grads}:
        some = [g for g in grads if g.dtype == dtype]
        flat = torch.cat([g.flatten() for g in some])
        dist.all_reduce(flat)
        start = 0
        for grad in some:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad) / world_size())
            start += grad.numel()


def told_by_rank_0(key: str, value: str) -> str:
    """Rank 0's `value`, before a process group exists, through the store that torchrun keeps.

    Args:
        key: names the question; ask each once per process.
        value: this rank's own answer, which counts on rank 0 only.
    """
    env = os.environ
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False
    )
    name = f"pnp/{env.get('TORCHELASTIC_RESTART_COUNT', '0')}/{key}"
    if env["RANK"] == "0":
        store.set(name, value)
    return store.get(name).decode()
