"""Images of any kind as the uint8 squares that an encoder takes, read as the folder loader does."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from pnp.console import bar
from pnp.data.files import decode_each, square, upright
from pnp.data.folder import SUFFIXES, image_names, walk
from pnp.errors import UserError

# Files decoded before the network runs on them.
CHUNK = 1024


def find(folder: str | Path) -> tuple[Path, list[str], list[str]]:
    """The image files below a folder, or the one file given.

    Returns:
        The folder, the names relative to it (sorted, with forward slashes; hidden ones are left
        out), and a note on other files, those that are no images by their ending, if there are any.

    Raises:
        UserError: nothing there, or no image among it.
    """
    root = Path(folder).expanduser()
    if root.is_file():
        return root.parent, [root.name], []
    if not root.is_dir():
        raise UserError(f"images={folder}: there is no such folder. Give a folder of images.")
    names = list(image_names(root))
    others = sum(
        not name.startswith(".") and not name.lower().endswith(SUFFIXES)
        for _, files in walk(root)
        for name in files
    )
    if not names:
        raise UserError(
            f"images={folder}: no images below it ({others} other files). Images end in "
            f"{', '.join(SUFFIXES)}."
        )
    note = f"other files: {others:,} are no images by their ending; left out."
    return root, names, [note] if others else []


def content_hashes(pixels: UInt8[Tensor, "n c s s"]) -> Int64[Tensor, " n"]:
    """A 64-bit hash of each image's pixels: equal images are equal for the network too."""
    rows = pixels.contiguous().flatten(1).numpy()
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests]).long()


@dataclass
class Reader:
    """Reads images as (channels, size, size) and counts what it had to change.

    RGB or grey, shorter side resized (bicubic), centre crop: what training on a folder does.

    Args:
        channels: 1 or 3.
        size: side in pixels.
    """

    channels: int
    size: int
    # Lists, since several threads append to them.
    resized: list[tuple[int, int]] = field(default_factory=list)
    recoloured: list[str] = field(default_factory=list)

    def square(self, image: Image.Image) -> np.ndarray:
        """One image as uint8 (channels, size, size).

        Raises:
            ValueError: more than 8 bits a channel.
        """
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode}; convert the file to 8 bits a channel")
        mode = "L" if self.channels == 1 else "RGB"
        if image.mode != mode:
            self.recoloured.append(image.mode)
        image = upright(image)
        if image.mode != mode:
            # Through RGB: a palette is resolved as the folder loader does.
            image = image.convert("RGB").convert(mode)
        return square(image, self.size)

    def decode(self, path: Path) -> np.ndarray:
        """One file as uint8 (channels, size, size)."""
        with Image.open(path) as image:
            if image.size != (self.size, self.size):
                self.resized.append(image.size)
            # A JPEG far larger than needed is decoded at 1/2, 1/4 or 1/8 of its size at once.
            image.draft("RGB", (2 * self.size, 2 * self.size))
            return self.square(image)

    def stream(
        self, root: Path, names: Sequence[str]
    ) -> Iterator[tuple[list[str], UInt8[Tensor, "b c s s"], list[tuple[str, str]]]]:
        """Decode files chunk by chunk, with a progress bar on a terminal.

        Yields:
            The names of the readable ones, their pixels, and (name, reason) of the unreadable.
        """
        with bar("images", len(names)) as advance:
            for start in range(0, len(names), CHUNK):
                chunk = list(names[start : start + CHUNK])
                good, pixels, bad = [], [], []
                results = decode_each([root / name for name in chunk], self.decode)
                for name, result in zip(chunk, results, strict=True):
                    if isinstance(result, np.ndarray):
                        good.append(name)
                        pixels.append(torch.from_numpy(result))
                    else:
                        bad.append((name, " ".join(str(result).split()) or type(result).__name__))
                empty = torch.empty(0, self.channels, self.size, self.size, dtype=torch.uint8)
                yield good, torch.stack(pixels) if pixels else empty, bad
                advance(len(chunk))

    def batch(self, images: Any) -> UInt8[Tensor, "n c s s"]:
        """Images in memory, or paths, as one tensor.

        Args:
            images: a uint8 tensor (N, C, H, W), a uint8 array (N, H, W, C) or (N, H, W), PIL
                images, paths, or one path of a file or folder.

        Raises:
            UserError: another kind or shape, nothing at all, or an unreadable file.
        """
        if isinstance(images, str | Path):
            root, names, _ = find(images)
            images = [root / name for name in names]
        if isinstance(images, Tensor | np.ndarray):
            return self._array(images)
        items = [images] if isinstance(images, Image.Image) else list(images)
        if not items:
            raise UserError("images is empty: give at least one image.")
        return torch.stack([torch.from_numpy(self._one(item)) for item in items])

    def _one(self, item: Any) -> np.ndarray:
        if isinstance(item, str | Path):
            (result,) = decode_each([Path(item)], self.decode)
            if isinstance(result, np.ndarray):
                return result
            raise UserError(f"cannot read the image {item}: {result}. Repair it or leave it out.")
        if not isinstance(item, Image.Image):
            raise UserError(
                f"an image is a {type(item).__name__}; give a uint8 tensor (N, C, H, W), a uint8 "
                "array (N, H, W, C) or (N, H, W), PIL images, or paths."
            )
        if item.size != (self.size, self.size):
            self.resized.append(item.size)
        try:
            return self.square(item)
        except ValueError as error:
            raise UserError(f"cannot take a PIL image of {error}.") from error

    def _array(self, images: Tensor | np.ndarray) -> UInt8[Tensor, "n c s s"]:
        tensor = isinstance(images, Tensor)
        shape, kind = tuple(images.shape), images.dtype
        wanted = "a uint8 tensor (N, C, H, W)" if tensor else "a uint8 array (N, H, W, C)"
        channels = shape[1 if tensor else -1] if len(shape) == 4 else 1
        fits = len(shape) == 4 or (not tensor and len(shape) == 3)
        if kind not in (torch.uint8, np.uint8) or not fits or channels not in (1, 3, 4):
            raise UserError(
                f"images are {kind} of the shape {shape}; give {wanted} of values 0 to 255 with "
                "1, 3 or 4 channels, PIL images, or paths."
            )
        if not shape[0] or 0 in shape:
            raise UserError(f"images are empty (shape {shape}): give at least one image.")
        array = images.cpu().movedim(1, -1).numpy() if tensor else images
        array = array[..., None] if array.ndim == 3 else array
        if array.shape[1:] == (self.size, self.size, self.channels):
            return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
        pictures = (Image.fromarray(a[..., 0] if channels == 1 else a) for a in array)
        return torch.stack([torch.from_numpy(self._one(picture)) for picture in pictures])

    @property
    def notes(self) -> list[str]:
        """Sentences on what was changed, with counts."""
        notes = []
        if self.resized:
            sizes = sorted(set(self.resized))
            some = ", ".join(f"{w}×{h}" for w, h in sizes[:3]) + (" …" if sizes[3:] else "")
            notes.append(
                f"resized: {len(self.resized):,} images were not {self.size}×{self.size} ({some}); "
                "their shorter side was resized and the centre kept."
            )
        if self.recoloured:
            to = "grey" if self.channels == 1 else "RGB"
            modes = ", ".join(sorted(set(self.recoloured)))
            notes.append(f"colours: {len(self.recoloured):,} images ({modes}) became {to}.")
        return notes
