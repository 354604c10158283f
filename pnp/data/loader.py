"""Batches in an order that is a pure function of (seed, epoch, rank, world size), and resumable."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from pnp.data.files import FolderImages
from pnp.data.imageset import ImageSet
from pnp.data.splits import permutation
from pnp.distributed import rank, world_size
from pnp.errors import UserError


@dataclass
class Batch:
    """Input of a training step.

    Args:
        images: uint8, on the training device.
        labels: of the images; None when there are none.
    """

    images: UInt8[Tensor, "b c h w"]
    labels: Int64[Tensor, "b"] | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), labels)


def as_batch(batch: Any) -> Batch:
    """A training batch of any loader: a `Batch`, images, or (images, labels, …).

    Args:
        batch: images are (N, C, H, W): uint8, or floats in [0, 1].

    Raises:
        UserError: something else.
    """
    if isinstance(batch, Batch):
        return batch
    images, labels = (*batch, None)[:2] if isinstance(batch, list | tuple) else (batch, None)
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UserError(
            f"the loader gives {shape}; expected images (N, C, H, W), alone or with labels, or a "
            "pnp.data.Batch."
        )
    if images.is_floating_point():
        low, high = (float(value) for value in images.aminmax())
        if low < 0 or high > 1:
            raise UserError(
                f"float images range from {low:g} to {high:g}; expected [0, 1], not normalised: "
                "the views do that."
            )
        images = (255 * images).round().to(torch.uint8)
    return Batch(images, labels if isinstance(labels, Tensor) else None)


def batches_per_epoch(count: int, batch_size: int) -> int:
    """Full batches per epoch and rank: count // (batch_size · world size), the rest is dropped.

    Raises:
        UserError: a batch of 1, or not one full batch in the set.
    """
    world = world_size()
    if batch_size < 2:
        raise UserError(
            f"data.batch_size={batch_size}: variance, covariance and repulsion compare the images "
            "of a batch, give at least 2 per process."
        )
    if batch_size * world > count:
        processes = f" × {world} processes" if world > 1 else ""
        raise UserError(
            f"data.batch_size={batch_size}{processes} is larger than the set of {count} images: "
            f"not one batch fits. Use data.batch_size={max(2, count // world)} or less."
        )
    return count // (batch_size * world)


class Loader:
    """Shuffled training batches; every rank gets its share of the same global order.

    The position is the pair (epoch, batch). Iterating starts there, runs to the end of the epoch
    and leaves the position at the start of the next one; `set_epoch` starts an epoch from its
    first batch, unless the position is in that epoch already (a resumed run). Positions count
    batches handed to the training loop, not those that worker processes have decoded ahead.
    Use one iterator at a time.

    Lightning saves and restores the position with its checkpoints (`state_dict`), and calls
    `set_epoch` on `loader.sampler`, which is the loader itself.

    Args:
        data: the set; in memory it moves to `device` if `resident`, files stream.
        batch_size: images per batch and process.
        seed: of the order.
        device: where batches are wanted.
        resident: keep images that are in memory on `device`.
        num_workers: processes that decode files; 0 decodes in threads of this process.
        consumed: callback returning how many batches of the epoch training has completed;
            optional. A checkpoint written in the middle of a step then resumes with that step's
            batch.

    Raises:
        UserError: a batch of 1, or larger than the set.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        resident: bool = True,
        num_workers: int = 0,
        consumed: Callable[[], int] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.epoch, self.batch = 0, 0
        self._length = batches_per_epoch(len(data), batch_size)
        self._consumed = consumed
        self._stream = None
        if isinstance(data.images, FolderImages):
            self._stream = DataLoader(
                _Decoder(data.images),  # pyright: ignore[reportArgumentType]
                sampler=_Order(self),  # pyright: ignore[reportArgumentType]
                batch_size=None,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # its own: the global stream stays untouched
            )
        self._images, self._labels = data.images, data.labels
        if resident and isinstance(data.images, Tensor):
            self._images = data.images.to(self.device)
            self._labels = None if data.labels is None else data.labels.to(self.device)

    def __len__(self) -> int:
        return self._length

    @property
    def sampler(self) -> "Loader":
        """The loader itself: Lightning calls `set_epoch` on the sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Start this epoch, from its first batch unless the position is already in it."""
        if epoch != self.epoch:
            self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """The position, and everything that the order depends on."""
        batch = self.batch if self._consumed is None else min(self.batch, self._consumed())
        return {"epoch": self.epoch, "batch": batch, "order": self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            UserError: the position is inside an epoch whose order of images has changed.
        """
        if 0 < state["batch"] < len(self) and state["order"] != self._order():
            changed = ", ".join(
                f"{key}: {state['order'].get(key)} then, {now} now"
                for key, now in self._order().items()
                if now != state["order"].get(key)
            )
            raise UserError(
                f"The checkpoint stopped at batch {state['batch']} of epoch {state['epoch']} of "
                f"another order of images ({changed}). Resume with the same data settings and "
                "number of processes, or from a checkpoint written at the end of an epoch."
            )
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _order(self) -> dict[str, int]:
        size = {"images": len(self.data), "batch_size": self.batch_size}
        return {**size, "seed": self.seed, "world_size": world_size()}

    def indices(self, device: torch.device | str = "cpu") -> Iterator[Int64[Tensor, "b"]]:
        """Image numbers of the batches still to come in this epoch on this rank."""
        # The whole order at once: a copy to the device in every step would wait for the step.
        order = permutation(len(self.data), self.seed, "order", self.epoch).to(device)
        share = self.batch_size * world_size()
        offset = rank() * self.batch_size
        for batch in range(self.batch, len(self)):
            start = batch * share + offset
            yield order[start : start + self.batch_size]

    # A generator: nothing is read before the first batch is asked for, since Lightning makes the
    # iterator of the first epoch before it calls set_epoch.
    def __iter__(self) -> Iterator[Batch]:
        source = self._in_memory() if self._stream is None else self._stream
        for number, (index, images) in enumerate(source, start=self.batch + 1):
            if isinstance(images, UserError):
                raise images
            self.batch = number
            labels = None if self._labels is None else self._labels[index]
            yield Batch(images, labels).to(self.device)
        self.epoch, self.batch = self.epoch + 1, 0

    def _in_memory(self) -> Iterator[tuple[Tensor, Tensor]]:
        assert isinstance(self._images, Tensor)
        for index in self.indices(self._images.device):
            yield index, self._images.index_select(0, index)


class _Order:
    """The sampler of a stream: read anew by every pass over it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Tensor]:
        return self.loader.indices()


class _Decoder:
    """The data set of a stream: one item is one whole batch."""

    def __init__(self, images: FolderImages) -> None:
        self.images = images

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor | UserError]:
        # A worker's exception would arrive as a traceback in text: send the message itself.
        try:
            return index, self.images.batch(index)
        except UserError as error:
            return index, error
