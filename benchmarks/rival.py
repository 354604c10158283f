"""lightly's documented example of BYOL and of VICReg, with our backbone, sizes and view parameters.

Its package's transforms, heads, losses and EMA, on PIL images that a data set in the manner of
torchvision's CIFAR10 makes of an array in memory. Where the examples leave something open, it gets
what is fastest: persistent workers, and pinned memory on a GPU.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightly.loss import NegativeCosineSimilarity, VICRegLoss
from lightly.models.modules.heads import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    VICRegProjectionHead,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.byol_transform import (
    BYOLTransform,
    BYOLView1Transform,
    BYOLView2Transform,
)
from lightly.transforms.vicreg_transform import VICRegTransform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pnp.backbones import backbone
from pnp.data import ambiguous

SIZE = 32


class PilImages:
    """A data set: an array in memory, transformed PIL images out."""

    def __init__(self, images: Any, transform: Callable[[Any], Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


class Example(L.LightningModule):
    """What both examples share."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = net

    def configure_optimizers(self) -> Any:
        """As documented."""
        return torch.optim.SGD(self.parameters(), lr=0.06)


class BYOL(Example):
    """Student with predictor, EMA teacher, negative cosine of both orders of the views."""

    def __init__(self, net: nn.Module, dim: int, mlp: dict[str, int], epochs: int) -> None:
        super().__init__(net)
        hidden, out = mlp["hidden"], mlp["out"]
        self.epochs = epochs
        self.projection_head = BYOLProjectionHead(dim, hidden, out)
        self.prediction_head = BYOLPredictionHead(out, hidden, out)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def predicted(self, x: Tensor) -> Tensor:
        """The student's outputs."""
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(1)))

    def target(self, x: Tensor) -> Tensor:
        """The teacher's."""
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(1)).detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Move the teacher, then compare."""
        momentum = cosine_schedule(self.current_epoch, self.epochs, 0.996, 1)
        update_momentum(self.backbone, self.backbone_momentum, m=momentum)
        update_momentum(self.projection_head, self.projection_head_momentum, m=momentum)
        x0, x1 = batch[0]
        p0, z0 = self.predicted(x0), self.target(x0)
        p1, z1 = self.predicted(x1), self.target(x1)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


class VICReg(Example):
    """One network, one loss of its two outputs."""

    def __init__(self, net: nn.Module, dim: int, mlp: dict[str, int], epochs: int) -> None:
        super().__init__(net)
        self.projection_head = VICRegProjectionHead(dim, mlp["hidden"], mlp["out"], mlp["layers"])
        self.criterion = VICRegLoss()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Embed both views and compare."""
        z0, z1 = (self.projection_head(self.backbone(x).flatten(1)) for x in batch[0])
        return self.criterion(z0, z1)


def view_options(views: dict[str, Any]) -> dict[str, Any]:
    """Our view parameters by lightly's names."""
    return {
        "input_size": SIZE,
        "cj_prob": views["jitter"],
        "cj_strength": 1.0,
        "cj_bright": views["brightness"],
        "cj_contrast": views["contrast"],
        "cj_sat": views["saturation"],
        "cj_hue": views["hue"],
        "min_scale": views["scale"][0],
        "random_gray_scale": views["grayscale"],
        "gaussian_blur": views["blur"],
        "hf_prob": views["flip"],
    }


def documented(
    config: dict[str, Any], method: str, *, images: int, epochs: int, **loading: Any
) -> tuple[Example, DataLoader]:
    """The module and the loader of an example.

    Args:
        config: of pnp-train, plain: model, heads, views and batch are its.
        method: byol or vicreg.
        images: of the set; the first ones of `ambiguous`.
        epochs: of the whole run.
        loading: num_workers and pin_memory of the DataLoader.
    """
    model = dict(config["model"])
    mlp = {**model.pop("projector"), **(config["method"]["projector"] or {})}
    net = backbone(**model, in_channels=3, image_size=SIZE)
    dim: Any = net.dim
    views, solarize = view_options(config["views"]), config["views"]["solarize"]
    byol = partial(
        BYOLTransform,
        BYOLView1Transform(**views),
        BYOLView2Transform(**views, solarization_prob=solarize),
    )
    vicreg = partial(VICRegTransform, **views, solarize_prob=solarize)
    make, transform = {"byol": (BYOL, byol), "vicreg": (VICReg, vicreg)}[method]
    pixels = ambiguous.draw("train", images, size=SIZE).images
    assert isinstance(pixels, Tensor)
    loader = DataLoader(
        PilImages(pixels.permute(0, 2, 3, 1).contiguous().numpy(), transform()),  # pyright: ignore[reportArgumentType]
        batch_size=config["data"]["batch_size"],
        shuffle=True,
        drop_last=True,
        persistent_workers=loading["num_workers"] > 0,
        **loading,
    )
    return make(net, dim, mlp, epochs), loader
