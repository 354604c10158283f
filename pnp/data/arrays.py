"""Arrays, tensors, PIL images and PyTorch datasets as image sets; .npy and .npz files of them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from pnp.data.files import square
from pnp.data.imageset import ImageSet
from pnp.data.layout import PARTS
from pnp.errors import UserError

log = logging.getLogger(__name__)

SHAPES = "(N, H, W), (N, H, W, C) or (N, C, H, W)"
BYTE, DEPTHS = torch.uint8, (8, 10, 12, 14, 16)
# Words in the names of an npz file's arrays that tell what the array holds.
KINDS = dict.fromkeys(("x", "images", "image", "data", "arr"), "images")
KINDS |= dict.fromkeys(("y", "labels", "label", "targets", "target"), "labels")


def parts(
    images: Any,
    labels: Any = None,
    *,
    test: Any = None,
    classes: Sequence[str] | None = None,
    bits: int | str = "auto",
) -> dict[str, ImageSet]:
    """Image sets of arrays: {"train": all} or the official parts that an npz or `test` brings.

    Args:
        images: array or tensor of shape (N, H, W), (N, H, W, C) or (N, C, H, W), see `to_uint8`; a
            list of PIL images; a PyTorch dataset of images or of (image, label); a .npy or .npz
            file. Images that are not square lose their longer sides' ends.
        labels: class of each image, numbers or words; a .npy file; or None.
        test: (images, labels) or images of an official test part.
        classes: names, if labels are the numbers 0, 1, …; None names them by the labels.
        bits: of whole numbers above 255, as `depth` finds them where it is `auto`.

    Raises:
        UserError: arrays of another shape or kind, or numbers of images and labels that differ.
    """
    given: dict[str, tuple[Any, Any]] = {"train": (images, labels)}
    if isinstance(images, str | Path):
        given, named = read(images, labels)
        classes = classes or named
    if test is not None:
        given["test"] = test if isinstance(test, tuple) else (test, None)
    raw = {part: _raw(*pair) for part, pair in given.items()}
    found = depth([x for x, _ in raw.values()]) if bits == "auto" else int(bits)
    if bits == "auto" and 8 < found < 16:
        log.warning(
            "images are taken as %d bits deep: no value is above %s. data.bits=16 takes them as 16 "
            "bits.", found, f"{2**found - 1:,}",
        )  # fmt: skip
    pairs = {part: _pair(part, *pair, found) for part, pair in raw.items()}
    pixels = {part: x for part, (x, _) in pairs.items()}
    known = {part: y for part, (_, y) in pairs.items() if y is not None}
    if "train" not in known:
        return {part: ImageSet(name=part, images=x) for part, x in pixels.items()}
    if missing := pairs.keys() - known.keys():
        raise UserError(f"{', '.join(missing)} has no labels but train has: give both or neither.")
    if classes is not None:
        values = np.unique(np.concatenate(list(known.values())))
        if values.dtype.kind not in "iu" or values[0] < 0 or values[-1] >= len(classes):
            raise UserError(
                f"classes names {len(classes)} classes, labels go from {values[0]} to {values[-1]}:"
                f" expected the numbers 0 to {len(classes) - 1}."
            )
    return with_labels(pixels, known, classes)


def with_labels(
    pixels: Mapping[str, Tensor],
    labels: Mapping[str, np.ndarray],
    classes: Sequence[str] | None = None,
) -> dict[str, ImageSet]:
    """Image sets by part; labels are indices into `classes`, or name their classes themselves."""
    if classes is None:
        values = np.unique(np.concatenate(list(labels.values())))
        labels = {part: np.searchsorted(values, y) for part, y in labels.items()}
        classes = list(map(str, values))
    return {
        part: ImageSet(
            name=part, images=x, labels=torch.from_numpy(labels[part].astype(np.int64)),
            classes=tuple(map(str, classes)),
        )
        for part, x in pixels.items()
    }  # fmt: skip


def read(
    images: str | Path, labels: Any = None
) -> tuple[dict[str, tuple[Any, Any]], list[str] | None]:
    """Arrays of a .npy (memory-mapped) or .npz file: part -> (images, labels or None), and classes.

    An npz may hold parts under names such as `x_train`, `y_test`, `val_images`, as Keras and
    MedMNIST write them, and the names of the `classes`.

    Raises:
        UserError: no such file, not an array, or names that tell nothing.
    """
    loaded = _load(images, "data.images")
    known = _load(labels, "data.labels") if isinstance(labels, str | Path) else labels
    if isinstance(known, Mapping):
        known = next(iter(known.values()))
    if not isinstance(loaded, Mapping):
        return {"train": (loaded, known)}, None
    found: dict[str, dict[str, Any]] = {}
    for name, array in loaded.items():
        words = name.lower().replace("_", " ").split()
        kind = next((KINDS[word] for word in words if word in KINDS), None)
        part = next((PARTS[word] for word in words if word in PARTS), "train")
        if kind:
            found.setdefault(part, {})[kind] = array
    if "images" not in found.get("train", {}):
        raise UserError(
            f"data.images={images} holds {', '.join(loaded)}; expected names such as images and "
            "labels, or x_train, y_train, x_test, y_test."
        )
    if known is not None:
        found["train"]["labels"] = known
    names = loaded["classes"].astype(str).tolist() if "classes" in loaded else None
    pairs = {part: (a["images"], a.get("labels")) for part, a in found.items() if "images" in a}
    return pairs, names


def _load(file: str | Path, key: str) -> Any:
    path = Path(file).expanduser()
    try:
        loaded = np.load(path, mmap_mode="c", allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{key}={file} cannot be read: {error}. Expected a .npy or .npz file of numbers."
        ) from error


def _raw(images: Any, labels: Any) -> tuple[Tensor, Any]:
    """Pixels of one part as they were given, channels first, and its labels."""
    if isinstance(images, torch.utils.data.Dataset):
        images, own = _items(images)
        labels = own if labels is None else labels
    if isinstance(images, list | tuple) and len(images) and isinstance(images[0], Image.Image):
        side = min(64, *(min(image.size) for image in images))
        modes = {image.mode for image in images}
        deep = next((mode for mode in ("F", "I") if any(m.startswith(mode) for m in modes)), "")
        mode = deep or ("L" if modes <= {"1", "L"} else "RGB")
        images = np.stack([square(image.convert(mode), side) for image in images])
    x = torch.as_tensor(images if isinstance(images, Tensor) else np.asarray(images))
    return _channels_first(x), labels


def depth(images: Sequence[Tensor]) -> int:
    """Bits of whole numbers: the fewest of 8, 10, 12, 14 and 16 that hold every value of all parts.

    Cameras, scanners and microscopes write 10 to 14 bits into 16, which as 16 bits were dark.
    """
    whole = [x for x in images if not x.is_floating_point() and x.dtype not in (torch.bool, BYTE)]
    most = max((int(x.cpu().numpy().max()) for x in whole if x.numel()), default=0)
    return next((bits for bits in DEPTHS if most < 2**bits), DEPTHS[-1])


def _pair(part: str, images: Tensor, labels: Any, bits: int) -> tuple[Tensor, np.ndarray | None]:
    """Square uint8 images and the labels of one part, checked against each other."""
    pixels = to_uint8(images, bits)
    if labels is None:
        return pixels, None
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "f" and np.all(labels == np.round(labels)):
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "iubUS":
        raise UserError(
            f"labels of {part} have the shape {labels.shape} and dtype {labels.dtype}; expected "
            "one class per image, a number or a word."
        )
    if len(labels) != len(pixels):
        raise UserError(f"{part} has {len(pixels)} images but {len(labels)} labels.")
    return pixels, labels


def _items(dataset: Any) -> tuple[Any, list[Any] | None]:
    """Images and labels of a map-style dataset of images, (image, label, …) or a mapping."""
    items = [dataset[number] for number in range(len(dataset))]
    if not items:
        raise UserError("the dataset is empty.")
    pairs = isinstance(items[0], list | tuple)
    images = [item[0] if pairs else item for item in items]
    if not isinstance(images[0], Image.Image):
        images = torch.stack([torch.as_tensor(np.asarray(image)) for image in images])
    return images, [int(item[1]) for item in items] if pairs and len(items[0]) > 1 else None


def to_uint8(x: Tensor, bits: int = 16) -> UInt8[Tensor, "n c s s"]:
    """Images (N, C, H, W) as uint8 (N, C, S, S): the centre square of each.

    uint8 stays; other whole numbers of more than 8 bits are scaled from 0 … 2^bits − 1; floats in
    [0, 1] are multiplied by 255; False and True become 0 and 255.

    Raises:
        UserError: values out of range.
    """
    if x.dtype == torch.bool:
        x = x.to(torch.uint8) * 255
    if x.dtype != torch.uint8:
        x = _scaled(x, bits)
    side = min(x.shape[2:])
    top, left = ((length - side) // 2 for length in x.shape[2:])
    return x[:, :, top : top + side, left : left + side].contiguous()


def _channels_first(x: Tensor) -> Tensor:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4 or not len(x):
        raise UserError(f"images have the shape {tuple(x.shape)}; expected {SHAPES}.")
    _, first, middle, last = x.shape
    few = (1, 3, 4)
    if first in few and last not in few:
        return x
    if last in few and first not in few:
        return x.movedim(3, 1)
    if (first == middle) != (middle == last):  # the square tells height and width
        return x if middle == last else x.movedim(3, 1)
    raise UserError(
        f"images have the shape {tuple(x.shape)}: which axis holds the channels? Give (N, C, H, W) "
        "with square images, or 1 or 3 channels."
    )


def _scaled(x: Tensor, bits: int) -> Tensor:
    wide = x.to(torch.float32 if x.is_floating_point() else torch.int32)
    low, high = (float(value) for value in wide.aminmax())
    if x.is_floating_point() and low >= 0 and high <= 1:
        wide = wide * 255
    elif low >= 0 and high < 2**bits and not x.is_floating_point():
        wide = wide.float() * (255 / (2**bits - 1))
    elif not (x.is_floating_point() and low >= 0 and 1 < high <= 255):
        raise UserError(
            f"images range from {low:g} to {high:g} ({x.dtype}); expected uint8, uint16 of at most "
            f"{bits} bits, or floats in [0, 1]. Give pixels that are not normalised."
        )
    return wide.round().to(torch.uint8)
