"""Frozen features: one clean pass of a network over a set of images."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from pnp.data import ImageSet

Autocast = Callable[[], AbstractContextManager]


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
) -> list[Tensor]:
    """Every output of `network` for every image, in order, in float32 on the CPU.

    The network is put in evaluation mode (BatchNorm and dropout frozen) and given back as it was.

    Args:
        network: images (N, C, S, S) to a tensor or a tuple of tensors, each `(N, …)`.
        images: the set to run over.
        plain: uint8 images to normalised ones, without augmentation.
        device: where the network lives.
        batch_size: images per forward.
        memory_format: of the images.
        autocast: context for each forward, for instance bf16 autocast.
        advance: called with the number of images done after each batch, for progress bars.

    Returns:
        One tensor `(N, …)` per output.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    batches = []
    for start in range(0, len(images), batch_size):
        index = torch.arange(start, min(start + batch_size, len(images)))
        batch = plain(images.batch(index).to(device)).contiguous(memory_format=memory_format)
        with autocast():
            outputs = network(batch)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        batches.append([output.float().cpu() for output in outputs])
        advance(len(index))
    for module, mode in modes.items():
        module.training = mode
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]
