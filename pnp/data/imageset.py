"""An image set: pixels in memory or in files, with what is known about each image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from pnp.data.files import FolderImages
from pnp.data.names import ENCODING, ODD
from pnp.errors import UserError

# Images that normalisation constants are computed from, at most; files are dearer to read.
SAMPLE, SAMPLE_FILES = 10_000, 1_000
PER_IMAGE = ("labels", "eta", "concept", "latent", "content", "votes")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one size and what is known about them.

    Args:
        name: of the split.
        images: uint8 in memory, or files that are decoded when asked for.
        labels: class of each image, an index into `classes`; None when there are none.
        classes: names of the classes; () when there are none.
        eta: Pr(P | image), where it is known.
        concept: one draw of Y ~ Bernoulli(eta), 0 or 1, where eta is known.
        latent: the quantity u that eta is a function of.
        content: hash of each image's file, see `pnp.data.files.contents`.
        votes: the classes that k annotators gave, where they are known.
    """

    name: str
    images: UInt8[Tensor, "n c h w"] | FolderImages
    labels: Int64[Tensor, "n"] | None = None
    classes: tuple[str, ...] = ()
    eta: Float64[Tensor, "n"] | None = None
    concept: Int64[Tensor, "n"] | None = None
    latent: Float64[Tensor, "n"] | None = None
    content: Int64[Tensor, "n"] | None = None
    votes: Int64[Tensor, "n k"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        if isinstance(self.images, FolderImages):
            return 3, self.images.size, self.images.size
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded images."""
        channels, height, width = self.shape
        return len(self) * channels * height * width

    def batch(self, index: Int64[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """The images of these numbers, in this order, where the set keeps them.

        Raises:
            UserError: a file that cannot be decoded; it is named.
        """
        if isinstance(self.images, FolderImages):
            return self.images.batch(index)
        return self.images.index_select(0, index.to(self.images.device))

    def subset(self, index: Int64[Tensor, "b"]) -> "ImageSet":
        """The set of these images, in this order."""
        images = self.images
        fields = {key: getattr(self, key) for key in PER_IMAGE}
        return replace(
            self,
            images=images.subset(index) if isinstance(images, FolderImages) else self.batch(index),
            **{key: None if v is None else v[index] for key, v in fields.items()},
        )

    def without_labels(self) -> "ImageSet":
        """The bare images: no labels, no classes, no concept."""
        return replace(self, classes=(), **dict.fromkeys(set(PER_IMAGE) - {"content"}))

    def digest(self) -> str:
        """16 hex digits of SHA-256 over labels and pixels, or file names and sizes for files."""
        sha = hashlib.sha256(repr((len(self), self.shape, self.classes)).encode())
        if isinstance(self.images, FolderImages):
            for name, stat in self.images.stats():
                sha.update(f"{name}\0{stat.st_size}\n".encode(ENCODING, ODD))
        else:
            sha.update(_bytes(self.images))
        for key, value in (("labels", self.labels), ("concept", self.concept)):
            sha.update(key.encode() if value is None else _bytes(value))
        if self.votes is not None:  # absent from the digests of sets without them
            sha.update(_bytes(self.votes))
        return sha.hexdigest()[:16]

    def content_digest(self) -> str | None:
        """16 hex digits over contents, labels and classes, however the images are read.

        None for images that come from no files.
        """
        if self.content is None:
            return None
        sha = hashlib.sha256(repr(self.classes).encode())
        sha.update(_bytes(self.content))
        sha.update(b"" if self.labels is None else _bytes(self.labels))
        return sha.hexdigest()[:16]


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.cpu().contiguous().numpy())  # pyright: ignore[reportArgumentType]


def concatenate(parts: Sequence[ImageSet]) -> ImageSet:
    """The union of disjoint sets; what is not fields of every part is dropped.

    Raises:
        UserError: images of different shapes.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.shape for part in parts}) > 1:
        shapes = ", ".join(f"{part.name} {part.shape}" for part in parts)
        raise UserError(f"Cannot join images of different shapes: {shapes}. Give data.size.")
    fields = {key: [getattr(part, key) for part in parts] for key in PER_IMAGE}
    joined = {
        key: None if any(v is None for v in values) else torch.cat(values)
        for key, values in fields.items()
    }
    return ImageSet(
        name="+".join(part.name for part in parts),
        images=_join([part.images for part in parts]),
        classes=parts[0].classes if joined["labels"] is not None else (),
        **joined,
    )


def _join(images: Sequence[Tensor | FolderImages]) -> Tensor | FolderImages:
    files = [part for part in images if isinstance(part, FolderImages)]
    if not files:
        return torch.cat([part for part in images if isinstance(part, Tensor)])
    return files[0].join(files[1:])


def resize(images: UInt8[Tensor, "n c h w"], size: int) -> UInt8[Tensor, "n c s s"]:
    """Square images at another size: bicubic, antialiased, rounded; unchanged at their own size."""
    if images.shape[-2:] == (size, size):
        return images
    out = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for start in range(0, len(images), 1024):
        small = torch.nn.functional.interpolate(
            images[start : start + 1024].float(), (size, size), mode="bicubic", antialias=True
        )
        out[start : start + 1024] = small.round_().clamp_(0, 255).to(torch.uint8)
    return out


def statistics(images: ImageSet) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (at least 1/255) of each channel, with pixels from 0 to 1.

    Over evenly spaced images where there are more than 10,000 (1,000 files that stream).
    """
    most = SAMPLE_FILES if isinstance(images.images, FolderImages) else SAMPLE
    sample = torch.linspace(0, len(images) - 1, min(most, len(images))).long()
    channels, height, width = images.shape
    total = square = torch.zeros(channels, dtype=torch.float64)
    for index in sample.split(256):
        pixels = images.batch(index).double() / 255
        total = total + pixels.sum((0, 2, 3))
        square = square + pixels.square().sum((0, 2, 3))
    count = len(sample) * height * width
    mean = total / count
    variance = (square / count - mean**2).clamp_min(255**-2)
    return mean.tolist(), variance.sqrt().tolist()


def is_grey(images: ImageSet) -> bool:
    """Tell whether the three channels of all images are equal; of files that stream they are not.

    A sample decides first: colour images are seen to be so at once.
    """
    pixels = images.images
    if not isinstance(pixels, Tensor) or pixels.shape[1] != 3:
        return False
    parts = (pixels[:: max(1, len(pixels) // 64)], *pixels.split(1024))
    return all(bool((part[:, :1] == part[:, 1:]).all()) for part in parts)


def first_channel(images: ImageSet) -> ImageSet:
    """The images with their first channel only."""
    assert isinstance(images.images, Tensor)
    return replace(images, images=images.images[:, :1].clone())
