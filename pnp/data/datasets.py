"""Public data sets: Fashion-MNIST, CIFAR-10, CIFAR-100 and STL-10 as their official parts."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pnp.data.imageset import ImageSet
from pnp.errors import UserError

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FASHION_FILES = {"train": "train", "test": "t10k"}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
CACHE = Path("~/.cache/pnp-ssl")  # where downloads go when no root is given


def fashion_mnist(root: str | Path | None = None) -> dict[str, ImageSet]:
    """60,000 + 10,000 grey 28 × 28 images of clothes (Xiao et al. 2017, arXiv 1708.07747).

    Looked for in `root` (idx files there or as torchvision lays them out), then where Debian's
    package puts them, then downloaded into `root` by torchvision.

    Raises:
        UserError: found in none of the three ways, or damaged.
    """
    home = _home(root)
    raw = home / "FashionMNIST" / "raw"
    places = [*([home] if root else []), raw, DEBIAN]
    names = [f"{prefix}-images-idx3-ubyte" for prefix in FASHION_FILES.values()]
    where = next((p for p in places if all(_idx_file(p, name) for name in names)), None)
    if where is None:
        try:
            from torchvision.datasets import FashionMNIST

            FashionMNIST(str(home), download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"Fashion-MNIST is neither in {home} nor in {DEBIAN}, and downloading it failed "
                f"({error}). Three ways: put the four *-ubyte.gz files into a folder and give "
                "data.root=FOLDER; or `apt install dataset-fashion-mnist`; or run with internet."
            ) from None
        where = raw
    return {part: _fashion_part(where, part) for part in FASHION_FILES}


def _idx_file(place: Path, name: str) -> Path | None:
    return next((p for p in (place / f"{name}.gz", place / name) if p.is_file()), None)


def _fashion_part(place: Path, part: str) -> ImageSet:
    prefix = FASHION_FILES[part]
    images = read_idx(place / f"{prefix}-images-idx3-ubyte", 3)
    labels = read_idx(place / f"{prefix}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise UserError(
            f"{place}: {len(images)} images but {len(labels)} labels in the {prefix} files. "
            "Fetch all four files again."
        )
    if labels.max(initial=0) >= len(FASHION_CLASSES):
        raise UserError(f"{place}: label {labels.max()} in the {prefix} files; expected 0 to 9.")
    return _image_set(part, images[:, None], labels, FASHION_CLASSES)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file, plain or with `.gz` appended to its name.

    Format: 00 00 08 d, then d big-endian uint32 lengths, then the bytes
    (http://yann.lecun.com/exdb/mnist).

    Raises:
        UserError: missing, damaged, another type or number of dimensions, or cut off.
    """
    found = _idx_file(path.parent, path.name)
    if found is None:
        raise UserError(f"{path}.gz is missing. Fetch all four Fashion-MNIST files.")
    try:
        raw = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{found} is damaged ({error}). Fetch it again.") from None
    magic = bytes([0, 0, 8, dimensions])
    if raw[:4] != magic:
        raise UserError(
            f"{found} is not the idx file expected here: it starts with {raw[:4].hex()}, "
            f"expected {magic.hex()}. Fetch it again."
        )
    start = 4 + 4 * dimensions
    shape = tuple(int(length) for length in np.frombuffer(raw[4:start], ">u4"))
    expected = start + int(np.prod(shape))
    if len(shape) != dimensions or len(raw) != expected:
        raise UserError(
            f"{found} is cut off or padded: {len(raw)} bytes, shape {shape} needs {expected}."
            " Fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def cifar10(root: str | Path | None = None) -> dict[str, ImageSet]:
    """50,000 + 10,000 RGB 32 × 32 images in 10 classes (Krizhevsky 2009), by torchvision.

    Raises:
        UserError: neither in `root` nor downloadable.
    """
    return _cifar("CIFAR10", root)


def cifar100(root: str | Path | None = None) -> dict[str, ImageSet]:
    """50,000 + 10,000 RGB 32 × 32 images in 100 classes (Krizhevsky 2009), by torchvision.

    Raises:
        UserError: neither in `root` nor downloadable.
    """
    return _cifar("CIFAR100", root)


def _cifar(name: str, root: str | Path | None) -> dict[str, ImageSet]:
    def part(train: bool) -> ImageSet:
        data = _torchvision(name, root, train=train)
        images = data.data.transpose(0, 3, 1, 2)
        return _image_set("train" if train else "test", images, data.targets, data.classes)

    return {"train": part(True), "test": part(False)}


def stl10(root: str | Path | None = None, *, unlabeled: bool = False) -> dict[str, ImageSet]:
    """5,000 + 8,000 RGB 96 × 96 images in 10 classes (Coates et al. 2011), by torchvision.

    Args:
        root: the folder that holds or gets `stl10_binary`.
        unlabeled: also the 100,000 images without labels (2.8 GB).

    Raises:
        UserError: neither in `root` nor downloadable.
    """
    sets = {}
    for part in ("train", "test", *(("unlabeled",) if unlabeled else ())):
        data = _torchvision("STL10", root, split=part)
        labels = None if part == "unlabeled" else data.labels
        sets[part] = _image_set(part, data.data, labels, data.classes)
    return sets


def _torchvision(name: str, root: str | Path | None, **part: Any) -> Any:
    import torchvision

    home = _home(root)
    try:
        return getattr(torchvision.datasets, name)(str(home), download=True, **part)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{name} is not (complete) in {home}, and downloading it there failed ({error}). Fetch "
            f"it on a machine with internet, torchvision.datasets.{name}(FOLDER, download=True), "
            "copy FOLDER here and give data.root=FOLDER."
        ) from None


def _home(root: str | Path | None) -> Path:
    return Path(root or CACHE).expanduser()


def _image_set(name: str, images: np.ndarray, labels: Any, classes: Any) -> ImageSet:
    known = None if labels is None else torch.from_numpy(np.array(labels, dtype=np.int64))
    return ImageSet(
        name=name,
        # A copy: torch wants memory that is writable and in order.
        images=torch.from_numpy(np.array(images, dtype=np.uint8, order="C")),
        labels=known,
        classes=() if known is None else tuple(classes),
    )
