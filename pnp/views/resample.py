"""Crops, resizes and blurs of a batch of images, written as matrices that act on rows and columns.

Boxes, kernels and borders are torchvision's; each image has its own, without loops over images and
without data-dependent shapes, so that nothing waits for the device.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


def crop_boxes(
    n: int,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    generator: torch.Generator,
) -> Float[Tensor, "n 4"]:
    """Draw n boxes (top, left, height, width), in pixels, as torchvision's RandomResizedCrop.

    Ten candidates are drawn for each; the first that fits is taken, else the largest centred box
    whose aspect ratio is allowed.
    """
    device = generator.device
    u = torch.rand(2, n, 10, generator=generator, device=device)
    area = (scale[0] + u[0] * (scale[1] - scale[0])) * (height * width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + u[1] * (high - low))
    h, w = (area / aspect).sqrt_().round_(), (area * aspect).sqrt_().round_()
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)  # of equal maxima, the first
    fitting, h, w = (t.gather(1, first).squeeze(1) for t in (fits, h, w))
    place = torch.rand(2, n, generator=generator, device=device)
    top = torch.floor(place[0] * (height - h + 1))
    left = torch.floor(place[1] * (width - w + 1))

    centre_h, centre_w = height, width
    if width / height < ratio[0]:
        centre_h = round(width / ratio[0])
    elif width / height > ratio[1]:
        centre_w = round(height * ratio[1])
    return torch.stack(
        (
            torch.where(fitting, top, (height - centre_h) // 2),
            torch.where(fitting, left, (width - centre_w) // 2),
            torch.where(fitting, h, centre_h),
            torch.where(fitting, w, centre_w),
        ),
        1,
    )


def resize_weights(
    start: Float[Tensor, " n"],
    length: Float[Tensor, " n"],
    size: int,
    out: int,
    *,
    cubic: bool = False,
    mirror: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, "n out size"]:
    """Antialiased resize of one axis as matrices: output pixel i is `Σ_j weights[i, j] · pixel j`.

    Pixels outside `[start, start + length)` have weight 0: crop and resize are one operation. The
    kernel is a triangle or Keys' cubic (a = −½), stretched when shrinking, as in torchvision with
    antialias=True. `mirror` reverses the output axis of the images it names.

    Example:
        >>> box = torch.tensor([0.0]), torch.tensor([4.0])
        >>> resize_weights(*box, size=4, out=2)[0].mul(7).round().tolist()
        [[3.0, 3.0, 1.0, 0.0], [0.0, 1.0, 3.0, 3.0]]
    """
    device = start.device
    step = (length / out).unsqueeze(1)
    stretch = step.clamp_min(1.0)
    centre = step * (torch.arange(out, device=device) + 0.5)
    if mirror is not None:
        centre = torch.where(mirror.unsqueeze(1), centre.flip(1), centre)
    # Relative to the box, as if cropped first: keeps the rounding of the coordinates small.
    pixel = torch.arange(size, device=device) + 0.5 - start.unsqueeze(1)
    inside = (pixel > 0) & (pixel < length.unsqueeze(1))
    pixel = torch.where(inside, pixel, torch.inf) / stretch
    d = pixel.unsqueeze(1).sub((centre / stretch).unsqueeze(2)).abs_()
    if cubic:
        # Both pieces of the cubic are 0 at distance 1, so their sum needs no selection.
        near, far = d.clamp_max(1.0), d.clamp(1.0, 2.0)
        near = (1.5 * near - 2.5).mul_(near).mul_(near).add_(1.0)
        weights = near.add_((-0.5 * far + 2.5).mul_(far).sub_(4.0).mul_(far).add_(2.0))
    else:
        weights = d.neg_().add_(1.0).clamp_min_(0.0)
    return weights.div_(weights.sum(2, keepdim=True))


def resample(
    images: UInt8[Tensor, "n c h w"],
    rows: Float[Tensor, "n v s h"],
    columns: Float[Tensor, "n v s w"],
) -> Float[Tensor, "n v c s s"]:
    """Apply v pairs of row and column matrices to each image; values become [0, 1]."""
    n, c, h, w = images.shape
    v, s = rows.shape[1:3]
    # With the channels between rows and columns, both products need no copy of their operands.
    x = images.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)
    x = torch.bmm(rows.reshape(n, v * s, h), x.view(n, h, c * w))
    x = torch.bmm(x.view(n * v, s * c, w), columns.reshape(n * v, s, w).mT)
    return x.view(n, v, s, c, s).transpose(2, 3).contiguous()


def blur_weights(
    sigma: Float[Tensor, " n"], size: int, kernel: int
) -> Float[Tensor, "n size size"]:
    """Gaussian blur of one axis as matrices, with torchvision's kernel and reflected borders.

    Args:
        sigma: Standard deviation in pixels; 0 gives the identity.
        size: Length of the axis in pixels, more than `kernel // 2`.
        kernel: Odd number of taps.
    """
    radius = kernel // 2
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    taps = torch.softmax(offset**2 / (-2.0 * sigma.square().clamp_min(1e-6).unsqueeze(1)), 1)
    pixel = torch.arange(size, device=sigma.device)
    source = (pixel + offset.unsqueeze(1)).abs()  # (kernel, size): who gives to each pixel
    source = size - 1 - (size - 1 - source).abs()
    reach = (source.unsqueeze(2) == pixel).to(taps.dtype)
    return (taps @ reach.flatten(1)).view(-1, size, size)


def blur(
    images: Float[Tensor, "n c h w"], sigma: Float[Tensor, " n"], kernel: int
) -> Float[Tensor, "n c h w"]:
    """Gaussian blur, each image with its own sigma (pixels; 0 leaves it as it is)."""
    height, width = images.shape[2:]
    rows = blur_weights(sigma, height, kernel)
    columns = rows if height == width else blur_weights(sigma, width, kernel)
    x = torch.bmm(images.flatten(1, 2), columns.mT).view(images.shape)
    return rows.unsqueeze(1) @ x
