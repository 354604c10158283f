"""Image folders by size: what conversion and reading cost per image, and how much memory they take.

Folders of small JPEGs in ten class folders, hard links to a few files, are converted once into a
memory-mapped array (data.cache=true) and read back as an epoch of training batches; beside it the
stream that decodes files while training goes on. Each cell is a process of its own that does what
`pnp-train data=image_folder` does up to its batches. Memory is counted above what the process had
before: `peak` is the most that it allocates (anonymous memory, sampled; names are sorted as
strings), `kept` what is left of that at the end (names, labels, the last order), `resident` counts
pages of the mapped file as well, which the kernel takes back when it needs them (Linux). The disk's
cache is warm.

    python benchmarks/folders.py [--sizes 10000 100000 1000000] [--folder SCRATCH]
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from memory import extra_peak, level, trim
from timing import exponent, fresh, machine, progress, tell

CLASSES, DISTINCT, FILE_SIZE, SIZE = 10, 100, 48, 32


def make_folder(root: Path, count: int) -> None:
    """`count` files, hard links to `DISTINCT` JPEGs (more where links per file are limited)."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (root / f"class{name}").mkdir(parents=True)
    links = max(DISTINCT, -(-count // 30_000))
    originals = []
    for i in range(min(links, count)):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        file = root / f"class{i % CLASSES}" / f"{i:08}.jpg"
        Image.fromarray(coarse).resize((FILE_SIZE, FILE_SIZE)).save(file, quality=85)
        originals.append(file)
    for i in range(len(originals), count):
        os.link(originals[i % len(originals)], root / f"class{i % CLASSES}" / f"{i:08}.jpg")


def own_memory(run: Any) -> dict[str, float]:
    """MiB of anonymous memory of `run`: its peak, looked at every 10 ms, and what it leaves."""
    before, most, over = level("RssAnon"), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, level("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        over.set()
        watcher.join()
    most = max(most, level("RssAnon"))
    trim()
    return {"peak": most - before, "kept": level("RssAnon") - before}


def work(kind: str, root: Path, batch: int, most: int) -> dict[str, float]:
    """Set the data up (`convert`) or read batches (`read`, `stream`): seconds, images, memory."""
    from pnp.data import DataModule

    data = DataModule(
        "image_folder",
        root=str(root),
        size=SIZE,
        batch_size=batch,
        validation=8,
        calibration=8,
        test=8,
        cache=kind != "stream",
        cache_dir=str(root.with_name(root.name + "-cache")),
        resident=False,
    )
    spent: dict[str, float] = {"images": 0}

    def run() -> None:
        started = time.perf_counter()
        data.setup("fit")
        spent["setup"] = time.perf_counter() - started
        if kind == "convert":
            spent["images"] = sum(len(split) for split in data.splits.values())
            spent["seconds"] = spent["setup"]
            return
        started = time.perf_counter()
        for found in data.train_dataloader():
            spent["images"] += len(found.images)
            if spent["images"] >= most:
                break
        spent["seconds"] = time.perf_counter() - started

    spent["resident"] = extra_peak(lambda: spent.update(own_memory(run)))
    return spent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="+", type=int, default=[10_000], help="images (default 10000)")
    add("--batch", type=int, default=256, help="images per batch (default 256)")
    add("--folder", type=Path, help="scratch place: 3 kB per image (default: temporary)")
    add("--streamed", type=int, default=20_000, help="images that the stream decodes at most")
    add("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        kind, root = given.work
        most = given.streamed if kind == "stream" else 10**12
        tell(work(kind, Path(root), given.batch, most))
        return
    from pnp.cpu import cores

    print(f"{machine(cores(), 'pillow', 'numpy')}\n")
    print(f"JPEGs of {FILE_SIZE} px to arrays of {SIZE} px, batches of {given.batch}\n")
    print("| images | work | set-up s | µs per image | peak MiB | kept MiB | resident MiB |")
    print("|---|---|---|---|---|---|---|")
    costs: dict[str, list[float]] = {}
    for count in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            root = Path(folder) / "images"
            progress(f"writing {count:,} files")
            make_folder(root, count)
            for kind in ("convert", "read", "stream"):
                progress(f"{count:,}: {kind}")
                found = fresh(
                    __file__, "--batch", given.batch, "--streamed", given.streamed,
                    "--work", kind, root,
                )  # fmt: skip
                progress("")
                cost = 1e6 * found["seconds"] / found["images"]
                costs.setdefault(kind, []).append(cost)
                print(
                    f"| {count:,} | {kind} | {found['setup']:.2f} | {cost:.1f} | "
                    f"{found['peak']:.0f} | {found['kept']:.0f} | {found['resident']:.0f} |",
                    flush=True,
                )
    if len(given.sizes) > 1:
        print("\nExponent of the cost per image against the number of images; flat is 0:")
        for kind, values in costs.items():
            print(f"- {kind}: {exponent(given.sizes, values):+.3f}")


if __name__ == "__main__":
    main()
