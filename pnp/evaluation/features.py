"""Frozen features: one clean pass of a network over a set of images, kept on disk."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pnp.data import ImageSet
from pnp.distributed import broadcast, gather, rank, world_size
from pnp.files import replacing

Autocast = Callable[[], AbstractContextManager[Any]]


@torch.no_grad()
def extract(
    network: nn.Module,
    images: ImageSet,
    plain: Callable[[Tensor], Tensor],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 500,
    memory_format: torch.memory_format = torch.contiguous_format,
    autocast: Autocast = nullcontext,
    advance: Callable[[int], object] = lambda done: None,
    shared: bool = False,
    views: int = 1,
) -> list[Tensor]:
    """Every output of `network` for every image, in order, in float32 on the CPU.

    The network is put in evaluation mode (BatchNorm and dropout frozen) and given back as it was.

    Args:
        network: images (N, C, S, S) to a tensor or a tuple of tensors, each `(N, …)`.
        images: the set to run over.
        plain: uint8 images to normalised ones, without augmentation; with `views` to that many
            of each, the first of all images first.
        device: where the network lives.
        batch_size: images per forward.
        memory_format: of the images.
        autocast: context for each forward, for instance bf16 autocast.
        advance: called with the number of images done after each batch, for progress bars.
        shared: all processes call this, each takes its part of the images, all get everything.
        views: outputs are the mean over that many views of an image.

    Returns:
        One tensor `(N, …)` per output.
    """
    ranks = world_size() if shared else 1
    first, last = (len(images) * (rank() % ranks + i) // ranks for i in (0, 1))
    modes = {module: module.training for module in network.modules()}
    network.eval()
    batches = []
    mine = torch.arange(first, last)
    # A process without images of its own runs one and keeps none of it, for the shapes.
    for index in mine.split(batch_size) if len(mine) else [torch.zeros(1, dtype=torch.int64)]:
        batch = plain(images.batch(index).to(device)).contiguous(memory_format=memory_format)
        with autocast():
            outputs = network(batch)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        means = (output.float().unflatten(0, (views, -1)).mean(0) for output in outputs)
        batches.append([output[: len(mine)].cpu() for output in means])
        advance(len(index))
    for module, mode in modes.items():
        module.training = mode
    outputs = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    # Collectives of a GPU run want tensors on the GPU.
    return [gather(part.to(device)).cpu() for part in outputs] if ranks > 1 else outputs


def fingerprint(network: nn.Module, preprocessing: str) -> str:
    """Hash of weights and preprocessing: all that features depend on besides the images."""
    sha = hashlib.sha256(f"{type(network).__qualname__} {preprocessing}".encode())
    for name, value in network.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def remembered(
    folder: Path | None,
    key: str,
    outputs: int,
    make: Callable[[], list[Tensor]],
) -> list[Tensor]:
    """Memory-map what an earlier `make()` left in `folder`, or call it and keep the result.

    Several jobs may share a folder. Of a distributed run all processes call this: rank 0 decides,
    reads and writes, the others only help to make; they get nothing where nothing had to be made.

    Args:
        folder: the cache; None makes anew each time.
        key: names weights, preprocessing and images.
        outputs: how many tensors `make` returns.
        make: the work.
    """
    if folder is None:
        return make()
    files = [folder / f"{key}-{i}.npy" for i in range(outputs)]
    there = broadcast(all(file.exists() for file in files))
    if rank() > 0:
        return [] if there else make()
    if not there:
        folder.mkdir(parents=True, exist_ok=True)
        for file, tensor in zip(files, make(), strict=True):
            with replacing(file) as part, part.open("wb") as stream:
                np.save(stream, tensor.numpy())
    # "c": pages are private when written to, which nobody does; torch wants a writable buffer.
    return [torch.from_numpy(np.load(file, mmap_mode="c")) for file in files]
