"""Peak memory and time of one training step against the global batch, in micro-batches and whole.

Each row is a process of its own; its peak is that of the resident set above what it was before the
step (Linux). Rows are interleaved.

    python benchmarks/micro_batches.py [--repeat 3] [--micro 256] [--most 8192]
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from types import SimpleNamespace

from timing import fresh, machine, progress, tell


def one_step(
    count: int, micro: int | None, *, width: int = 24, dims: int = 128, views: int = 2
) -> dict[str, float]:
    """Seconds and extra peak memory (MiB) of one step of the default network on `count` images."""
    import torch
    from memory import extra_peak

    from pnp.backbones import backbone
    from pnp.data import Batch
    from pnp.method import SelfSupervised
    from pnp.networks import projector
    from pnp.objectives import PNP
    from pnp.views import Views

    torch.manual_seed(0)
    net = backbone("small_cnn", in_channels=3, image_size=32, width=width, depth=4, pool=2)
    module = SelfSupervised(
        net,
        projector(net.dim, out=dims),  # pyright: ignore[reportArgumentType]
        PNP(),
        Views(32, views, scale=(0.3, 1.0), mean=[0.5] * 3, std=[0.25] * 3),
        micro_batch=micro,
        log_every=1000,
        channels_last=True,
    )
    module.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        global_step=1,
        current_epoch=0,
        world_size=1,
        accumulate_grad_batches=1,
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )

    def step(images: torch.Tensor) -> None:
        batch = Batch(images)
        module.backward(module.training_step(batch, 0)["loss"])
        module.zero_grad()

    step(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8))  # warm-up: lazy imports, kernels
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    started = time.perf_counter()
    mib = extra_peak(lambda: step(images))
    return {"seconds": time.perf_counter() - started, "mib": mib}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="processes per row (default 3)")
    parser.add_argument("--micro", type=int, default=256, help="micro-batch (default 256)")
    parser.add_argument("--most", type=int, default=8192, help="largest batch in micro-batches")
    parser.add_argument("--whole", type=int, default=2048, help="largest batch taken whole")
    parser.add_argument("--row", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        import torch

        torch.set_num_threads(1)
        count, micro = options.row
        tell(one_step(count, micro or None))
        return
    counts = [256 * 2**i for i in range(20) if 256 * 2**i <= options.most]
    rows = [(n, options.micro) for n in counts] + [(n, 0) for n in counts if n <= options.whole]
    found: dict[tuple[int, int], list[dict[str, float]]] = {row: [] for row in rows}
    for turn in range(options.repeat):
        for row in rows:
            progress(f"round {turn + 1}/{options.repeat}: {row}")
            found[row].append(fresh(__file__, "--row", *row))
    progress("")
    print(f"{machine(1)}; {options.repeat} processes per row\n")
    print("| global batch | micro-batch | extra peak MiB | ms per image | range |")
    print("|---|---|---|---|---|")
    for (count, micro), runs in found.items():
        mib = statistics.median(run["mib"] for run in runs)
        per_image = sorted(1000 * run["seconds"] / count for run in runs)
        middle, spread = statistics.median(per_image), f"{per_image[0]:.2f}–{per_image[-1]:.2f}"
        print(f"| {count} | {micro or 'whole'} | {mib:.0f} | {middle:.2f} | {spread} |")


if __name__ == "__main__":
    main()
