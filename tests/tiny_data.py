"""Data sets of a few random images in the layout in which they are published."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def idx(array: np.ndarray) -> bytes:
    """A file of the MNIST family."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion_mnist(folder: Path, train: int, test: int) -> None:
    """Four idx files; labels go round."""
    rng = np.random.default_rng(0)
    for prefix, n in (("train", train), ("t10k", test)):
        images, labels = rng.integers(0, 256, (n, 28, 28)), np.arange(n) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))


def write_image_folder(folder: Path, train: int, test: int, classes: int = 4) -> None:
    """Class folders of 32 px pictures below train and test."""
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("test", test)):
        for i in range(n):
            file = folder / part / f"class{i % classes}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
