"""Colour operations on a batch of float images in [0, 1], each image with its own parameters.

They are torchvision's operations on float images, without loops over images and without
data-dependent shapes, so that nothing waits for the device.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad


def luma(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Grey value of every pixel, with the ITU-R 601-2 weights as torchvision rounds them."""
    red, green, blue = images.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def turn_hue(
    images: Float[Tensor, "n 3 h w"], turns: Float[Tensor, " n"]
) -> Float[Tensor, "n 3 h w"]:
    """Rotate the hue of each image by its own number of turns; value and saturation stay.

    Equals RGB → HSV → add → RGB, in closed form. With `low` and `chroma` the least channel and the
    range of the pixel, its hue in sixths of a turn is `±(1 + (g + b − r − low) / chroma)`, with the
    sign of g − b; and at hue t in [0, 6] each channel is `low + chroma · clip(ramp(t), 0, 1)` with
    the ramps |t−3|−1 (red), 2−|t−2| (green), 2−|t−4| (blue). Nothing is selected per sector: on a
    CPU `torch.where` and boolean masks would cost five times all the rest.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> turn_hue(red, torch.tensor([1 / 3])).flatten().round().tolist()
        [0.0, 1.0, 0.0]
    """
    red, green, blue = images.unbind(1)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(low)
    # A grey pixel divides 0 by the small number: any hue will do, its chroma is 0.
    t = (green - low).add_(blue - red).div_(chroma.clamp_min(1e-30)).add_(1.0)
    t = t.copysign_(green - blue).add_(turns.view(-1, 1, 1), alpha=6.0)
    t.sub_(torch.floor(t / 6.0), alpha=6.0)
    ramps = torch.stack((t - 3.0, t - 2.0, t - 4.0), 1).abs_()
    ramps[:, :1].sub_(1.0)
    ramps[:, 1:].neg_().add_(2.0)
    return ramps.clamp_(0.0, 1.0).mul_(chroma.unsqueeze(1)).add_(low.unsqueeze(1))


def jitter(
    images: Float[Tensor, "n c h w"],
    operations: Sequence[str],
    factors: Float[Tensor, "n k"],
    order: Int[Tensor, "n k"],
    turns: Float[Tensor, " n"] | None = None,
    places: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Colour jitter in which each image has its own factors and its own order of operations.

    Brightness, contrast and saturation are one formula, `clip(a·x + q·grey(x) + m·mean(grey(x)))`,
    so every image can take them in its own order at the same cost. Hue is costly and therefore
    computed once per image: `places` is cut into k+1 equal parts, and the images whose numbers
    stand in part s turn their hue just before step s (part k: after the last step).

    Args:
        images: Values in [0, 1]; may be overwritten. One or three channels.
        operations: k different names of "brightness", "contrast", "saturation".
        factors: `factors[i, j]` belongs to image i and `operations[j]`; 1 is the identity.
        order: `order[i]` is the order in which image i meets the operations, as indices.
        turns: Hue shift in turns, 0 is the identity; None leaves the hue out.
        places: Only with `turns`: a permutation of 0 … m−1, with m the first multiple of k+1 that
            is at least n. (Numbers from n on stand for no image: they keep the parts equal, so
            that in a small batch too every place has the same chance.)
    """
    n, k = factors.shape
    a = factors.gather(1, order)
    shares = {  # of the grey image (q) and of its mean (m), in the order of the steps
        name: (1.0 - a) * (order == operations.index(name))
        for name in ("saturation", "contrast")
        if name in operations
    }
    buffer, parts = images, []
    if turns is not None and places is not None:
        if spare := len(places) - n:
            buffer, turns = pad(images, (0, 0, 0, 0, 0, 0, 0, spare)), pad(turns, (0, spare))
        by = turns.index_select(0, places).tensor_split(k + 1)
        parts = list(zip(places.tensor_split(k + 1), by, strict=True))
    x = buffer[:n]  # a view: each step changes the images in the buffer
    for step in range(k + 1):
        if parts:
            part, by = parts[step]
            buffer.index_copy_(0, part, turn_hue(buffer.index_select(0, part), by))
        if step == k:
            break
        grey = luma(x) if shares and x.shape[1] == 3 else x
        offset = 0.0
        if "contrast" in shares:
            offset = grey.mean((1, 2, 3), keepdim=True) * _column(shares["contrast"], step)
        if "saturation" in shares:
            offset = grey * _column(shares["saturation"], step) + offset
        x.mul_(_column(a, step)).add_(offset).clamp_(0.0, 1.0)
    return x


def _column(table: Float[Tensor, "n k"], step: int) -> Float[Tensor, "n 1 1 1"]:
    return table[:, step].view(-1, 1, 1, 1)


def to_grey(
    images: Float[Tensor, "n 3 h w"], chosen: Bool[Tensor, " n"]
) -> Float[Tensor, "n 3 h w"]:
    """Replace the chosen images by their grey values, in all three channels; in place."""
    # lerp is exact at 0 and 1, and on a CPU several times as fast as torch.where.
    return images.lerp_(luma(images), chosen.to(images.dtype).view(-1, 1, 1, 1))


def solarize(
    images: Float[Tensor, "n c h w"], chosen: Bool[Tensor, " n"], threshold: float
) -> Float[Tensor, "n c h w"]:
    """Invert the values at or above `threshold` in the chosen images; in place."""
    bright = images.clone().ge_(threshold).mul_(chosen.view(-1, 1, 1, 1))
    return images.lerp_(1.0 - images, bright)


def normalise(
    images: Float[Tensor, "*n c h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "*n c h w"]:
    """Subtract the mean and divide by the standard deviation, per channel or for all; in place."""
    # Scalars, not tensors: a tensor of constants would be copied to the device in every step.
    if len(mean) == len(std) == 1:
        planes = (images,)
    else:
        planes = images.unbind(-3)
        mean, std = (tuple(v) * (len(planes) // len(v)) for v in (mean, std))
    for plane, m, s in zip(planes, mean, std, strict=True):
        if m != 0.0:
            plane.sub_(m)
        if s != 1.0:
            plane.div_(s)
    return images
