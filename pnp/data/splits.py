"""Splits of a data set: seeded permutations that no library version can change."""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from pnp.errors import UserError


def stream(*key: int | str) -> np.random.PCG64:
    """A bit generator of its own for every key; NumPy guarantees the raw stream for good."""
    words = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in key]
    return np.random.PCG64(np.random.SeedSequence(words))


def permutation(count: int, *key: int | str) -> Int64[Tensor, "count"]:
    """The numbers 0 … count-1 in an order that depends on `count` and `key` only.

    >>> permutation(5, 0, "epoch", 3).tolist() == permutation(5, 0, "epoch", 3).tolist()
    True
    """
    return torch.from_numpy(np.argsort(stream(*key).random_raw(count), kind="stable"))


def amount(name: str, value: object, whole: int) -> int:
    """Images asked for by `value`: an int is a count, a float strictly between 0 and 1 a share.

    >>> amount("data.validation", 0.1, 500), amount("data.validation", 7, 500)
    (50, 7)

    Raises:
        UserError: neither, or none left for what remains.
    """
    share = isinstance(value, float) and 0 < value < 1
    if isinstance(value, bool) or not (share or (isinstance(value, int) and value >= 1)):
        raise UserError(
            f"{name}={value!r}: give a number of images (1 or more) "
            "or a share of them strictly between 0 and 1."
        )
    count = round(float(value) * whole) if share else int(value)  # pyright: ignore[reportArgumentType]
    if not 0 < count < whole:
        raise UserError(
            f"{name}={value!r} asks for {count} of {whole} images; it has to take at least one and "
            "leave at least one. Change it, or bring more images."
        )
    return count


def carve(
    count: int, taken: Mapping[str, int], rest: str, *key: int | str
) -> dict[str, Int64[Tensor, "_"]]:
    """Cut 0 … count-1 into disjoint splits: `taken` images each, and the `rest`, in random order.

    Args:
        count: the number of images.
        taken: images per split, in the order in which they are taken.
        rest: the split that gets what is left.
        key: the seed; nothing else decides.

    Raises:
        UserError: nothing would be left for `rest`.

    >>> {name: len(index) for name, index in carve(10, {"validation": 3}, "train", 0).items()}
    {'validation': 3, 'train': 7}
    """
    wanted = sum(taken.values())
    if wanted >= count:
        asked = ", ".join(f"{name}={size}" for name, size in taken.items())
        raise UserError(
            f"{asked} leave nothing of {count} images for {rest}: ask for fewer, or bring more."
        )
    order = permutation(count, *key)
    parts = torch.split(order, [*taken.values(), count - wanted])
    return dict(zip([*taken, rest], parts, strict=True))
