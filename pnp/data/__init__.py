"""Images as uint8 tensors: data sets, disjoint splits, and resumable training batches."""

from pnp.data.datamodule import DATASETS, DataModule
from pnp.data.files import FolderImages
from pnp.data.imageset import ImageSet
from pnp.data.loader import Batch, Loader

__all__ = ["DATASETS", "Batch", "DataModule", "FolderImages", "ImageSet", "Loader"]
