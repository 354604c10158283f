"""What each lever of the training loop is worth on this machine: images/s with and without it.

The default configuration of pnp-train, and the same with one lever moved: each a process of its own
(`arms.py`), in turns of one epoch. The gain is the speed of the default over that of the other, in
the same round: above 1 the default's choice pays. A second group reads an image folder: decoded
once and kept in memory (resident), from the memory-mapped array (cache), or decoded anew in every
epoch (stream), in the training process or by a worker beside it. Two levers that have no switch are
timed by themselves: the teacher's fused move against a loop over its parameters, and the fused
optimizer against torch's default.

    python benchmarks/levers.py [--rounds 5] [--compile]
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from arms import SCRIPT, Spec, configuration
from step import has_bf16
from timing import arms_in_turns, in_turns, machine, ratio

DEFAULT = "default"


def levers(base: Spec, *, bf16: bool, compiled: bool) -> dict[str, Spec]:
    """The default and, by name, the same with one thing changed.

    Args:
        base: the default; its precision is the fastest that the hardware has.
        bf16: whether that is bf16.
        compiled: try torch.compile, whose first epoch takes minutes on some machines.
    """

    def changed(*words: str) -> Spec:
        return replace(base, overrides=(*base.overrides, *words))

    gpu = base.device == "cuda"
    arms = {
        DEFAULT: base,
        "method.log_every=1": changed("method.log_every=1"),
        "method.channels_last=false": changed("method.channels_last=false"),
        f"method.concat_views={str(not gpu).lower()}": changed(
            f"method.concat_views={str(not gpu).lower()}"
        ),
        "no Lightning, no logging": replace(base, loop="bare"),
    }
    if bf16:
        arms["trainer.precision=32-true"] = replace(base, precision="32-true")
    if gpu:
        for word in ("data.resident=false", "trainer.benchmark=true"):
            arms[word] = changed(word)
    else:
        arms["freed memory given back"] = replace(base, keep_memory=False)
        if base.threads > 1:
            arms["1 thread"] = replace(base, threads=1)
    if compiled:
        for part in ("encoder", "views", "objective"):
            arms[f"method.compile=[{part}]"] = changed(f"method.compile=[{part}]")
        if gpu:
            arms["method.compile=[encoder], CUDA graphs"] = changed(
                "method.compile=[encoder]", "method.cuda_graphs=true"
            )
    return arms


def folder_arms(base: Spec, root: Path) -> dict[str, Spec]:
    """Ways to the images of a folder; the first is what fits into memory by default."""
    folder = ("data=image_folder", f"data.root={root}", "data.size=32")
    few = ("data.validation=8", "data.calibration=8", "data.test=8")
    ways = {
        "resident": (),
        "cache": ("data.resident=false", "data.cache=true"),
        "stream": ("data.resident=false",),
    }
    arms = {
        f"folder, {name}": replace(base, overrides=(*base.overrides, *folder, *few, *words))
        for name, words in ways.items()
    }
    if base.device == "cpu":
        for name in ("cache", "stream"):
            alone = arms[f"folder, {name}"]
            more = replace(alone, overrides=(*alone.overrides, "data.num_workers=1"))
            arms[f"folder, {name}, 1 worker"] = more
        if base.threads > 1:
            fewer = replace(more, threads=base.threads - 1)
            arms["folder, stream, 1 worker and a thread less"] = fewer
    return arms


def write_images(folder: Path, count: int) -> None:
    """Files of the embedded data, so many that training is left with `count`."""
    from PIL import Image

    from pnp.data import ambiguous

    images: Any = ambiguous.draw("train", count + 24).images
    folder.mkdir()
    for i, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(folder / f"{i:06}.jpg")


def report(found: dict[str, list[Any]], failed: dict[str, str], first: str) -> None:
    """Markdown: images per second, and the first arm's gain over each."""
    print(f"| | images/s | gain of {first} |\n|---|---|---|")
    by_name = {name: [turn["speed"] for turn in turns] for name, turns in found.items()}
    for name, speeds in by_name.items():
        gain = ratio(by_name[first], speeds, 2) if first in by_name else ""
        print(f"| {name} | {statistics.median(speeds):,.0f} | {gain} |")
    for name, why in failed.items():
        print(f"\n{name} did not run:\n{why}")
    print(flush=True)


def by_themselves(base: Spec, rounds: int) -> None:
    """The teacher's move and the optimizer's step of the default network, one call each."""
    import torch

    from pnp.runs.parts import parts

    _, module, _ = parts(configuration(replace(base, images=base.batch)))
    module.to(base.device)
    assert module.teacher is not None
    student, teacher = module.student, module.teacher
    for p in student.parameters():
        p.grad = torch.randn_like(p)
    groups = {
        kind: torch.optim.AdamW(student.parameters(), lr=1e-6, fused=fused)
        for kind, fused in (("fused", True), ("torch's default", None))
    }

    def done() -> None:
        if base.device == "cuda":
            torch.cuda.synchronize()

    def fused_move() -> None:
        teacher.update(student, 1, 100)
        done()

    @torch.no_grad()
    def loop_move() -> None:
        for s, t in zip(student.parameters(), teacher.network.parameters(), strict=True):
            t.mul_(0.99).add_(s, alpha=0.01)
        for s, t in zip(student.buffers(), teacher.network.buffers(), strict=True):
            t.copy_(s)
        done()

    def stepping(kind: str) -> Any:
        return lambda: (groups[kind].step(), done())

    times = {
        "EMA": in_turns({"fused": fused_move, "parameter loop": loop_move}, rounds, "EMA"),
        "AdamW": in_turns({kind: stepping(kind) for kind in groups}, rounds, "AdamW"),
    }
    print("| | ms | gain of fused |\n|---|---|---|")
    for what, kinds in times.items():
        for kind, spent in kinds.items():
            middle = 1000 * statistics.median(spent)
            print(f"| {what}, {kind} | {middle:.3f} | {ratio(spent, kinds['fused'], 2)} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="timed epochs of each arm (default 5)")
    add("--images", type=int, default=5120, help="per epoch (default 5120)")
    add("--batch", type=int, default=256, help="images per step (default 256)")
    add("--model", choices=("small_cnn", "resnet18"), default="small_cnn", help="default small_cnn")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    add("--threads", type=int, help="of torch in each process (default: all cores)")
    add("--compile", action="store_true", help="try method.compile as well, part by part")
    add("--only", choices=("switches", "folder", "calls"), help="one of the three tables")
    given = parser.parse_args()
    from pnp.cpu import cores

    bf16 = has_bf16(given.device)
    base = Spec(
        "ours",
        rounds=given.rounds,
        method="pnp",
        model=given.model,
        batch=given.batch,
        images=given.images,
        precision="bf16-mixed" if bf16 else "32-true",
        device=given.device,
        threads=given.threads or cores(),
    )
    print(f"{machine(base.threads, 'lightning')}\n")
    print(
        f"pnp-train's defaults, {given.model}, batch {given.batch}, {given.images:,} images of "
        f"32×32 RGB, {base.precision}, {given.device}; {given.rounds} rounds: median (min – max)\n",
        flush=True,
    )
    if given.only in (None, "switches"):
        arms = levers(base, bf16=bf16, compiled=given.compile)
        calls = {name: arm.arguments() for name, arm in arms.items()}
        report(*arms_in_turns(SCRIPT, calls, given.rounds), DEFAULT)
    if given.only in (None, "folder"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "images"
            write_images(root, given.images)
            arms = folder_arms(base, root)
            calls = {name: arm.arguments() for name, arm in arms.items()}
            report(*arms_in_turns(SCRIPT, calls, given.rounds), next(iter(arms)))
    if given.only in (None, "calls"):
        import torch

        torch.set_num_threads(base.threads)
        by_themselves(base, 20 * given.rounds)


if __name__ == "__main__":
    main()
