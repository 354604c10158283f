"""stable-pretraining's documented BYOL and VICReg, with our backbone, sizes and view parameters.

Its package's Module, forward functions, losses, teacher, transforms and data set wrapper, with the
projectors of its CIFAR-10 examples' kind. Runs in an environment that has it (`step.py
--stable-pretraining`), which need not be ours. Its Manager is left out: it adds checkpoints and
logs to the same Trainer. So are its options for a GPU, `gpu_transform` and `make_it_fast`.
"""

from itertools import pairwise
from typing import Any

import stable_pretraining as spt
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from stable_pretraining import forward
from stable_pretraining.data import transforms
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pnp.backbones import backbone
from pnp.data import ambiguous

SIZE = 32


class Pairs(Dataset):
    """PIL images with a label, as torchvision's data sets give them."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.fromarray(self.images[index]), 0


def mlp(dim: int, hidden: int, out: int, layers: int = 2) -> nn.Sequential:
    """Linear layers with BatchNorm and ReLU between them, as everywhere in this comparison."""
    widths = [dim, *[hidden] * (layers - 1)]
    inner = [
        part
        for a, b in pairwise(widths)
        for part in (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())
    ]
    return nn.Sequential(*inner, nn.Linear(widths[-1], out))


def view(views: dict[str, Any]) -> Any:
    """One view as its CIFAR-10 examples compose it, with our parameters."""
    jitter = {name: views[name] for name in ("brightness", "contrast", "saturation", "hue")}
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((SIZE, SIZE), scale=tuple(views["scale"])),
        transforms.RandomHorizontalFlip(p=views["flip"]),
        transforms.ColorJitter(**jitter, p=views["jitter"]),
        transforms.RandomGrayscale(p=views["grayscale"]),
        transforms.ToImage(mean=[0.5] * 3, std=[0.5] * 3),
    )


def documented(
    config: dict[str, Any], method: str, *, images: int, num_workers: int, **loading: Any
) -> tuple[Any, DataLoader, list[Callback]]:
    """Module, loader and callbacks.

    Args:
        config: of pnp-train, plain: model, heads, views and batch are its.
        method: byol or vicreg.
        images: of the set; the first ones of `ambiguous`.
        num_workers: of the DataLoader.
        loading: other options of it.

    Raises:
        ValueError: another method.
    """
    if method not in ("byol", "vicreg"):
        raise ValueError(f"stable-pretraining is matched for byol and vicreg, not for {method!r}")
    model = dict(config["model"])
    sizes = {**model.pop("projector"), **(config["method"]["projector"] or {})}
    sizes = {name: sizes[name] for name in ("hidden", "out", "layers")}
    net = backbone(**model, in_channels=3, image_size=SIZE)
    dim: Any = net.dim
    optim = {"optimizer": {"type": "SGD", "lr": 0.06, "momentum": 0.9}}
    callbacks: list[Callback] = []
    if method == "byol":
        module = spt.Module(
            forward=forward.byol,
            backbone=spt.TeacherStudentWrapper(net),
            projector=spt.TeacherStudentWrapper(mlp(dim, **sizes)),
            predictor=mlp(sizes["out"], sizes["hidden"], sizes["out"]),
            byol_loss=spt.losses.BYOLLoss(),
            optim=optim,
        )
        callbacks.append(spt.callbacks.TeacherStudentCallback())
    else:
        module = spt.Module(
            forward=forward.vicreg,
            backbone=net,
            projector=mlp(dim, **sizes),
            vicreg_loss=spt.losses.VICRegLoss(),
            optim=optim,
        )
    pixels = ambiguous.draw("train", images, size=SIZE).images
    assert isinstance(pixels, torch.Tensor)
    pairs = Pairs(pixels.permute(0, 2, 3, 1).contiguous().numpy())
    two = transforms.MultiViewTransform([view(config["views"]) for _ in range(2)])
    loader = DataLoader(
        spt.data.FromTorchDataset(pairs, names=["image", "label"], transform=two),
        batch_size=config["data"]["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        **loading,
    )
    return module, loader, callbacks
