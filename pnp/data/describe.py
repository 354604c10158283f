"""A description of data in words: what was understood, and what a user may want to change."""

import re
from collections.abc import Sequence

import torch

from pnp.data.datamodule import DataModule

FEW = 10  # images of a class below which its accuracy says little
DATE = re.compile(r"(19|20)\d\d([-_. ]?\d\d){0,2}|\d\d[-_. ]\d\d[-_. ](19|20)\d\d")


def describe(data: DataModule) -> list[str]:
    """Lines about the images, their classes and splits, then hints: nothing is changed silently."""
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    shape = "×".join(map(str, data.splits["train"].shape))
    labels = [split.labels for split in data.splits.values() if split.labels is not None]
    total = sum(map(len, data.splits.values()))
    if not data.classes or not labels:
        hints = []
        if data.dataset == "image_folder" and data.labels == "auto":
            hints = ["no class folders (it takes two): data.labels=FILE.csv brings labels"]
        return [f"{total:,} images {shape} · no classes · {sizes}", *hints]
    counts = torch.bincount(torch.cat(labels), minlength=len(data.classes)).tolist()
    low, high = min(counts), max(counts)
    each = f"{low:,} each" if low == high else f"{low:,} to {high:,} images each"
    classes = f"{len(counts)} classes ({_some(data.classes)}; {each})"
    return [f"{total:,} images {shape} · {classes} · {sizes}", *_hints(data, counts)]


def _hints(data: DataModule, counts: Sequence[int]) -> list[str]:
    hints, names = [], data.classes
    folders = data.dataset == "image_folder" and data.labels == "auto"
    if folders and all(DATE.fullmatch(name) for name in names):
        hints.append(
            f"the classes are the folders {_some(names)}, which look like dates: data.labels=none "
            "ignores them"
        )
    few = [f"{name} {count}" for name, count in zip(names, counts, strict=True) if count < FEW]
    if few:
        hints.append(
            f"{len(few)} of {len(names)} classes have fewer than {FEW} images ({_some(few)}): "
            "accuracy on them says little"
        )
    test = data.splits["test"].labels
    unseen = [] if test is None else sorted(set(range(len(names))) - set(test.tolist()))
    if unseen:
        hints.append(f"no test image of {_some([names[i] for i in unseen])}")
    return hints


def flip_hint(classes: Sequence[str]) -> str | None:
    """Advice where mirrored images are others: classes that are single digits or letters.

    >>> flip_hint(["0", "1", "7"]), flip_hint(["cat", "dog"])
    ('classes are single characters: if the images show them, views.flip=0 mirrors none', None)
    """
    if len(classes) > 1 and all(len(name) == 1 and name.isalnum() for name in classes):
        return "classes are single characters: if the images show them, views.flip=0 mirrors none"
    return None


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
