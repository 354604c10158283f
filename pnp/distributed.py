"""The only file that knows torch.distributed: one process is the identity everywhere."""

import atexit
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank; 0 when there is one process."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """The number of processes that train together; 1 when there is one process."""
    return dist.get_world_size() if _active() else 1


@contextmanager
def gloo_group(store: str, rank: int, world: int) -> Generator[None]:
    """Make this process one of a group on the CPU that meets in a file, and leave it at the end.

    Args:
        store: path of a new file, the same for all. Not a port: another process could take it.
        rank: of this process.
        world: number of processes.
    """
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        yield
        dist.barrier()  # nobody leaves while another still reads
    finally:
        dist.destroy_process_group()


def leave_at_exit() -> None:
    """Leave the group of processes, if there is one, before the interpreter ends.

    Otherwise a gloo thread may still be freeing a tensor, which aborts the process ("terminate
    called without an active exception"); Lightning then kills the other ranks in the middle of
    their evaluation. Call it after the last collective.
    """
    if _active():
        atexit.register(_leave)


def _leave() -> None:
    if _active():  # Lightning leaves by itself with NCCL
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """Concatenate every rank's rows; backward keeps this rank's slice, times the world size.

    Every rank computes the loss L of the gathered rows, and at least dL/dz of its own rows. DDP
    averages parameter gradients over W ranks, hence W · dL/dz of these rows: the average is then
    exactly the gradient of L on the global batch, without a collective in backward.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, dim: int, counts: list[int]) -> Tensor:
        # Collectives need one shape: shorter shares are padded, and the padding is cut off again.
        shape = list(z.shape)
        shape[dim] = max(counts)
        padded = z.new_zeros(shape)
        padded.narrow(dim, 0, z.shape[dim]).copy_(z)
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        ctx.dim, ctx.start, ctx.count = dim, sum(counts[: rank()]), z.shape[dim]
        return torch.cat([p.narrow(dim, 0, n) for p, n in zip(parts, counts, strict=True)], dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        local = grad_outputs[0].narrow(ctx.dim, ctx.start, ctx.count)
        return local * world_size(), None, None


def gather(z: Tensor, dim: int = 0) -> Tensor:
    """Concatenate `z` of all ranks along `dim`, with the gradient that DDP's averaging needs.

    Args:
        z: this rank's rows; ranks may have different numbers of them.
        dim: the dimension that counts images.

    Returns:
        The global tensor, equal on all ranks; `z` itself when there is one process.
    """
    return gather_images(z, dim)[0]


def gather_images(z: Tensor, dim: int = 0) -> tuple[Tensor, slice | None]:
    """`gather`, and the slice of this rank's images in it; None when there is one process."""
    if world_size() == 1:
        return z, None
    shares = all_numbers(z.shape[dim])
    start = sum(shares[: rank()])
    gathered: Any = _Gather.apply(z, dim, shares)
    return gathered, slice(start, start + z.shape[dim])


class _GlobalMean(torch.autograd.Function):
    """The mean over all ranks' images; backward is this rank's share, times the world size."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, count: int) -> Tensor:
        summed = all_sum(torch.stack([mean * count, mean.new_tensor(count)]))
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


def all_sum(value: Tensor) -> Tensor:
    """Sum `value` over ranks, without gradient."""
    return _reduced(value, dist.ReduceOp.SUM)


def all_max(value: Tensor) -> Tensor:
    """Take the largest `value` of all ranks, without gradient."""
    return _reduced(value, dist.ReduceOp.MAX)


_beside: tuple[Any, Any] = (None, None)  # the group of all processes, and the one for their hosts


def all_numbers(value: int) -> list[int]:
    """Give every rank the whole numbers of all ranks, from host to host: no device is waited for.

    Where processes talk over NCCL, a second group talks over gloo; every rank calls this together.
    """
    global _beside
    if world_size() == 1:
        return [value]
    flag.exchanged = True
    world = dist.group.WORLD
    if _beside[0] is not world:
        hosts = world if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        _beside = (world, hosts)
    mine = torch.tensor([value, flag.mine])
    numbers = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(numbers, mine, group=_beside[1])
    flag.seen |= any(bool(number[1]) for number in numbers)
    return [int(number[0]) for number in numbers]


class Flag:
    """A flag of every rank that rides on the next `all_numbers`: no wait of its own in a step."""

    mine = seen = exchanged = False

    def raised(self, mine: bool, *, now: bool = False) -> bool:
        """Tell whether any rank's flag was up at an exchange since the last call.

        Every rank calls it together and gets the same answer.

        Args:
            mine: raise or lower this rank's flag, for the next exchange.
            now: exchange at once, as happens anyway where nothing was exchanged since.
        """
        if world_size() == 1:
            return mine
        self.mine = mine
        if now or not self.exchanged:
            all_numbers(0)
        seen, self.seen, self.exchanged = self.seen, False, False
        return seen


flag = Flag()


def broadcast(value: T) -> T:
    """Give every rank the value of rank 0; any object that pickles."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _reduced(value: Tensor, operation: Any) -> Tensor:
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value, operation)
    return value


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Replace every gradient of `module` by its mean over ranks, in one reduction per dtype.

    DistributedDataParallel does so after each backward; this is for a step of several backwards.
    With one process it does nothing.
    """
    if world_size() == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    for dtype in {g.dtype for g in grads}:
        alike = [g for g in grads if g.dtype == dtype]
        flat = torch.cat([g.flatten() for g in alike])
        dist.all_reduce(flat)
        start = 0
        for grad in alike:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad) / world_size())
            start += grad.numel()


def broadcast_from_store(key: str, value: str) -> str:
    """Give every rank the value of rank 0 through torchrun's store, without a process group.

    Args:
        key: names the value; use each once per process.
        value: ignored on ranks other than 0.
    """
    env = os.environ
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False
    )
    name = f"pnp/{env.get('TORCHELASTIC_RESTART_COUNT', '0')}/{key}"
    if env["RANK"] == "0":
        store.set(name, value)
    return store.get(name).decode()
