"""One network of a method: backbone, projector, and a head where the method has one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnp.geometry import unit


class Network(nn.Module):
    """Backbone, then projector, then head: images to features, embeddings z and outputs.

    Args:
        backbone: images (N, C, H, W) to features (N, F).
        projector: features to z (N, D).
        head: z to the outputs that the objective compares (N, K): a predictor or prototypes; None
            compares z itself.
        normalize: put z on the unit sphere before it goes on.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        head: nn.Module | None = None,
        *,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.projector, self.head = backbone, projector, head
        self.normalize = normalize

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F) and unit embeddings (N, D), the latter in float32: what is looked at."""
        features, z = self.encode(images)
        return features, unit(z)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F) and z (N, D) in float32, unit if `normalize`: what is trained."""
        features = self.backbone(images)
        z = self.projector(features)
        return features, unit(z) if self.normalize else _widened(z)

    def outputs(self, z: Float[Tensor, "v n d"]) -> Float[Tensor, "v n k"]:
        """What the head makes of z, each view by itself; z where there is no head."""
        if self.head is None:
            return z
        return torch.stack([_widened(self.head(view)) for view in z])


def _widened(z: Tensor) -> Tensor:
    """At least float32: statistics of a batch follow."""
    return z if z.dtype == torch.float64 else z.float()


@contextmanager
def frozen_buffers(module: nn.Module) -> Iterator[None]:
    """Leave the module's buffers (BatchNorm's running statistics) as they were before."""
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, old in zip(module.buffers(), before, strict=True):
            buffer.copy_(old)
