"""A folder of images as one memory-mapped array: converted once, shared by every later process."""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from pnp import locks
from pnp.console import bar
from pnp.data.files import CHUNK, FolderImages, contents, decode_each, unreadable
from pnp.data.names import ENCODING, ODD, Names
from pnp.distributed import rank
from pnp.errors import UserError
from pnp.files import read_json, read_text, write_json, write_text

VERSION = 2  # of the decoding: another number makes new arrays
# Checksums are read back over at most so many bytes, evenly spread, when an array is opened.
VERIFY = 2**30


@dataclass(frozen=True, kw_only=True)
class ArrayImages(FolderImages):
    """Image files whose pixels are read from a memory-mapped array.

    Args:
        array: the file of the array.
        rows: of the images in it.
    """

    array: Path
    rows: Int64[Tensor, "n"]

    def subset(self, index: Int64[Tensor, "b"]) -> "ArrayImages":
        """The images of these numbers, in this order."""
        return replace(self, names=self.names.take(index), rows=self.rows[index])

    def join(self, others: Sequence[FolderImages]) -> "ArrayImages":
        """These images, then the others, which are in the same array."""
        rows = [part.rows for part in (self, *others) if isinstance(part, ArrayImages)]
        names = Names.join([part.names for part in (self, *others)])
        return replace(self, names=names, rows=torch.cat(rows))

    def batch(self, index: Int64[Tensor, "b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Read the images of these numbers."""
        return torch.from_numpy(_opened(self.array, self.size)[self.rows[index].numpy()])


def cached(
    images: FolderImages, folder: Path, *, skip_corrupt: bool
) -> tuple[ArrayImages, Int64[Tensor, "n"], Int64[Tensor, "n"]]:
    """Read the images from an array, which is made if it does not exist.

    The array is named by a hash of the size and of every file's name, length and time: a folder
    that changes gets a new one. Making it can be stopped and goes on where it was; a process that
    finds another one at it waits. It appears under its name only when it is whole.

    Args:
        images: the files.
        folder: where arrays are kept.
        skip_corrupt: leave unreadable files out, counted and named in one warning.

    Returns:
        The images that can be read, their numbers in `images`, and their `contents`.

    Raises:
        UserError: an unreadable file and `skip_corrupt` is off, no space or no permission, or an
            array whose checksums do not fit.
    """
    file = folder / f"{_key(images)}.u8"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(file.with_suffix(".lock")):
            if not file.with_suffix(".json").exists():
                _make(images, file)
    except OSError as error:
        raise UserError(
            f"cannot write the image cache {folder}: {error.strerror}. Set data.cache_dir=FOLDER "
            "to a place with room, or data.cache=false."
        ) from error
    record = read_json(file.with_suffix(".json"))
    _verify(file, record)
    kept = torch.arange(len(images))
    if record["bad"]:
        bad = {int(number): why for number, why in record["bad"].items()}
        unreadable(
            [f"{images.root / images.names[i]} ({why})" for i, why in bad.items()],
            len(images),
            "data.cache",
            skip_corrupt=skip_corrupt,
        )
        kept = kept[~torch.isin(kept, torch.tensor(list(bad)))]
    names = images.names.take(kept)
    content = torch.tensor(record["content"], dtype=torch.int64)[kept]
    return ArrayImages(images.root, names, images.size, array=file, rows=kept), kept, content


@lru_cache(maxsize=16)
def _opened(file: Path, size: int) -> np.ndarray:
    return np.memmap(file, np.uint8, "r").reshape(-1, 3, size, size)


def _key(images: FolderImages) -> str:
    sha = hashlib.sha256(f"{VERSION} {images.size}".encode())
    for name, stat in images.stats():
        line = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        sha.update(line.encode(ENCODING, ODD))
    return sha.hexdigest()[:16]


def _make(images: FolderImages, file: Path) -> None:
    """Decode chunk by chunk; each finished one is a line of the journal, so that it stays done."""
    partial, journal = file.with_suffix(".part"), file.with_suffix(".journal")
    done = _journal(journal) if partial.exists() else []
    journal.touch()
    shape = (len(images), 3, images.size, images.size)
    mode = "r+" if done else "w+"
    if not done and hasattr(os, "posix_fallocate"):  # on a full disk a mapped array ends in SIGBUS
        with partial.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(1, math.prod(shape)))
        mode = "r+"
    array = np.memmap(partial, np.uint8, mode, shape=shape)
    first, quiet = len(done) * CHUNK, rank() != 0
    with (
        bar("converting images", len(images), min(first, len(images)), quiet=quiet) as advance,
        journal.open("a" if done else "w", encoding="utf-8") as log,
    ):
        for start in range(first, len(images), CHUNK):
            chunk = images.paths(start, start + CHUNK)
            bad: dict[int, str] = {}
            for i, result in enumerate(decode_each(chunk, images.decode)):
                if isinstance(result, Exception):
                    bad[start + i] = str(result)
                    array[start + i] = 0
                else:
                    array[start + i] = result
            array.flush()
            content = contents(chunk).tolist()
            entry = {"crc": _crc(array[start : start + CHUNK]), "bad": bad, "content": content}
            log.write(json.dumps(entry) + "\n")
            log.flush()
            done.append(entry)
            advance(len(chunk))
    del array
    bad = {number: why for entry in done for number, why in entry["bad"].items()}
    partial.replace(file)
    record = {
        "shape": shape,
        "chunk": CHUNK,
        "crc": [entry["crc"] for entry in done],
        "bad": bad,
        "content": [content for entry in done for content in entry["content"]],
    }
    write_json(file.with_suffix(".json"), record)
    journal.unlink()


def _journal(file: Path) -> list[dict[str, Any]]:
    """The chunks that are done; a line that was cut off is not one."""
    done: list[dict[str, Any]] = []
    if file.exists():
        for line in read_text(file).splitlines():
            try:
                done.append(json.loads(line))
            except json.JSONDecodeError:
                break
        write_text(file, "".join(json.dumps(entry) + "\n" for entry in done))
    return done


def _verify(file: Path, record: dict[str, Any]) -> None:
    """Compare length and checksums, of all chunks or of an even sample of a large array."""
    shape = tuple(record["shape"])
    damaged = file.stat().st_size != np.prod(shape)
    if not damaged:
        array, chunks = _opened(file, shape[-1]), len(record["crc"])
        size = record["chunk"] * shape[1] * shape[2] * shape[3]
        some = np.unique(
            np.linspace(0, chunks - 1, max(1, min(chunks, VERIFY // size))).astype(int)
        )
        damaged = any(
            _crc(array[i * record["chunk"] : (i + 1) * record["chunk"]]) != record["crc"][i]
            for i in some
        )
    if damaged:
        raise UserError(
            f"the image cache {file} is damaged: its checksums do not fit. Delete {file.stem}.* "
            "in that folder; it is then made anew."
        )


def _crc(pixels: np.ndarray) -> int:
    return zlib.crc32(memoryview(pixels))  # pyright: ignore[reportArgumentType]


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time."""
    lock = locks.lease(file)
    if (owner := locks.acquire(lock)) is not None:
        if rank() == 0:
            print(f"waiting for {owner}, which converts the images ({file})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
