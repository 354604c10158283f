"""Views per second on one core: pnp.views beside torchvision's transforms, one image at a time.

The contenders take turns within one process, so that other load on the machine meets all of them;
read the ratios, not the absolute numbers. Data: random 8-bit images, which cost the same as others.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2

from pnp.views import Views

BATCH, SIZE, COUNT = 256, 32, 2


def contenders(images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same augmentation three ways; each call makes COUNT views of every image."""
    ours, generator = Views(SIZE, COUNT), torch.Generator().manual_seed(0)
    v1_pipeline = v1.Compose(
        [
            v1.RandomResizedCrop(SIZE, (0.2, 1.0)),
            v1.RandomHorizontalFlip(),
            v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v1.RandomGrayscale(0.2),
            v1.ToTensor(),
        ]
    )
    v2_pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, (0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    arrays = [image.permute(1, 2, 0).numpy() for image in images]

    def pil() -> Tensor:
        views: list[Any] = [v1_pipeline(Image.fromarray(a)) for _ in range(COUNT) for a in arrays]
        return torch.stack(views)

    return {
        "pnp.views": lambda: ours(images, generator),
        "torchvision v1, PIL": pil,
        "torchvision v2, tensors": lambda: torch.stack(
            [v2_pipeline(image) for _ in range(COUNT) for image in images]
        ),
    }


def main() -> None:
    """Time the contenders in turns and print views/s and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default 15)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = (BATCH, 3, SIZE, SIZE)
    rows = contenders(torch.randint(0, 256, shape, dtype=torch.uint8))
    speeds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, make in rows.items():
            start = time.perf_counter()
            make()
            if turn:  # the first turn warms up
                speeds[name].append(BATCH * COUNT / (time.perf_counter() - start))
    print(f"{BATCH} RGB images of {SIZE} px, {COUNT} views, one thread, {rounds} rounds")
    print(f"{'':24} {'views/s':>8} {'best':>8}   ours / it: median (min to max)")
    for name, own in speeds.items():
        ratios = [a / b for a, b in zip(speeds["pnp.views"], own, strict=True)]
        print(
            f"{name:24} {statistics.median(own):8.0f} {max(own):8.0f}   "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
