"""Micro-batches: the exact gradient of a batch whose activations do not fit into memory.

Gradient caching, Gao et al. 2021, https://arxiv.org/abs/2101.06983. The pieces of the batch are
embedded without a graph and the objective sees all of them. When the gradient dL/d outputs arrives,
each piece is embedded again, with the same random draws, and passes its share on to the weights.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from pnp.networks import Outputs


def embed(
    forward: Callable[..., Outputs],
    pieces: Sequence[Tensor],
    draws: Callable[[], torch.Generator],
    student: nn.Module,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Outputs:
    """Compute the outputs of a batch from those of its pieces.

    Running statistics of BatchNorm take in each piece once. With several processes the gradients
    stay local: average them after the backward pass.

    Args:
        forward: (images, draws, piece number, targets=False leaves the teacher out) -> outputs.
        pieces: the batch, cut along its images.
        draws: starts the random numbers of the batch.
        student: the module that is trained.
        autocast: context of the forward passes.

    Returns:
        The outputs of the whole batch. Those of the student are a leaf, whose backward pass embeds
        the pieces again.
    """
    generator = draws()
    with torch.no_grad(), _frozen_buffers(student):
        parts = [forward(piece, generator, i) for i, piece in enumerate(pieces)]
    outputs = Outputs(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))

    def backward(gradient: Tensor) -> None:
        generator = draws()
        shares = gradient.split([len(piece) for piece in pieces], 1)
        for i, (piece, share) in enumerate(zip(pieces, shares, strict=True)):
            with torch.enable_grad(), autocast():
                again = forward(piece, generator, i, targets=False)
            again.student.backward(share)

    leaf = outputs.student.requires_grad_()
    leaf.register_hook(backward)
    return outputs._replace(student=leaf)


@contextmanager
def _frozen_buffers(module: nn.Module) -> Generator[None]:
    """Restore the module's buffers (BatchNorm's running statistics) at the end."""
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, old in zip(module.buffers(), before, strict=True):
            buffer.copy_(old)
