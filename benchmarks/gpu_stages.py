"""Stages of `gpu.py` that measure: each a process that `tell`s facts; checks are in `gpu_steps.py`.

`gpu.py` starts them as `gpu_stages.py STAGE OPTIONS`, the options as JSON.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_steps
from arms import plain_loop, synchronize
from timing import machine as belongs_to
from timing import tell

PACKAGES = (
    "triton", "torchvision", "lightning", "torchmetrics", "timm", "lightly",
    "hydra-core", "numpy", "scikit-learn",
)  # fmt: skip


def machine(given: Any) -> None:
    """What the numbers belong to, and what the device does alone: products, copies, launches."""
    import torch

    found = {d.metadata["Name"] for d in metadata.distributions()}
    tell({"machine": belongs_to(os.cpu_count() or 1, *(p for p in PACKAGES if p in found))})
    if given.device == "cpu":
        return
    if not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} sees no CUDA GPU here: check nvidia-smi, or try everything "
            "on the CPU with --device cpu --tiny (make gpu ARGS='--device cpu --tiny')."
        )
    card = torch.cuda.get_device_properties(0)
    tell(
        {
            "GPU": card.name,
            "capability": f"{card.major}.{card.minor}",
            "GiB": round(card.total_memory / 2**30, 1),
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
        }
    )

    def seconds(work: Callable[[], object], times: int, *, waits: bool = True) -> float:
        for _ in range(2):
            work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            work()
        if waits:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    y = torch.randn(2**29, device="cuda")
    z, small = torch.empty_like(y), torch.zeros(8, device="cuda")
    tell(
        {
            "bf16 products, TFLOP/s": round(2 * 8192**3 / seconds(lambda: x @ x, 20) / 1e12),
            "copies, TB/s": round(8 * y.numel() / seconds(lambda: z.copy_(y), 20) / 1e12, 2),
            "launch, µs": round(1e6 * seconds(lambda: small.add_(1), 2000, waits=False), 2),
        }
    )


def profile(given: Any) -> None:
    """Milliseconds of a step of the plain loop, the GPU's share of them, the longest kernels."""
    from gpu import FIRST, arms
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    gpu = given.device == "cuda"
    spec = arms(given)[FIRST]
    count, epoch = plain_loop(replace(spec, images=spec.batch * (8 if gpu else 2)))
    epoch(0)
    synchronize(spec.device)
    began = time.perf_counter()
    epoch(1)
    queued = time.perf_counter() - began
    synchronize(spec.device)
    whole = time.perf_counter() - began
    step = {
        "step, ms": round(1e3 * whole / count, 2),
        "until queued": round(1e3 * queued / count, 2),
    }
    tell({**step, "batch": spec.batch})
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profiler(activities=activities) as found:
        epoch(2)
        synchronize(spec.device)
    if gpu:
        kernels = [event for event in found.events() or [] if "CUDA" in str(event.device_type)]
        busy = sum(event.device_time for event in kernels) / 1e6
        tell({"busy": f"{busy / whole:.1%}", "kernels": round(len(kernels) / count)})
    key = "self_device_time_total" if gpu else "self_cpu_time_total"
    rows = sorted(found.key_averages(), key=lambda row: -getattr(row, key))
    tell({row.key[:60]: f"{getattr(row, key) / 1e3 / count:.2f} ms" for row in rows[:8]})
    text = found.key_averages().table(sort_by=key, row_limit=60)
    Path(given.out, "profile.txt").write_text(text, "utf-8")


def images(given: Any) -> Path:
    """The folder that holds train/, unpacked where an archive was given."""
    source = Path(given.images)
    if source.is_file():
        place = Path(given.work) / "images"
        shutil.rmtree(place, ignore_errors=True)
        with tarfile.open(source) as archive:
            archive.extractall(place, filter="data")
        source = place
    places = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    return next((path for path in places if (path / "train").is_dir()), source)


def epochs_that_fit(given: Any, size: int) -> int:
    """Epochs for the seconds of the training at the speed that was measured before."""
    from gpu import FIRST

    found = json.loads(Path(given.out, "results.json").read_text("utf-8"))
    turns = found["stages"].get(f"speed: {FIRST}", {}).get("results", [])[1:]
    if not turns:
        return 10
    # Checkpoints, monitor and the logged steps come on top of an epoch's steps.
    return max(2, int(given.train_seconds / (1.25 * size / min(turn["speed"] for turn in turns))))


def command(name: str, *words: str) -> None:
    """Run a command of the project; what it says is in the stage's last lines.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([sys.executable, "-m", f"pnp.cli.{name}", *words], check=False)
    if done.returncode:
        raise SystemExit(f"pnp-{name} {' '.join(words)}: exit status {done.returncode}")


def train(given: Any) -> None:
    """A training of CIFAR-10's size as `pnp-train` does it, judged by 20-NN, 10-NN, probe, band."""
    folder, gpu = Path(given.work) / "run", given.device == "cuda"
    shutil.rmtree(folder, ignore_errors=True)
    if given.images:
        data = ["data=image_folder", f"data.root={images(given)}", "data.size=32"]
        data += [f"data.validation={40 if given.tiny else 5000}"]
    else:
        train, held = (64, 40) if given.tiny else (45_000, 5_000)
        data = ["data=ambiguous", f"data.n_train={train}"]
        data += [f"data.{part}={held}" for part in ("validation", "calibration", "test")]
    epochs = 1 if given.tiny else epochs_that_fit(given, 50_000)
    sizes = ["model.width=4", "data.batch_size=16", "trainer.max_steps=3"]
    if not given.tiny:
        sizes = ["model=resnet18", "data.batch_size=512", "optim.lr=0.001", "optim.warmup_epochs=2"]
    command(
        "train", *data, *sizes,
        "data.pretrain_on=[train,validation]",
        f"trainer.max_epochs={epochs}",
        f"callbacks.monitor.every_n_epochs={max(1, epochs // 8)}",
        f"trainer.accelerator={'gpu' if gpu else 'cpu'}",
        "evaluation.references=[]",
        "logger=csv",
        f"run_dir={folder}",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    facts = json.loads((folder / "run.json").read_text("utf-8"))
    wanted = ("test/knn/", "test/linear/", "band/mean/")
    found = {k: round(v, 4) for k, v in metrics.items() if k.startswith(wanted)}
    clock = {k: facts[k] for k in ("training_seconds", "evaluation_seconds", "precision")}
    tell(
        {"images": "CIFAR-10" if given.images else "ambiguous", "epochs": epochs, **clock, **found}
    )
    for name in ("metrics.csv", "report.html"):
        if (folder / name).is_file():
            shutil.copy(folder / name, Path(given.out) / name)
    nearest = Path(given.work) / "10nn"
    shutil.rmtree(nearest, ignore_errors=True)
    command(
        "evaluate", f"run={folder}", f"run_dir={nearest}",
        "evaluation.k=10", "evaluation.band=null", "evaluation.fractions=[]",
        "evaluation.references=[]", f"accelerator={'gpu' if gpu else 'cpu'}",
    )  # fmt: skip
    metrics = json.loads((nearest / "metrics.json").read_text("utf-8"))
    tell({f"10-NN, {who}": metrics[f"test/knn/{who}"] for who in ("student", "teacher")})


def export(given: Any) -> None:
    """The trained run as an export, on the device and on the CPU."""
    import torch

    import pnp

    folder = Path(given.work) / "run"
    command("export", f"run={folder}", *(["onnx=true"] if not given.tiny else []))
    network = pnp.load(folder / "export")
    batch = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        one, two = network(batch), network.to(given.device)(batch.to(given.device)).cpu()
    error = float((one - two).norm() / two.norm())
    tell({"name": "exported features: device = CPU", "ok": error < 1e-3, "error": error})


STAGES: dict[str, Callable[[Any], None]] = {
    "machine": machine,
    "sanity": gpu_steps.sanity,
    "profile": profile,
    "train": train,
    "export": export,
    "ranks": gpu_steps.ranks,
    "compile": gpu_steps.compiled,
}

if __name__ == "__main__":
    from pnp.runs.parts import quieten

    warnings.simplefilter("ignore")
    quieten()
    STAGES[sys.argv[1]](SimpleNamespace(**json.loads(sys.argv[2])))
