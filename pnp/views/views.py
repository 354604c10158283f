"""Views: random crops, flips and colour changes of a batch of images, made on their device.

Operations, parameter ranges and distributions are torchvision's. Every image of every view has its
own parameters; there is no loop over images and nothing waits for the device.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import copy

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from pnp.errors import UserError, choice, number, whole
from pnp.views import color
from pnp.views.resample import blur, crop_boxes, resample, resize_weights


class Views:
    """Makes augmented views of image batches; one constructor of plain numbers.

    The stages, in this order: random resized crop, flip, colour jitter, grayscale, blur, solarize,
    normalise. A stage of probability 0 costs nothing. On images of other than three channels jitter
    acts through brightness and contrast only, and grayscale does nothing, as in torchvision.

    Args:
        size: Side of the square views, in pixels.
        count: Number V of views of each image.
        scale: Range of the crop's area, as a share of the image's.
        ratio: Range of the crop's aspect ratio, width / height.
        flip: Probability of a horizontal flip.
        jitter: Probability of colour jitter, of all four colour changes in random order.
        brightness: Brightness factor is uniform in [max(0, 1 − brightness), 1 + brightness].
        contrast: The same for contrast.
        saturation: The same for saturation.
        hue: Hue shift is uniform in [−hue, hue] turns; at most 0.5.
        grayscale: Probability of losing all colour.
        blur: Probability of Gaussian blur.
        blur_sigma: Range of the blur's standard deviation, in pixels.
        blur_kernel: Taps of the blur, odd; None takes about a tenth of `size`, as SimCLR does.
        solarize: Probability of inverting the values at or above `solarize_threshold`.
        solarize_threshold: In [0, 1], where 1 is white.
        interpolation: "bilinear" or "bicubic", antialiased both.
        mean: Subtracted from the values in [0, 1] at the end: one number or one per channel;
            None for 0.
        std: Divides them then: one number or one per channel; None for 1.
        local: Small crops of each image beside the views (multi-crop); see `local_views`.
        local_scale: Range of their area, as a share of the image's.
        local_size: Their side, in pixels; None is half of `size`, but at least 8.

    Raises:
        UserError: A number is outside its range; the message names it.

    Example:
        >>> images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
        >>> Views(size=24, count=2)(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 8, 3, 24, 24])
    """

    def __init__(
        self,
        size: int = 32,
        count: int = 2,
        *,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        jitter: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        grayscale: float = 0.2,
        blur: float = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        blur_kernel: int | None = None,
        solarize: float = 0.0,
        solarize_threshold: float = 0.5,
        interpolation: str = "bilinear",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        local: int = 0,
        local_scale: Sequence[float] = (0.1, 0.4),
        local_size: int | None = None,
    ) -> None:
        self.size = whole("views.size", size)
        self.count = whole("views.count", count)
        self.scale = _range("views.scale", scale, most=1.0)
        self.ratio = _range("views.ratio", ratio)
        self.flip = number("views.flip", flip, 0, 1.0)
        self.jitter = number("views.jitter", jitter, 0, 1.0)
        self.strengths = {
            "brightness": number("views.brightness", brightness, 0),
            "contrast": number("views.contrast", contrast, 0),
            "saturation": number("views.saturation", saturation, 0),
        }
        self.hue = number("views.hue", hue, 0, 0.5)
        self.grayscale = number("views.grayscale", grayscale, 0, 1.0)
        self.blur = number("views.blur", blur, 0, 1.0)
        self.blur_sigma = _range("views.blur_sigma", blur_sigma)
        self.blur_kernel = max(3, size // 10 | 1)
        if blur_kernel is not None:
            self.blur_kernel = whole("views.blur_kernel", blur_kernel)
        if self.blur_kernel % 2 == 0 or (self.blur and self.blur_kernel // 2 >= self.size):
            raise UserError(
                f"views.blur_kernel={self.blur_kernel}: give an odd number below "
                f"2 * size = {2 * self.size}, so that the reflected border lies inside the view"
            )
        self.solarize = number("views.solarize", solarize, 0, 1.0)
        self.solarize_threshold = number("views.solarize_threshold", solarize_threshold, 0, 1.0)
        self.interpolation = choice("views.interpolation", interpolation, ("bilinear", "bicubic"))
        self.mean = _per_channel("views.mean", (0.0,) if mean is None else mean)
        self.std = _per_channel("views.std", (1.0,) if std is None else std)
        if min(self.std) <= 0:
            raise UserError(f"views.std={list(self.std)}: give positive numbers.")
        self.local = 0 if local == 0 else whole("views.local", local)
        self._crops = copy(self)
        self._crops.count = self.local
        self._crops.scale = _range("views.local_scale", local_scale, most=1.0)
        self._crops.size = max(8, size // 2)
        if local_size is not None:
            self._crops.size = whole("views.local_size", local_size)
        if self.local and self.blur and self.blur_kernel // 2 >= self._crops.size:
            raise UserError(
                f"views.local_size={self._crops.size}: give more than half of views.blur_kernel = "
                f"{self.blur_kernel}"
            )

    @torch.no_grad()
    def __call__(
        self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator
    ) -> Float[Tensor, "v n c s s"]:
        """Make `count` independent views of each image, normalised, in float32.

        Args:
            images: Values 0 … 255, any number of channels, on any device.
            generator: Source of every random number, on the same device; the same state gives the
                same views.

        Raises:
            UserError: The images are not of that kind, or the generator is on another device.
        """
        self._check(images)
        if generator.device.type != images.device.type:
            raise UserError(
                f"the generator is on {generator.device}, the images are on {images.device}; make "
                "it with torch.Generator(images.device)"
            )
        n, c, h, w = images.shape
        shape = (self.count, n, c, self.size, self.size)
        out = torch.empty(shape, dtype=torch.float32, device=images.device)
        # On a CPU, pieces of about two megabytes fit its cache and reuse memory instead of asking
        # for fresh pages: 1.5 times as fast as 512 views of 32 px at once. On a GPU, a piece's
        # intermediate values take about two gigabytes.
        numbers = 2**19 if images.device.type == "cpu" else 2**26
        piece = max(1, numbers // (self.count * c * max(self.size**2, h * w)))
        # Autocast would compute the resize in 8 bits.
        with torch.autocast(images.device.type, enabled=False):
            for part, views in zip(images.split(piece), out.split(piece, 1), strict=True):
                # Images outermost until here: the crops of an image share one matrix product, and
                # draws come in that order. The copy into `out` changes the order at no cost.
                views.copy_(self._augment(part, generator).transpose(0, 1))
        return out

    def local_views(
        self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator
    ) -> Float[Tensor, "v n c s s"]:
        """The `local` small crops of each image, otherwise made as the views are.

        Args:
            images: As for the views.
            generator: In the state in which the views left it.
        """
        return self._crops(images, generator)

    def compile(self) -> None:
        """Make the views by `torch.compile` from now on: the same draws, equal up to rounding."""
        for views in (self, self._crops):
            views._augment = torch.compile(views._augment)

    @torch.no_grad()
    def plain(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c s s"]:
        """Images for evaluation: not augmented, resized (bilinear) if necessary, normalised.

        Raises:
            UserError: The images are not uint8 of shape (n, c, h, w).
        """
        self._check(images)
        n, _, h, w = images.shape
        if (h, w) == (self.size, self.size):
            x = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)
        else:
            rows, columns = (
                resize_weights(
                    torch.zeros(1, device=images.device),
                    torch.full((1,), float(length), device=images.device),
                    length,
                    self.size,
                ).expand(n, 1, -1, -1)
                for length in (h, w)
            )
            with torch.autocast(images.device.type, enabled=False):
                x = resample(images, rows, columns).squeeze(1)
        return color.normalise(x, self.mean, self.std)

    def _augment(
        self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator
    ) -> Float[Tensor, "n v c s s"]:
        n, c = images.shape[:2]
        x = self._crop(images, generator).flatten(0, 1)
        crops = len(x)

        def draw(probability: float) -> Bool[Tensor, " m"]:
            return _uniform(crops, generator) < probability

        if self.jitter:
            x = self._jitter(x, draw(self.jitter), generator)
        if self.grayscale and c == 3:
            x = color.to_grey(x, draw(self.grayscale))
        if self.blur:
            low, high = self.blur_sigma
            sigma = low + (high - low) * _uniform(crops, generator)
            x = blur(x, sigma * draw(self.blur), self.blur_kernel)
        if self.solarize:
            x = color.solarize(x, draw(self.solarize), self.solarize_threshold)
        return color.normalise(x, self.mean, self.std).unflatten(0, (n, self.count))

    def _crop(
        self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator
    ) -> Float[Tensor, "n v c s s"]:
        n, _, height, width = images.shape
        shape = (n, self.count, self.size)
        boxes = crop_boxes(n * self.count, height, width, self.scale, self.ratio, generator)
        top, left, h, w = boxes.unbind(1)
        mirror = _uniform(len(boxes), generator) < self.flip if self.flip else None
        cubic = self.interpolation == "bicubic"
        rows = resize_weights(top, h, height, self.size, cubic=cubic)
        columns = resize_weights(left, w, width, self.size, cubic=cubic, mirror=mirror)
        x = resample(images, rows.view(*shape, height), columns.view(*shape, width))
        # A cubic kernel overshoots; 8-bit images, torchvision's usual case, are clipped too.
        return x.clamp_(0.0, 1.0) if cubic else x

    def _jitter(
        self,
        images: Float[Tensor, "n c s s"],
        chosen: Bool[Tensor, " n"],
        generator: torch.Generator,
    ) -> Float[Tensor, "n c s s"]:
        n, c = images.shape[:2]
        names = [k for k, v in self.strengths.items() if v and (c == 3 or k != "saturation")]
        factors = _uniform((n, len(names)), generator)
        for column, name in zip(factors.unbind(1), names, strict=True):
            low, high = max(0.0, 1.0 - self.strengths[name]), 1.0 + self.strengths[name]
            column.mul_(high - low).add_(low)
        factors = torch.where(chosen.unsqueeze(1), factors, 1.0)
        order = _uniform((n, len(names)), generator).argsort(1)
        if not (self.hue and c == 3):
            return color.jitter(images, names, factors, order)
        turns = (_uniform(n, generator) * 2.0 - 1.0) * self.hue * chosen
        slots = len(names) + 1
        places = _uniform(-(-n // slots) * slots, generator).argsort()
        return color.jitter(images, names, factors, order, turns, places)

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise UserError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; expected torch.uint8 "
                "of shape (n, channels, height, width)"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, images.shape[1]):
                raise UserError(
                    f"{name} has {len(values)} numbers but the images have {images.shape[1]} "
                    f"channel(s); give one number, or one per channel"
                )


def _uniform(shape: int | tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    return torch.rand(shape, generator=generator, device=generator.device)


def _numbers(name: str, values: object) -> tuple[float, ...]:
    # Strings are iterable too: "0.2" is no list.
    if isinstance(values, Iterable) and not isinstance(values, str):
        with suppress(TypeError, ValueError):
            return tuple(float(v) for v in values)
    raise UserError(f"{name}={values}: give a list of numbers.")


def _range(name: str, values: object, most: float = math.inf) -> tuple[float, float]:
    numbers = _numbers(name, values)
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= most or numbers[1] == math.inf:
        limit = "" if most == math.inf else f" <= {most:g}"
        raise UserError(f"{name}={values}: give [low, high] with 0 < low <= high{limit}.")
    return numbers[0], numbers[1]


def _per_channel(name: str, values: object) -> tuple[float, ...]:
    numbers = _numbers(name, values)
    if not numbers or not all(map(math.isfinite, numbers)):
        raise UserError(f"{name}={values}: give one finite number, or one per channel.")
    return numbers
