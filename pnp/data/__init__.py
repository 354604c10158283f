"""Images as uint8 tensors: data sets, disjoint splits, and resumable training batches.

The names load on first use: reading image files needs no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pnp.data.datamodule import DATASETS, DataModule
    from pnp.data.files import FolderImages
    from pnp.data.imageset import ImageSet
    from pnp.data.loader import Batch, Loader

__all__ = ["DATASETS", "Batch", "DataModule", "FolderImages", "ImageSet", "Loader"]

_HOMES = {
    "DATASETS": "datamodule",
    "DataModule": "datamodule",
    "FolderImages": "files",
    "ImageSet": "imageset",
    "Batch": "loader",
    "Loader": "loader",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pnp.data.{_HOMES[name]}"), name)
