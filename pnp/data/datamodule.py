"""One DataModule over one table of data sets: options in, disjoint splits and batches out."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from pnp import auto
from pnp.cpu import cores, shared_memory
from pnp.data import ambiguous, arrays, datasets, folder, hub
from pnp.data.cache import ArrayImages
from pnp.data.files import FolderImages, load
from pnp.data.imageset import ImageSet, concatenate, first_channel, is_grey, resize, statistics
from pnp.data.loader import Loader, batches_per_epoch
from pnp.data.splits import amount, deal, permutation, record, repeats
from pnp.distributed import world_size
from pnp.errors import UserError, choice, number, whole

log = logging.getLogger(__name__)

# The table: each entry gives the official parts of a data set; `deal` cuts what is missing.
DATASETS: dict[str, Callable[["DataModule"], dict[str, ImageSet]]] = {
    "ambiguous": lambda d: d._ambiguous(),
    "fashion_mnist": lambda d: datasets.fashion_mnist(d.root),
    "cifar10": lambda d: datasets.cifar10(d.root),
    "cifar100": lambda d: datasets.cifar100(d.root),
    "stl10": lambda d: datasets.stl10(d.root, unlabeled="unlabeled" in d.pretrain_on),
    "image_folder": lambda d: d._folder(),
    "array": lambda d: d._array(),
    "hf": lambda d: d._hub(),
}


class DataModule(L.LightningDataModule):
    """Splits, statistics and training batches of one data set.

    The splits train, validation, calibration and test are disjoint and depend on the data and
    `seed` only. Where there is an official test part, calibration and test are its two shares and
    validation comes from the training part; otherwise all are cut from one list. Self-supervised
    pre-training sees the splits in `pretrain_on`, never calibration or test.

    Args:
        dataset: a name in `DATASETS`.
        root: folder of the data; None means the data set's usual places.
        size: side in pixels to resize to; None keeps the data set's own, of files the usual one,
            but at most 64.
        channels: "auto" keeps one channel of images in memory that are all grey; None keeps all.
        batch_size: images per step and process; `auto` follows from their number, see `pnp.auto`.
        seed: of the splits and of generated images.
        order_seed: of the order of training batches.
        validation: number of images, or share of the training part (`ambiguous`: of n_train).
        calibration: number or share of the official test part; None means half of it, or a tenth
            of all images where there is none.
        test: likewise, only where there is no official test part; None means a tenth.
        max_images: use at most so many images of train (and of unlabeled), for quick trials.
        pretrain_on: splits that the self-supervised training sees.
        labels: "auto", or "none" to ignore all labels; also a csv file of `image_folder`, see
            `pnp.data.layout`, a .npy file of `array`, or a column of `hf`.
        images: .npy or .npz file of `array`, see `pnp.data.arrays`.
        bits: of whole numbers above 255 of `array`, 8 to 16; "auto" takes the fewest that hold all.
        name: data set of `hf`, see `pnp.data.hub`.
        subset: its configuration.
        image: its column of images.
        resident: keep decoded images in memory on the training device; "auto" if they fit.
        resident_limit_gb: memory that all splits together may take, in 10⁹ bytes.
        num_workers: processes that decode files that are not resident; 0 decodes in threads of
            this one; None chooses by the number of cores, 0 where training needs them itself.
        votes: csv with the answers of several annotators for the images of a folder
            (`pnp.data.votes`): concepts then ask one of them, drawn per image.
        cache: convert a folder of images once into a memory-mapped array and read that.
        cache_dir: where such arrays are kept; None means `.pnp-cache` in `root`.
        on_corrupt: "error" stops at an unreadable file, "skip" leaves it out and names it.
        n_train: images to draw for training (`ambiguous` only).
        concept_k: steepness of η(u) (`ambiguous` only).
        concept_c: the u where η is one half (`ambiguous` only).

    Raises:
        UserError: an invalid option; on first use, data that is missing or damaged.
    """

    def __init__(
        self,
        dataset: str,
        *,
        root: str | None = None,
        size: int | None = None,
        channels: str | None = None,
        batch_size: int | str = "auto",
        seed: int = 0,
        order_seed: int = 0,
        validation: int | float = 0.1,
        calibration: int | float | None = None,
        test: int | float | None = None,
        max_images: int | None = None,
        pretrain_on: Sequence[str] = ("train",),
        labels: str = "auto",
        images: str | None = None,
        bits: int | str = "auto",
        name: str | None = None,
        subset: str | None = None,
        image: str | None = None,
        resident: str | bool = "auto",
        resident_limit_gb: float = 4.0,
        num_workers: int | None = None,
        votes: str | None = None,
        cache: bool = False,
        cache_dir: str | None = None,
        on_corrupt: str = "error",
        n_train: int = 30_000,
        concept_k: float = 20.0,
        concept_c: float = 0.5,
    ) -> None:
        super().__init__()
        choice("data.dataset", dataset, DATASETS)
        if dataset not in ("array", "image_folder", "hf"):
            choice("data.labels", labels, ("auto", "none"))
        choice("data.resident", resident, ("auto", True, False))
        choice("data.on_corrupt", on_corrupt, ("error", "skip"))
        pretrain_on = (pretrain_on,) if isinstance(pretrain_on, str) else tuple(pretrain_on)
        if not pretrain_on:
            raise UserError("data.pretrain_on is empty: name at least one split, e.g. [train].")
        known = ("train", "validation", *(("unlabeled",) if dataset == "stl10" else ()))
        for split in pretrain_on:
            if split in ("calibration", "test"):
                raise UserError(
                    f"data.pretrain_on names {split}: what is reported on {split} would then hold "
                    f"for no unseen image. Choose from {', '.join(known)}."
                )
            choice("data.pretrain_on", split, known)
        for key, value, least in (
            ("size", size, 1),
            ("batch_size", None if batch_size == "auto" else batch_size, 2),
            ("seed", seed, 0),
            ("order_seed", order_seed, 0),
            ("max_images", max_images, 1),
            ("num_workers", num_workers, 0),
            ("n_train", n_train, 2),
        ):
            if value is not None:
                whole(f"data.{key}", value, least)
        if bits != "auto" and not 8 <= whole("data.bits", bits, 8) <= 16:
            raise UserError(f"data.bits={bits}: give auto or a whole number from 8 to 16.")
        number("data.concept_k", concept_k, 0, open_low=True)
        self.dataset, self.root, self.labels, self.pretrain_on = dataset, root, labels, pretrain_on
        self._batch_size, self.seed, self.order_seed = batch_size, seed, order_seed
        self.resident, self.resident_limit_gb = resident, resident_limit_gb
        self._asked = {"validation": validation, "calibration": calibration, "test": test}
        self._channels = choice("data.channels", channels, (None, "auto"))
        self._size, self._max_images, self._num_workers = size, max_images, num_workers
        self._skip_corrupt = on_corrupt == "skip"
        self._cache, self._cache_dir, self._votes = cache, cache_dir, votes
        if votes is not None and (dataset != "image_folder" or labels == "none"):
            raise UserError("data.votes goes with data=image_folder and data.labels=auto.")
        self._n_train, self._k, self._c = n_train, concept_k, concept_c
        self._images, self._bits = images, bits
        self._labels = None if labels in ("auto", "none") else labels  # a file or column of them
        self._hf = name, subset, image
        self.arrays: dict[str, ImageSet] | None = None  # of `from_arrays`
        self.options: dict[str, Any] = {}
        self.global_batch: int | None = None  # images the objective sees, over all processes

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        *,
        test: Any = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> "DataModule":
        """Data from arrays, tensors, PIL images or a PyTorch dataset; see `pnp.data.arrays.parts`.

        Args:
            images: the images, for instance (N, H, W, C) uint8.
            labels: their classes; None without.
            test: (images, labels) of an official test part; or, as in the constructor, the number
                or share of `images` to take.
            classes: names of the classes.
            options: of the constructor.

        >>> DataModule.from_arrays(torch.rand(50, 3, 8, 8), [0, 1] * 25).classes
        ('0', '1')
        """
        official = test is not None and not isinstance(test, int | float)
        options |= {} if official or test is None else {"test": test}
        data = cls("array", **options)
        data.options = options
        given = test if official else None
        data.arrays = arrays.parts(images, labels, test=given, classes=classes, bits=data._bits)
        return data

    # ---- the data -------------------------------------------------------------------------------

    @cached_property
    def splits(self) -> dict[str, ImageSet]:
        """train, validation, calibration, test, and unlabeled if pre-training uses it.

        Loaded when first asked for.
        """
        parts = DATASETS[self.dataset](self)
        if self.labels == "none":
            parts = {name: part.without_labels() for name, part in parts.items()}
        splits = self._ready(deal(parts, self._asked, self.seed, self.dataset))
        for sentence in repeats(splits):
            log.warning("%s", sentence)
        return splits

    @cached_property
    def pretrain(self) -> ImageSet:
        """The union of the splits in `pretrain_on`; with labels if every one of them has them."""
        parts = [self.splits[name] for name in self.pretrain_on]
        whole = concatenate(parts)
        # The splits become slices of the union: the pixels are kept once.
        if len(parts) > 1 and isinstance(whole.images, Tensor):
            slices = whole.images.split([len(part) for part in parts])
            for part, images in zip(parts, slices, strict=True):
                self.splits[part.name] = replace(part, images=images)
        return whole

    @property
    def batch_size(self) -> int:
        """Images per step and process."""
        given = self._batch_size
        return auto.batch_size(len(self.pretrain)) if isinstance(given, str) else given

    @batch_size.setter
    def batch_size(self, images: int) -> None:
        self._batch_size = whole("data.batch_size", images, 2)

    @property
    def channels(self) -> int:
        """Colour channels of every image."""
        return self.splits["train"].shape[0]

    @property
    def size(self) -> int:
        """Side of every image in pixels."""
        return self.splits["train"].shape[1]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; () when there are no labels."""
        return self.splits["train"].classes

    @property
    def mean(self) -> list[float]:
        """Mean of each channel over train, with pixels from 0 to 1; see `imageset.statistics`."""
        return self._statistics[0]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel, as `mean`; at least 1/255."""
        return self._statistics[1]

    def split_record(self) -> dict[str, dict[str, Any]]:
        """Count, digest and role of every split, for the run directory; see `splits.record`."""
        return self._record

    @cached_property
    def _record(self) -> dict[str, dict[str, Any]]:
        return record(self.splits, self.pretrain_on)

    @cached_property
    def _statistics(self) -> tuple[list[float], list[float]]:
        return statistics(self.splits["train"])

    # ---- what Lightning calls -------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Download on one process only, before the others look."""
        if self.dataset not in ("ambiguous", "image_folder", "array"):
            self.splits  # noqa: B018 (loads)

    def setup(self, stage: str) -> None:
        """Load the splits, so that missing data stops the run before training starts."""
        self.pretrain  # noqa: B018 (loads)

    def train_dataloader(self) -> Loader:
        """Batches of `pretrain` on the trainer's device."""
        trainer, images = self.trainer, self.pretrain.images
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        return Loader(
            self.pretrain,
            self.loader_batch,
            seed=self.order_seed,
            device=device,
            resident=self._fits(self.splits.values()),
            num_workers=self._workers(images, device) if isinstance(images, FolderImages) else 0,
            consumed=None if trainer is None else self._processed,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch on every process."""
        return batches_per_epoch(len(self.pretrain), self.loader_batch)

    @property
    def loader_batch(self) -> int:
        """Images per batch and process: `batch_size`, or this process's share of `global_batch`.

        Raises:
            UserError: the share is not a whole number of `batch_size`.
        """
        if self.global_batch is None:
            return self.batch_size
        step = self.batch_size * world_size()
        if self.global_batch < step or self.global_batch % step:
            raise UserError(
                f"method.global_batch={self.global_batch} must be a multiple of "
                f"data.batch_size={self.batch_size} times {world_size()} process(es)."
            )
        return self.global_batch // world_size()

    def _processed(self) -> int:
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]

    def _workers(self, images: FolderImages, device: torch.device) -> int:
        # Two batches wait for each worker, one is in use.
        batch = self.loader_batch * 3 * images.size**2
        free = shared_memory()
        room = (free / batch - 1) / 2
        if self._num_workers is not None:
            if self._num_workers > max(0, room):
                raise UserError(
                    f"data.num_workers={self._num_workers}: /dev/shm has {free / 2**20:.1f} MiB "
                    f"free, and a worker needs {2 * batch / 2**20:.1f}. Give the container more "
                    "(docker run --shm-size=1g), or data.num_workers=0."
                )
            return self._num_workers
        # A worker takes a core from training: with two cores that costs a quarter of the speed, and
        # reading an array in this process costs nothing that shows (benchmarks/RESULTS.md).
        if device.type == "cpu" and (isinstance(images, ArrayImages) or cores() <= 2):
            return 0
        return int(max(0, min(room, 8, max(1, cores() - 1))))

    # ---- from official parts to splits ----------------------------------------------------------

    def _ambiguous(self) -> dict[str, ImageSet]:
        defaults = {"validation": 0.1, "calibration": 0.2, "test": 0.2}
        counts = {"train": min(self._n_train, self._max_images or self._n_train)}
        for name, default in defaults.items():
            value = default if self._asked[name] is None else self._asked[name]
            # These images are drawn, not taken from train: any count is possible.
            whole = value + 1 if isinstance(value, int) else self._n_train
            counts[name] = amount(f"data.{name}", value, whole)
        drawn = {"size": self._size or 32, "seed": self.seed, "k": self._k, "c": self._c}
        return {name: ambiguous.draw(name, count, **drawn) for name, count in counts.items()}

    def _ready(self, splits: dict[str, ImageSet]) -> dict[str, ImageSet]:
        """Subsample, then decode files if they are to be resident, or resize what is in memory."""
        for name in {"train", "unlabeled"} & splits.keys():
            count = len(splits[name])
            if self._max_images and count > self._max_images:
                some = permutation(count, self.seed, "max_images")[: self._max_images]
                splits[name] = splits[name].subset(some.sort().values)
        fits = self._fits(splits.values())
        ready = {name: self._prepared(split, fits) for name, split in splits.items()}
        if self._channels == "auto" and all(map(is_grey, ready.values())):
            ready = {name: first_channel(split) for name, split in ready.items()}
        return ready

    def _prepared(self, split: ImageSet, fits: bool) -> ImageSet:
        images = split.images
        if isinstance(images, Tensor):
            size = self._size
            return split if size is None else replace(split, images=resize(images, size))
        if not fits:
            return split
        if isinstance(images, ArrayImages):
            return replace(split, images=images.batch(torch.arange(len(split))))
        return replace(split, images=load(images, title=f"Reading {split.name}"))

    def _fits(self, splits: Iterable[ImageSet]) -> bool:
        if isinstance(self.resident, bool):
            return self.resident
        return sum(split.nbytes for split in splits) <= self.resident_limit_gb * 1e9

    def _array(self) -> dict[str, ImageSet]:
        if self.arrays is not None:
            return dict(self.arrays)
        if self._images is None:
            raise UserError("data.images is not set: give data.images=FILE.npy or FILE.npz.")
        return arrays.parts(self._images, self._labels, bits=self._bits)

    def _hub(self) -> dict[str, ImageSet]:
        name, subset, image = self._hf
        return hub.parts(
            name, subset, image=image, label=self._labels, labelled=self.labels != "none",
            size=self._size,
        )  # fmt: skip

    def _folder(self) -> dict[str, ImageSet]:
        where = self._cache_dir or Path(self.root or "").expanduser() / ".pnp-cache"
        return folder.parts(
            self.root,
            self._size,
            labelled=self.labels == "auto",
            labels=self._labels,
            votes=self._votes,
            cache=where if self._cache else None,
            skip_corrupt=self._skip_corrupt,
        )
