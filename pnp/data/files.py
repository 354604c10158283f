"""Images that stay in files: decoded to one size when they are asked for."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import get_worker_info

from pnp.console import bar
from pnp.cpu import cores
from pnp.data.names import Names
from pnp.distributed import rank
from pnp.errors import UserError

log = logging.getLogger(__name__)

# What Pillow raises for a file that is cut off, damaged, absurdly large or no image at all.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# Below this many files a progress bar would only flicker.
QUIET = 2000
# Bytes of a file below which one thread decodes as fast as several.
SMALL = 4096
# Bytes at the start, in the middle and at the end that identify a large file.
PIECE = 1 << 14
# Files decoded between two updates of the bar, and before a damaged one can stop the rest.
CHUNK = 1024


@dataclass(frozen=True)
class FolderImages:
    """Image files that share one target size.

    Args:
        root: the folder that the names are relative to.
        names: of the files, with forward slashes.
        size: side in pixels of the decoded square.
    """

    root: Path
    names: Names
    size: int

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, index: Int64[Tensor, "b"]) -> "FolderImages":
        """The files of these numbers, in this order."""
        return replace(self, names=self.names.take(index))

    def join(self, others: "Sequence[FolderImages]") -> "FolderImages":
        """These files, then the others."""
        return replace(self, names=Names.join([part.names for part in (self, *others)]))

    def batch(self, index: Int64[Tensor, "b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Decode the files of these numbers.

        Raises:
            UserError: a file that cannot be decoded; it is named.
        """
        paths = self.subset(index).paths()
        images = torch.empty(len(paths), 3, self.size, self.size, dtype=torch.uint8)
        for i, result in enumerate(decode_each(paths, self.decode)):
            images[i] = torch.from_numpy(_good(paths[i], result))
        return images

    def paths(self, start: int = 0, stop: int | None = None) -> list[Path]:
        """The files from number `start` to before `stop`, in order."""
        return [self.root / name for name in self.names[start:stop]]

    def stats(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every file's name with its length and times, one at a time."""
        return ((name, (self.root / name).stat()) for name in self.names)

    def decode(self, path: Path) -> np.ndarray:
        """One file as uint8 (3, size, size): RGB, shorter side resized (bicubic), centre crop."""
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}; convert the file to 8 bits a channel")
            # A JPEG far larger than needed is decoded at 1/2, 1/4 or 1/8 of its size at once.
            image.draft("RGB", (2 * self.size, 2 * self.size))
            return square(upright(image).convert("RGB"), self.size)


def upright(image: Image.Image) -> Image.Image:
    """An image as viewers show it: turned as its EXIF tag says, what is transparent on white."""
    ImageOps.exif_transpose(image, in_place=True)
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def square(image: Image.Image, size: int) -> np.ndarray:
    """An image as uint8 (channels, size, size): shorter side resized (bicubic), centre crop."""
    if image.size != (size, size):
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(image)
    return pixels[None].copy() if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()


def contents(paths: Sequence[Path]) -> Int64[Tensor, "n"]:
    """A 64-bit hash of each file: equal files are equal, whatever their names and dates.

    Files above 48 kB are read at their start, middle and end: a picture that was changed anywhere
    is compressed to other bytes, or another length.
    """

    def one(path: Path) -> int:
        sha = hashlib.blake2b(digest_size=8)
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                sha.update(size.to_bytes(8, "little"))
                for start in (0, (size - PIECE) // 2, size - PIECE) if size > 3 * PIECE else (0,):
                    stream.seek(start)
                    sha.update(stream.read(PIECE if size > 3 * PIECE else size))
        except OSError:  # whoever decodes it will say so
            sha.update(os.fsencode(path))
        return int.from_bytes(sha.digest(), "little", signed=True)

    with ThreadPoolExecutor(cores()) as pool:
        return torch.tensor(list(pool.map(one, paths, chunksize=256)), dtype=torch.int64)


def load(images: FolderImages, *, title: str) -> UInt8[Tensor, "n 3 s s"]:
    """Decode all files into one tensor, on all cores, with a progress bar when there are many.

    Args:
        images: the files.
        title: what the progress bar says.

    Raises:
        UserError: an unreadable file.
    """
    out = torch.empty(len(images), 3, images.size, images.size, dtype=torch.uint8)
    for number, path, result in _decoded(images, title):
        out[number] = torch.from_numpy(_good(path, result))
    return out


def readable(images: FolderImages, *, title: str) -> Int64[Tensor, "n"]:
    """The numbers of the files that can be decoded; the others are counted and named in a warning.

    Raises:
        UserError: none can be.
    """
    numbers, bad = list[int](), list[str]()
    small = replace(images, size=1)  # JPEGs are then decoded at 1/8, which still reads every byte
    for number, path, result in _decoded(small, title):
        if isinstance(result, Exception):
            bad.append(f"{path} ({result})")
        else:
            numbers.append(number)
    if bad:
        unreadable(bad, len(images), title, skip_corrupt=True)
    return torch.tensor(numbers, dtype=torch.int64)


def _decoded(
    images: FolderImages, title: str
) -> Iterator[tuple[int, Path, np.ndarray | Exception]]:
    """Decode chunk by chunk, in order: number and path of each file, its pixels or its error."""
    count = len(images)
    with bar(title, count, quiet=count <= QUIET or rank() != 0) as advance:
        for start in range(0, count, CHUNK):
            chunk = images.paths(start, start + CHUNK)
            results = decode_each(chunk, images.decode)
            yield from zip(range(start, count), chunk, results, strict=False)
            advance(len(chunk))


def unreadable(bad: Sequence[str], count: int, title: str, *, skip_corrupt: bool) -> None:
    """Warn of unreadable files, or raise.

    Raises:
        UserError: they are not to be skipped, or they are all there is.
    """
    named = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
    if len(bad) == count:
        raise UserError(f"{title}: none of {count} images could be read: {named}")
    if not skip_corrupt:
        raise UserError(
            f"{title}: {len(bad)} of {count} images cannot be read: {named}. Repair or remove "
            "them, or leave such files out with data.on_corrupt=skip."
        )
    log.warning("%s: skipped %d of %d images: %s", title, len(bad), count, named)


def decode_each(
    paths: Sequence[Path], decode: Callable[[Path], np.ndarray]
) -> list[np.ndarray | Exception]:
    """Decode on all cores (Pillow frees the interpreter lock) unless the files are very small.

    An unreadable file gives its error.
    """

    def attempt(paths: Sequence[Path]) -> list[np.ndarray | Exception]:
        results: list[np.ndarray | Exception] = []
        for path in paths:
            try:
                results.append(decode(path))
            except UNREADABLE as error:
                results.append(error)
        return results

    threads = 1 if get_worker_info() else cores()
    if threads == 1 or len(paths) < 2 * threads or _small(paths):
        return attempt(paths)
    # One task per thread: small images decode in less time than a task takes to hand out.
    step = -(-len(paths) // threads)
    pieces = [paths[start : start + step] for start in range(0, len(paths), step)]
    with ThreadPoolExecutor(threads) as pool:
        return [result for results in pool.map(attempt, pieces) for result in results]


def _small(paths: Sequence[Path]) -> bool:
    """Tell whether files are so small that threads only contend for the interpreter.

    Two of them took 1.2 to 1.8 times as long as one for files of 1.3 kB, and 0.6 times for 5.7 kB.
    """
    try:
        return all(path.stat().st_size < SMALL for path in paths[:: max(1, len(paths) // 8)])
    except OSError:  # whoever decodes it will say so
        return False


def _good(path: Path, result: np.ndarray | Exception) -> np.ndarray:
    if isinstance(result, np.ndarray):
        return result
    raise UserError(
        f"Cannot read the image {path}: {result}. Repair or remove it, or leave such files out "
        "with data.on_corrupt=skip."
    )
