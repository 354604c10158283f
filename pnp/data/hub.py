"""Data sets that Hugging Face `datasets` reads: local folders, parquet files, the Hub's cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pnp.data.arrays import with_labels
from pnp.data.files import square, upright
from pnp.data.imageset import ImageSet
from pnp.data.layout import PARTS
from pnp.errors import UserError, near

LABELS = ("label", "labels", "fine_label", "class", "target")  # columns, where none is typed
SMALL = 64  # side at most, unless a size is given


def parts(
    name: str | None,
    subset: str | None = None,
    *,
    image: str | None = None,
    label: str | None = None,
    labelled: bool = True,
    size: int | None = None,
) -> dict[str, ImageSet]:
    """The official parts of a data set, decoded into memory.

    Args:
        name: on the Hub, from its cache where there is no network; a folder of parquet or image
            files or of `save_to_disk`; or a .parquet file.
        subset: of a data set that has several configurations.
        image: column of the images; None takes the first.
        label: column of the classes; None takes the first of the type ClassLabel, else one that is
            called label or the like.
        labelled: read the labels.
        size: side in pixels; None takes that of the smallest image, at most 64.

    Raises:
        UserError: `datasets` is not installed, the data set cannot be loaded, or it has no images.
    """
    loaded = _load(name, subset)
    found = {PARTS[key.lower()]: rows for key, rows in loaded.items() if key.lower() in PARTS}
    if "train" not in found:
        if len(loaded) > 1:
            raise UserError(
                f"data.name={name} has the parts {', '.join(loaded)}; expected train, "
                "and test or validation if there are any."
            )
        found = {"train": next(iter(loaded.values()))}
    image = _image_column(found["train"], image)
    column = _label_column(found["train"], label) if labelled else None
    pictures = {part: _typed(rows, image)[image] for part, rows in found.items()}
    if size is None:
        size = min(SMALL, *(min(one.size) for column_ in pictures.values() for one in column_))
    pixels = {part: _pixels(column_, size) for part, column_ in pictures.items()}
    if len({x.shape[1] for x in pixels.values()}) > 1:  # a part that happens to be grey
        pixels = {part: x.expand(-1, 3, -1, -1).contiguous() for part, x in pixels.items()}
    if column is None:
        return {part: ImageSet(name=part, images=x) for part, x in pixels.items()}
    labels = {part: np.asarray(rows[column]) for part, rows in found.items()}
    hidden = [p for p, y in labels.items() if y.dtype.kind in "iu" and p != "train" and y.min() < 0]
    for part in hidden:  # -1: the labels of a contest's test part are not published
        del labels[part], pixels[part]
    return with_labels(pixels, labels, getattr(found["train"].features[column], "names", None))


def _load(name: str | None, subset: str | None) -> dict[str, Any]:
    """Part -> rows."""
    if not name:
        raise UserError("data.name is not set: a data set of the Hub, a folder or a .parquet file.")
    try:
        import datasets
    except ImportError as error:
        raise UserError("data=hf needs the package datasets: pip install 'pnp-ssl[hf]'.") from error
    path = Path(name).expanduser()
    datasets.disable_progress_bars()
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        elif path.suffix == ".parquet":
            loaded = datasets.load_dataset("parquet", data_files=str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.is_dir() else name, subset)
    except Exception as error:  # no network, no such data set, a damaged file: a class for each
        raise UserError(
            f"data.name={name} cannot be loaded ({type(error).__name__}: {error}). Give a name on "
            "the Hub that is in the cache or can be downloaded, a folder, or a .parquet file."
        ) from error
    if not isinstance(loaded, dict):
        return {"train": loaded}
    return {str(part): rows for part, rows in loaded.items()}


def _image_column(rows: Any, given: str | None) -> str:
    """The column of images; raw bytes count as images where their column is named."""
    from datasets import Image

    features = rows.features
    if given is not None:
        return _known("data.image", given, features)
    for name, feature in features.items():
        if isinstance(feature, Image) or (isinstance(feature, dict) and "bytes" in feature):
            return name
    raise UserError(
        f"the data set has no column of images among {', '.join(features)}: give data.image=COLUMN."
    )


def _label_column(rows: Any, given: str | None) -> str | None:
    from datasets import ClassLabel

    features = rows.features
    if given is not None:
        return _known("data.labels", given, features)
    typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    return next((name for name in (*typed, *LABELS) if name in features), None)


def _known(key: str, name: str, features: Any) -> str:
    if name not in features:
        raise UserError(
            f"{key}={name}: the data set has the columns {', '.join(features)}."
            f"{near(name, features)}"
        )
    return name


def _typed(rows: Any, column: str) -> Any:
    """Rows whose column gives PIL images, in parquet files without a schema too."""
    from datasets import Image

    feature = rows.features[column]
    return rows if isinstance(feature, Image) else rows.cast_column(column, Image())


def _pixels(images: Sequence[Any], size: int) -> torch.Tensor:
    """Images as uint8 (N, C, size, size); C is 1 where all are grey."""
    upright_ = [upright(image) for image in images]
    if odd := {image.mode for image in upright_ if image.mode.startswith(("I", "F"))}:
        raise UserError(
            f"the data set has images of mode {', '.join(sorted(odd))}; convert them to 8 bits a "
            "channel, or give them as data=array."
        )
    mode = "L" if {image.mode for image in upright_} <= {"1", "L"} else "RGB"
    return torch.from_numpy(np.stack([square(image.convert(mode), size) for image in upright_]))
