"""Images per second of whole epochs: our training loop beside rivals' documented ones.

Same backbone, sizes of heads, batch, images, view parameters and kind of loss; each loop is a
process of its own and they take turns, one epoch each, after an epoch that warms up (`arms.py`,
`rival.py`). Rivals run with DataLoader workers and without; lightly's faster one is what the ratios
divide by. bf16 runs where the hardware multiplies it. Memory is that of the main process at its
highest: resident on a CPU, allocated on a GPU. TFLOP/s counts the products of networks and
objective (torch.utils.flop_counter), for all loops alike. The parts of a step are timed one after
another, the device waited for after each, so they are shares, not a speed. Operations are ATen's,
without those that only look at a tensor in another way: on a GPU each is about one launch.
stable-pretraining is not among the dependencies: name the Python of an environment that has it
(`pip install stable-pretraining jaxtyping`), and its loop takes its turns too; `stable.py` says
what of it is left out.

    python benchmarks/step.py [--method vicreg] [--stable-pretraining ENV/bin/python]
    python benchmarks/step.py --device cuda --model resnet18 --batch 512 --compile
"""

import argparse
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from arms import SCRIPT, Spec
from timing import arms_in_turns, fresh, machine, ratio

STABLE = "stable-pretraining"
VERSIONS = """
import sys
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in sys.argv[1:]))
"""


def has_bf16(device: str) -> bool:
    """Whether the hardware multiplies bf16."""
    import torch

    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("--device cuda: torch sees no CUDA GPU here.")
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def versions(python: str) -> str:
    """What the environment of stable-pretraining holds, asked before anything is timed.

    Raises:
        SystemExit: no such interpreter, or its environment lacks one of the packages.
    """
    command = [python, "-c", VERSIONS, STABLE, "torch", "lightning", "torchvision"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"--stable-pretraining {python}: {error.strerror}.") from error
    if done.returncode:
        why = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise SystemExit(f"--stable-pretraining {python}: {why}")
    return done.stdout.strip()


def line_up(
    base: Spec, workers: int, *, bf16: bool, compiled: bool, stable: bool = False
) -> dict[str, Spec]:
    """The arms by name; a rival runs with workers and, on a CPU, without, in every precision.

    Args:
        base: what they share.
        workers: processes of a rival's DataLoader.
        bf16: add the arms in bf16-mixed.
        compiled: add ours with `method.compile=true`, in the last precision; on a GPU also with
            CUDA graphs.
        stable: add stable-pretraining's.
    """
    precisions = {"fp32": base}
    if bf16:
        precisions["bf16"] = replace(base, precision="bf16-mixed")
    rivals = {"lightly": "lightly", **({"stable": STABLE} if stable else {})}
    arms, name, ours = {}, "fp32", base
    for name, ours in precisions.items():
        for loop, title in rivals.items():
            rival = replace(ours, loop=loop)
            arms[f"{title} {name}, {workers} workers"] = replace(rival, workers=workers)
            if base.device == "cpu":  # there workers take cores from training
                arms[f"{title} {name}, no workers"] = rival
        arms[f"ours {name}"] = ours
    arms[f"ours {name}, no Lightning"] = replace(ours, loop="bare")
    if compiled:
        faster = replace(ours, overrides=(*base.overrides, "method.compile=true"))
        arms[f"ours {name}, compiled"] = faster
        if base.device == "cuda":
            arms[f"ours {name}, compiled, CUDA graphs"] = replace(
                faster, overrides=(*faster.overrides, "method.cuda_graphs=true")
            )
    return arms


def rival_of(found: dict[str, list[dict[str, float]]], precision: str) -> str | None:
    """The fastest arm of lightly in a precision."""
    names = [name for name in found if name.startswith(f"lightly {precision}")]
    return max(names, key=lambda name: statistics.median(speeds(found, name)), default=None)


def speeds(found: dict[str, list[dict[str, float]]], name: str) -> list[float]:
    """Images per second of an arm, by round."""
    return [turn["speed"] for turn in found[name]]


def table(found: dict[str, list[dict[str, float]]], flop: float) -> list[str]:
    """Markdown: one arm per row, ratios of the same round."""
    lines = [
        "| loop | images/s | × lightly fp32 | × lightly, same precision | TFLOP/s | MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name in found:
        middle = statistics.median(speeds(found, name))
        against = []
        for precision in ("fp32", "bf16" if "bf16" in name else "fp32"):
            rival = rival_of(found, precision)
            against.append(ratio(speeds(found, name), speeds(found, rival), 2) if rival else "")
        tera = f"{middle * flop / 1e12:.3g}" if flop else ""
        memory = max(turn["mib"] for turn in found[name])
        lines.append(f"| {name} | {middle:,.0f} | {' | '.join(against)} | {tera} | {memory:,.0f} |")
    return lines


def parts(ms: dict[str, float], ops: dict[str, int]) -> list[str]:
    """Markdown: the parts of our step."""
    whole = sum(ms.values())
    rows = [
        f"| {name} | {spent:.2f} | {spent / whole:.1%} | {ops.get(name, '')} |"
        for name, spent in ms.items()
    ]
    return ["| part of our step | ms | share | operations |", "|---|---|---|---|", *rows]


def options(arguments: Sequence[str] | None = None) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--method", choices=("byol", "vicreg"), default="byol", help="default byol")
    add("--model", choices=("small_cnn", "resnet18"), default="small_cnn", help="same in all arms")
    add("--width", type=int, default=24, help="of small_cnn (default 24)")
    add("--batch", type=int, default=256, help="images per step (default 256)")
    add("--images", type=int, help="per epoch (default 5120; 51200 on a GPU)")
    add("--rounds", type=int, default=5, help="timed epochs of each arm (default 5)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    add("--threads", type=int, help="of torch in each process (default: all cores)")
    add("--workers", type=int, help="of a rival's DataLoader (default: one per core)")
    add("--compile", action="store_true", help="add ours with method.compile=true")
    add("--stable-pretraining", metavar="PYTHON", help="of an environment that has it")
    add("--arms", help="run only the arms whose names contain one of these words, split by commas")
    return parser.parse_args(arguments)


def main() -> None:
    """Print the tables."""
    given = options()
    other = versions(given.stable_pretraining) if given.stable_pretraining else ""
    from pnp.cpu import cores

    threads, workers = given.threads or cores(), given.workers or cores()
    images = given.images or (51_200 if given.device == "cuda" else 5_120)
    width = [f"model.width={given.width}"] if given.model == "small_cnn" else []
    base = Spec(
        "ours",
        rounds=given.rounds,
        method=given.method,
        model=given.model,
        batch=given.batch,
        images=images,
        device=given.device,
        threads=threads,
        overrides=("optim=sgd", *width),
    )
    bf16 = has_bf16(given.device)
    arms = line_up(
        base, workers, bf16=bf16, compiled=given.compile, stable=bool(given.stable_pretraining)
    )
    wanted = given.arms.split(",") if given.arms else [""]
    arms = {name: arm for name, arm in arms.items() if any(word in name for word in wanted)}
    print(f"{machine(threads, 'lightning', 'lightly', 'torchvision')}\n")
    if other:
        print(f"The other environment: {other}\n")
    print(
        f"{given.method}, {given.model}, batch {given.batch}, {images:,} images of 32×32 RGB, "
        f"{given.device}; {given.rounds} rounds: median (min – max)\n",
        flush=True,
    )
    found, failed = arms_in_turns(
        SCRIPT,
        {name: arm.arguments() for name, arm in arms.items()},
        given.rounds,
        {name: given.stable_pretraining for name in arms if name.startswith(STABLE)},
    )
    ours = replace(base, precision="bf16-mixed") if bf16 else base
    account = fresh(SCRIPT, *replace(ours, profile=True).arguments())
    print("\n".join(table(found, account["flop"])), "\n")
    print(f"{account['flop'] / 1e9:.3f} GFLOP per image\n")
    print("\n".join(parts(account["ms"], account["ops"])))
    for name, why in failed.items():
        print(f"\n{name} did not run:\n{why}")


if __name__ == "__main__":
    main()
