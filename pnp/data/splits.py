"""Splits of a data set, dealt by seeded permutations that no library version can change."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from pnp.data.imageset import ImageSet
from pnp.errors import UserError

SPLITS = ("train", "validation", "calibration", "test")
JUDGED = ("calibration", "test")
ROLES = {
    "train": "fitting probes", "validation": "choosing",
    "calibration": "thresholds of the band", "test": "reporting",
}  # fmt: skip


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
    count: int,
    taken: Mapping[str, int],
    rest: str,
    *key: int | str,
    equal: Int64[Tensor, "count"] | None = None,
) -> dict[str, Int64[Tensor, "_"]]:
    """Cut 0 … count-1 into disjoint splits: `taken` images each, and the `rest`, in random order.

    Args:
        count: the number of images.
        taken: images per split, in the order in which they are taken.
        rest: the split that gets what is left.
        key: the seed; nothing else decides.
        equal: images of the same number, as repeats of a picture, go into the same split; then the
            counts may be off by as many.

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
    order, sizes = permutation(count, *key), [*taken.values(), count - wanted]
    parts = torch.split(order, sizes)
    if equal is not None and len(equal.unique()) < count:
        together = _together(order, sizes, equal)
        if min(map(len, together)) > 0:  # else too few differ for that many splits
            parts = together
    return dict(zip([*taken, rest], parts, strict=True))


def _together(order: Tensor, sizes: Sequence[int], equal: Tensor) -> list[Tensor]:
    """Parts of about these sizes, in this order, that split no group of equal images."""
    _, group = equal[order].unique(return_inverse=True)
    last = torch.full((len(group.unique()),), len(order))
    first = last.scatter_reduce(0, group, torch.arange(len(order)), "amin")
    turn = first[group].argsort(stable=True)  # every group where its first image was
    order, group = order[turn], group[turn]
    start = last.scatter_reduce(0, group, torch.arange(len(order)), "amin")[group]
    part = torch.bucketize(start, torch.tensor(sizes).cumsum(0), right=True)
    return [order[part == number] for number in range(len(sizes))]


def deal(
    parts: Mapping[str, ImageSet], asked: Mapping[str, object], seed: int, dataset: str
) -> dict[str, ImageSet]:
    """Cut the official parts of a data set into disjoint splits.

    Args:
        parts: train, and whatever else the data set comes with.
        asked: number or share of validation, calibration and test; None takes the default.
        seed: of the order.
        dataset: its name, for messages.

    Returns:
        `SPLITS` in their order, then any further part.

    Raises:
        UserError: more images are asked for than there are, or test where it is given already.
    """
    train, taken, cut = parts["train"], dict[str, int](), dict(parts)

    def count(name: str, whole: int, default: float = 0.1) -> int:
        value = asked[name]
        return amount(f"data.{name}", default if value is None else value, whole)

    if "validation" not in parts:
        taken["validation"] = count("validation", len(train))
    if "test" not in parts:
        taken |= {name: count(name, len(train)) for name in JUDGED}
    elif "calibration" not in parts:
        if asked["test"] is not None:
            raise UserError(
                f"data.test={asked['test']}: {dataset} has an official test part; test is what "
                "data.calibration leaves of it. Remove data.test."
            )
        half = {"calibration": count("calibration", len(parts["test"]), default=0.5)}
        cut |= _cut(parts["test"], half, "test", seed)
    cut |= _cut(train, taken, "train", seed)
    return {name: cut[name] for name in (*SPLITS, *(name for name in cut if name not in SPLITS))}


def _cut(part: ImageSet, taken: Mapping[str, int], rest: str, seed: int) -> dict[str, ImageSet]:
    if not taken:
        return {rest: part}
    pieces = carve(len(part), taken, rest, seed, f"official {rest}", equal=part.content)
    return {
        name: replace(part.subset(index.sort().values), name=name) for name, index in pieces.items()
    }


def record(splits: Mapping[str, ImageSet], pretrain_on: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Count, digest and role of every split; of files also `content`, however they are read."""
    entries = {}
    for name, split in splits.items():
        pretrained = ["pre-training"] if name in pretrain_on else []
        role = ", ".join([*pretrained, *([ROLES[name]] if name in ROLES else [])])
        entries[name] = {"count": len(split), "digest": split.digest(), "role": role}
        if (content := split.content_digest()) is not None:
            entries[name]["content"] = content
    return entries


def repeats(splits: Mapping[str, ImageSet]) -> list[str]:
    """Sentences on images that are judged although the same file is among those learnt from."""
    content = {name: split.content for name, split in splits.items() if split.content is not None}
    learnt = {name: hashes for name, hashes in content.items() if name not in JUDGED}
    sentences = []
    for name in JUDGED if learnt else ():
        again = int(torch.isin(content[name], torch.cat(list(learnt.values()))).sum())
        if again:
            sentences.append(
                f"{again} of {len(content[name])} images of {name} are byte for byte among those "
                f"of {' and '.join(learnt)}: what is measured on them holds for no unseen image"
            )
    return sentences
