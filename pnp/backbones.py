"""Backbones by name: each maps images (N, C, H, W) to features (N, dim) and knows its `.dim`."""

from difflib import get_close_matches
from functools import partial
from inspect import signature
from itertools import pairwise

import torch
from torch import Tensor, nn

from pnp import plugins
from pnp.errors import UserError, choice, whole

SMALL_IMAGE = 64
# What models raise that cannot take images of a size.
TOO_SMALL = (
    RuntimeError, AssertionError, ValueError, IndexError, TypeError, ArithmeticError,
)  # fmt: skip
NAMES = ("small_cnn", "resnet18", "resnet50")


class SmallCNN(nn.Module):
    """A few 3×3 convolutions with BatchNorm and ReLU, halving the image as they double the width.

    Args:
        in_channels: channels of the images.
        width: channels after the first block; block k has `width · 2^k`.
        depth: blocks; all but the first halve the image.
        pool: the last map is averaged down to `pool × pool` cells: 1 forgets where things are.
    """

    def __init__(self, in_channels: int, width: int, depth: int, pool: int) -> None:
        super().__init__()
        channels = [in_channels, *(width << k for k in range(depth))]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2 if k else 1, padding=1, bias=False),
                    nn.BatchNorm2d(b),
                    nn.ReLU(inplace=True),
                )
                for k, (a, b) in enumerate(pairwise(channels))
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.dim = channels[-1] * pool**2

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, dim): the cells of the last map, one after the other."""
        return self.pool(self.blocks(images)).flatten(1)


def backbone(
    name: str = "small_cnn",
    *,
    in_channels: int = 3,
    image_size: int = 32,
    stem: str = "auto",
    width: int = 32,
    depth: int = 4,
    pool: int = 2,
    pretrained: bool = False,
) -> nn.Module:
    """Build a backbone whose `.dim` is the number of its features.

    Args:
        name: `small_cnn`, `resnet18`, `resnet50` (torchvision) or `timm:NAME` (any timm model), or
            `PACKAGE.MODULE:CLASS` of an allowed plugin, see `pnp.plugins`.
        in_channels: channels of the images.
        image_size: side of the images, in pixels.
        stem: first layers of a ResNet: `large` is ImageNet's (7×7 stride 2, max-pool), `small` is
            3×3 stride 1 without pooling, `auto` takes `small` up to 64 px.
        width: channels of the first block of `small_cnn`.
        depth: blocks of `small_cnn`.
        pool: cells per side that `small_cnn` keeps of its last map.
        pretrained: load timm's published weights (timm models only).

    Raises:
        UserError: an unknown name or stem, an image too small, or the large stem on images of at
            most 64 px, where it throws away most of the image.
    """
    choice("model.stem", stem, ("auto", "small", "large"))
    if ":" in name and not name.startswith("timm:"):
        return _plugin(name, in_channels, image_size)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), in_channels, image_size, pretrained)
    choice("model.name", name, (*NAMES, "timm:NAME", "PACKAGE.MODULE:CLASS"))
    if pretrained:
        raise UserError(
            f"model.pretrained=true works with timm models; {name} starts from scratch."
        )
    if name == "small_cnn":
        for key, value in (("width", width), ("depth", depth), ("pool", pool)):
            whole(f"model.{key}", value)
        if image_size < 1 << depth:
            raise UserError(
                f"images of {image_size} px are too small for small_cnn with depth {depth}: it "
                f"needs {1 << depth} px. Use larger images or a smaller model.depth."
            )
        return SmallCNN(in_channels, width, depth, pool)
    return _resnet(name, in_channels, image_size, stem)


def _plugin(name: str, in_channels: int, image_size: int) -> nn.Module:
    """A backbone of the user's own: called with as much of the two numbers as it takes."""
    make = plugins.find(name, "model.name")
    numbers = {"in_channels": in_channels, "image_size": image_size}
    taken = signature(make).parameters
    net = make(**{key: value for key, value in numbers.items() if key in taken})
    if not hasattr(net, "dim"):
        with torch.no_grad():
            features = net.eval()(torch.zeros(2, in_channels, image_size, image_size))
        if features.ndim != 2:
            raise UserError(
                f"model.name={name} gives {tuple(features.shape)}; expected features (N, dim)."
            )
        net.train().dim = features.shape[1]
    return net


def _resnet(name: str, in_channels: int, image_size: int, stem: str) -> nn.Module:
    from torchvision import models

    small = stem == "small" or (stem == "auto" and image_size <= SMALL_IMAGE)
    if image_size < 8:
        raise UserError(f"images of {image_size} px are too small for {name}: it needs 8 px.")
    if not small and image_size <= SMALL_IMAGE:
        raise UserError(
            f"model.stem=large shrinks {image_size} px images to {image_size // 32} px and costs "
            f"tens of points of accuracy; up to {SMALL_IMAGE} px use model.stem=small (or auto)."
        )
    net = getattr(models, name)(weights=None)
    if small:
        net.conv1 = nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    net.dim = net.fc.in_features
    net.fc = nn.Identity()
    return net


def _timm(name: str, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"model.name=timm:{name}: timm has no model of that name.{hint}")
    make = partial(
        timm.create_model, name, pretrained=pretrained, in_chans=in_channels, num_classes=0
    )
    try:
        try:
            net = make(img_size=image_size)
        except TypeError:  # convolutional models take any size and refuse the argument
            net = make()
    except (*TOO_SMALL, OSError) as error:
        if not pretrained:
            raise _refusal(name, image_size, error) from error
        _timm(name, in_channels, image_size, pretrained=False)  # refused where the size is at fault
        raise UserError(
            f"pretrained=true: there are no weights of timm:{name} to be had ({_reason(error)}). "
            "Give pretrained=false, or state_dict=FILE."
        ) from error
    net.dim = _width(net, name, in_channels, image_size)  # pyright: ignore[reportArgumentType]
    return net


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refusal(name: str, image_size: int, error: Exception) -> UserError:
    import timm

    made_for = getattr(timm.get_pretrained_cfg(name), "input_size", (3, 224, 224))[-1]
    return UserError(
        f"timm:{name} cannot take {image_size} px images ({_reason(error)}). Use "
        f"data.size={made_for}, for which it is made, or another model."
    )


def _width(net: nn.Module, name: str, in_channels: int, image_size: int) -> int:
    """Number of features that a network returns, found by running it: timm's own number may differ.

    Raises:
        UserError: it cannot take such images, or returns no vector for each.
    """
    modes = {module: module.training for module in net.modules()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            features = net.eval()(torch.zeros(2, in_channels, image_size, image_size))
    except TOO_SMALL as error:
        raise _refusal(name, image_size, error) from error
    for module, mode in modes.items():
        module.training = mode
    if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[1] < 1:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(
            f"timm:{name} returns {shape} instead of one vector for each image: choose a model for "
            "classification."
        )
    return features.shape[1]
