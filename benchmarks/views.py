"""Views per second on one core: pnp.views beside torchvision's and kornia's transforms.

The contenders take turns within one process, so that other load on the machine meets all of them;
read the ratios, not the absolute numbers. torchvision works image by image, kornia on batches with
parameters of each image's own. Data: random 8-bit images, which cost the same as others.

    python benchmarks/views.py [--rounds 15] [--no-compile]
"""

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import torch
from timing import in_turns, machine, progress, ratio
from torch import Tensor

from pnp.views import Views

SCALE, JITTER, CHANCE, GREY = (0.2, 1.0), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2
Run = Callable[[], Tensor]


def contenders(images: Tensor, count: int) -> dict[str, Run]:
    """The same augmentation by each package; each call makes `count` views of every image."""
    import kornia.augmentation as K
    from PIL import Image
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    size = images.shape[-1]
    ours, generator = Views(size, count), torch.Generator().manual_seed(0)
    v1_pipeline = v1.Compose(
        [
            v1.RandomResizedCrop(size, SCALE),
            v1.RandomHorizontalFlip(),
            v1.RandomApply([v1.ColorJitter(*JITTER)], CHANCE),
            v1.RandomGrayscale(GREY),
            v1.ToTensor(),
        ]
    )
    v2_pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(size, SCALE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], CHANCE),
            v2.RandomGrayscale(GREY),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    kornia_pipeline = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), SCALE, align_corners=False),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(*JITTER, p=CHANCE),
        K.RandomGrayscale(p=GREY),
    )
    arrays = [image.permute(1, 2, 0).numpy() for image in images]

    def pil() -> Tensor:
        views: list[Any] = [v1_pipeline(Image.fromarray(a)) for _ in range(count) for a in arrays]
        return torch.stack(views)

    def kornia() -> Tensor:
        return kornia_pipeline(images.repeat(count, 1, 1, 1).float() / 255)

    return {
        "pnp.views": lambda: ours(images, generator),
        "torchvision v1, PIL": pil,
        "torchvision v2, tensors": lambda: torch.stack(
            [v2_pipeline(image) for _ in range(count) for image in images]
        ),
        "kornia, eager": kornia,
    }


def compiled(images: Tensor, count: int) -> Run:
    """Ours through torch.compile, compiled.

    Raises:
        Exception: it cannot be compiled here, for instance without a C++ compiler.
    """
    os.environ.setdefault("TORCH_LOGS", "-all")
    generator = torch.Generator().manual_seed(0)
    make = torch.compile(Views(images.shape[-1], count).__call__)
    for _ in range(3):  # the last piece of a batch is smaller and compiles anew
        make(images, generator)
    return lambda: make(images, generator)


def main() -> None:
    """Time the contenders in turns and print views/s and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default 15)")
    parser.add_argument("--batch", type=int, default=256, help="images (default 256)")
    parser.add_argument("--size", type=int, default=32, help="of images and views (default 32)")
    parser.add_argument("--count", type=int, default=2, help="views of each image (default 2)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (given.batch, 3, given.size, given.size), dtype=torch.uint8)
    rows = contenders(images, given.count)
    print(f"{machine(1, 'torchvision', 'kornia')}\n")
    if not given.no_compile:
        progress("compiling")
        try:
            rows["pnp.views, compiled"] = compiled(images, given.count)
        except Exception as error:  # a compiler fails in many ways: none stops the others
            print(f"torch.compile does not work here: {str(error).splitlines()[0]}\n")
    times = in_turns(rows, given.rounds, "views")
    views = given.batch * given.count
    print(
        f"{given.batch} RGB images of {given.size} px, {given.count} views, one thread, "
        f"{given.rounds} rounds: median (min – max)\n"
    )
    both = "pnp.views, compiled" in rows
    print("| | views/s | best | ours is faster |" + " compiled is faster |" * both)
    print("|---|---|---|---|" + "---|" * both)
    for name, spent in times.items():
        cells = [name, f"{views / statistics.median(spent):,.0f}", f"{views / min(spent):,.0f}"]
        cells += [ratio(spent, times[ours]) for ours in times if ours.startswith("pnp.views")]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
