"""Whether the device trains right: steps, resumption, ranks, compilation; stages of `gpu.py`."""

import contextlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpu_parity import both, check, off, pictures, probes, same_draws, terms, views

METHODS = ("pnp", "byol", "simsiam", "simclr", "vicreg", "barlow", "visreg", "lejepa", "dino")
FEW = (
    "data.n_train=512", "data.validation=32", "data.calibration=32", "data.test=32",
    "data.batch_size=32", "model.width=8", "logger=csv",
)  # fmt: skip


def configured(*words: str) -> dict[str, Any]:
    """A small configuration of pnp-train."""
    from pnp.runs.config import plain
    from pnp.runs.launch import compose

    return {**plain(compose("train", [*FEW, *words], as_job=True)), "choices": {}}


def built(*words: str) -> tuple[Any, Any]:
    """Data and module of a small configuration, ready for steps without a Trainer."""
    import torch

    from pnp.runs.parts import parts

    torch.manual_seed(0)
    data, module, _ = parts(configured(*words))
    module.log_every, module.steps_per_epoch = 10**9, 4
    module.trainer = SimpleNamespace(
        global_step=1, current_epoch=0, world_size=1, accumulate_grad_batches=1, loggers=[],
        precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext),
    )  # pyright: ignore[reportAttributeAccessIssue]  # fmt: skip
    return data, module


def one_step(module: Any, where: str, *, bf16: bool = False, index: int = 0) -> tuple[Any, Any]:
    """Loss and gradient of a step on a device."""
    import torch

    from pnp.data import Batch
    from pnp.runs.checks import flat_gradient

    module.to(where)
    module.zero_grad()
    with torch.autocast(where, torch.bfloat16, enabled=bf16):
        loss = module.training_step(Batch(pictures().to(where)), index)["loss"]
    module.backward(loss)
    return loss.detach(), flat_gradient(module.student)


def steps(device: str) -> None:
    """Whole steps: fp32 as on the CPU, bf16 near it, micro-batches, every method."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from pnp.data.loader import Loader
    from pnp.runs.checks import _Still

    def drawn(where: str, *words: str, bf16: bool = False) -> tuple[Any, Any]:
        with same_draws():
            return one_step(built(*words)[1], where, bf16=bf16)

    def near() -> dict[str, Any]:
        a, b = drawn(device, bf16=True), drawn(device)
        return {"error": off(a[0], b[0]), "gradient": off(a[1], b[1])}

    def in_pieces() -> float:
        _, module = built("method.concat_views=true")
        module.double().objective.eval()
        module.views = _Still(module.views)
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.eval()
        found = []
        for module.micro_batch in (None, 8):
            found.append(one_step(module, device)[1])
        return off(found[1], found[0])

    def trained(method: str) -> dict[str, float]:
        data, module = built(f"method={method}")
        module.to(device)
        optimizer, _ = module.optim.build(
            module.student, global_batch=32, total_steps=9, steps_per_epoch=9
        )
        loss = torch.tensor(float("nan"))
        for index, batch in zip(range(3), Loader(data.pretrain, 32, device=device), strict=False):
            with torch.autocast(device, torch.bfloat16):
                loss = module.training_step(batch, index)["loss"]
            module.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if module.teacher is not None:
                module.teacher.update(module.student, index, 9)
        if not loss.isfinite():
            raise ValueError(f"the loss is {float(loss)}")
        return {"loss": float(loss)}

    for together in ("true", "false"):
        word = f"method.concat_views={together}"
        title = f"a step, {word}: fp32 on the device = CPU"
        check(title, lambda w=word: both(drawn(device, w), drawn("cpu", w)), 2e-3)
    check("a step: the loss in bf16 is near fp32", near, 0.05)
    check("micro-batches = whole batch: gradient in float64", in_pieces, 1e-9)
    for method in METHODS:
        check(f"{method}: 3 steps in bf16 are finite", lambda m=method: trained(m))


def trained(device: str) -> None:
    """What needs a Trainer: where a step waits for the device, clipping, resumption."""
    import lightning as L
    import torch

    from pnp.runs import checks
    from pnp.runs.parts import build_trainer, parts

    where = f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}"

    def fit(*words: str, watch: Any = None) -> None:
        short = ("trainer.max_epochs=-1", "~callbacks.monitor", "~callbacks.checkpoints", where)
        config = configured(*short, *words)
        data, module, _ = parts(config)
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(config, Path(folder), data)
            trainer.callbacks.extend([watch] if watch else [])  # pyright: ignore[reportAttributeAccessIssue]
            trainer.fit(module, datamodule=data)

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any, **__: Any) -> None:
            if device == "cuda":
                mode = "warn" if 11 <= trainer.global_step < 19 else "default"
                torch.cuda.set_sync_debug_mode(mode)

    def waits() -> dict[str, int]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            fit("trainer.max_steps=24", watch=Watch())
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        said = [w for w in seen if "called a synchronizing" in str(w.message)]
        return dict(Counter(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in said))

    def resumed() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            found = checks.resumes(configured(where), Path(folder))
        return {"error": found.error, "note": found.note}

    check("waits in 8 steps of a Trainer, by place", waits)
    clip = ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1", "trainer.max_steps=2")
    check("gradient clipping in bf16", lambda: fit(*clip))
    check("a resumed run = the unbroken one, everything that is saved", resumed, 1e-5)


def sanity(given: Any) -> None:
    """Every check of the device, the cheap and fundamental ones first."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    for part in (views, terms, probes, steps, trained):
        part(given.device)


def compiled(given: Any) -> None:
    """Loss and gradient of the fourth step: compiled parts = eager; graphs record, then replay."""
    parts = ["[encoder]", "[views]", "[objective]"]
    choices: list[tuple[str, ...]]
    choices = [(f"method.compile={part}",) for part in (parts[:1] if given.tiny else parts)]
    if given.device == "cuda":
        choices.insert(0, ("method.compile=true", "method.cuda_graphs=true"))

    def fourth(*words: str) -> tuple[Any, list[float]]:
        _, module = built(*words)
        found, spent = None, []
        for index in range(4):
            began = time.perf_counter()
            found = one_step(module, given.device, index=index)
            spent.append(round(time.perf_counter() - began, 2))
        return found, spent

    def apart(words: Any) -> dict[str, Any]:
        (one, spent), (two, _) = fourth(*words), fourth()
        return {"error": off(one[0], two[0]), "gradient": off(one[1], two[1]), "steps, s": spent}

    for words in choices:
        title = f"{' '.join(words)}: the 4th step = eager"
        check(title, lambda w=words: apart(w), 2e-2, seconds=400 if given.device == "cpu" else 100)


def rank(index: int, folder: str, device: str) -> None:
    """Loss and averaged gradient of a rank's images, all ranks on one device."""
    import torch

    from pnp.distributed import gloo_group

    with gloo_group(f"{folder}/store", index, 2):
        share = slice(0, 8) if index == 0 else slice(8, 24)
        torch.save(linear_step(device, share), f"{folder}/{index}.pt")


def linear_step(device: str, mine: slice) -> tuple[Any, Any]:
    """Loss and gradient of P¬P over a linear network in float64 on these images."""
    import torch

    from pnp.distributed import average_gradients
    from pnp.geometry import unit
    from pnp.objectives import PNP

    torch.manual_seed(0)
    net, every = torch.nn.Linear(8, 16).double(), torch.randn(2, 24, 8).double()
    net.to(device)
    z = unit(net(every[:, mine].to(device)))
    loss = PNP()(z, z.detach().roll(1, 0), epoch=0.0)["loss"]
    loss.backward()
    average_gradients(net)
    return loss.detach().cpu(), net.weight.grad.cpu()  # pyright: ignore[reportOptionalMemberAccess]


def ranks(given: Any) -> None:
    """Two gloo processes that share the device, and one with NCCL."""
    import torch
    import torch.multiprocessing as mp

    def two() -> float:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(rank, (folder, given.device), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
            found = [torch.load(f"{folder}/{i}.pt") for i in range(2)]
        loss, gradient = linear_step(given.device, slice(None))
        mean = torch.stack([one for one, _ in found]).mean()
        return max(off(mean, loss), *(off(each, gradient) for _, each in found))

    def one() -> None:
        with tempfile.TemporaryDirectory() as folder:
            words = [
                *FEW, "trainer=ddp", "trainer.devices=1", "trainer.max_steps=2",
                "evaluation.test=false",
                f"trainer.accelerator={'gpu' if given.device == 'cuda' else 'cpu'}",
                f"run_dir={folder}/run",
            ]  # fmt: skip
            command = [sys.executable, "-m", "pnp.cli.train", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-400:])

    slow = 400 if given.device == "cpu" else 60
    check("two gloo processes on the device = one: float64", two, 1e-9, seconds=slow)
    check("pnp-train trainer=ddp with one process (NCCL on a GPU)", one, seconds=slow)
