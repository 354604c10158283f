"""Training loops that run one epoch whenever they are given a turn: ours and rivals' own.

`step.py` and `levers.py` start each loop as a process of its own. Ours is what `pnp-train` runs,
without monitors, checkpoints and evaluation; `bare` is the same without Lightning and logging.
lightly's and stable-pretraining's are those of their documented examples (`rival.py`, `stable.py`),
without logger, bar and checkpoints. All have the same backbone, sizes of heads, batch, images and
view parameters.

    python benchmarks/arms.py '{"loop": "ours", "rounds": 3}'    # reads a line of stdin per epoch
"""

import argparse
import copy
import json
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from timing import here, tell, wait


@dataclass(frozen=True)
class Spec:
    """One arm: ours, bare, lightly or stable; `rounds` epochs follow one that warms up."""

    loop: str
    rounds: int = 5
    method: str = "byol"
    model: str = "small_cnn"
    batch: int = 256
    images: int = 5120
    precision: str = "32-true"
    device: str = "cpu"
    threads: int = 1
    workers: int = 0  # a rival's DataLoader
    keep_memory: bool = True  # ours: as pnp-train does, see pnp.cpu
    profile: bool = False  # tell FLOP and parts of a step instead of taking turns
    overrides: tuple[str, ...] = ()  # of pnp-train's configuration

    def arguments(self) -> list[str]:
        """What this script is called with."""
        return [json.dumps(asdict(self))]


def configuration(spec: Spec) -> dict[str, Any]:
    """What pnp-train would compose, without evaluation: the same for all loops."""
    from pnp.runs.config import plain
    from pnp.runs.launch import compose

    data = [f"data.n_train={spec.images}", "data.validation=8", "data.calibration=8", "data.test=8"]
    if any(word.startswith("data=") for word in spec.overrides):
        data = []
    cfg = compose(
        "train",
        [
            f"method={spec.method}",
            f"model={spec.model}",
            f"data.batch_size={spec.batch}",
            f"trainer.max_epochs={spec.rounds + 1}",
            f"trainer.accelerator={'gpu' if spec.device == 'cuda' else spec.device}",
            f"trainer.precision={spec.precision}",
            "views.scale=[0.3,1.0]",
            "logger=csv",
            "~callbacks.monitor",
            "~callbacks.checkpoints",
            *data,
            *spec.overrides,
        ],
        as_job=True,
    )
    return {**plain(cfg), "choices": {}}


def synchronize(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def facts(device: str, seconds: float, images: int) -> dict[str, float]:
    """What an epoch is worth: images per second, and the most memory so far in MiB."""
    if device == "cuda":
        import torch

        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"speed": images / seconds, "mib": memory}


def turns(spec: Spec, images: int) -> Any:
    """A Lightning callback that waits for its turn before an epoch and times it to its very end."""
    from lightning.pytorch.callbacks import LambdaCallback

    started = 0.0

    def begin(*_: Any) -> None:
        nonlocal started
        wait()
        synchronize(spec.device)
        started = time.perf_counter()

    def end(*_: Any) -> None:
        synchronize(spec.device)
        tell(facts(spec.device, time.perf_counter() - started, images))

    return LambdaCallback(on_train_epoch_start=begin, on_train_epoch_end=end)


def ours(spec: Spec) -> None:
    """The Trainer that pnp-train builds, on the module and data that it builds."""
    import lightning

    from pnp.runs.parts import build_trainer, parts

    config = configuration(spec)
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    data, module, _ = parts(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), data)
        images = data.steps_per_epoch * data.loader_batch
        trainer.callbacks.append(turns(spec, images))  # pyright: ignore[reportAttributeAccessIssue]
        trainer.fit(module, datamodule=data)


def autocast(spec: Spec) -> Any:
    """bf16 where the precision says so."""
    import torch

    return torch.autocast(spec.device, torch.bfloat16, enabled=spec.precision == "bf16-mixed")


def plain_loop(spec: Spec) -> tuple[int, Callable[[int], None]]:
    """Steps of an epoch, and what trains for one, given its number: no Lightning, no logging."""
    import torch

    from pnp.data.loader import Loader
    from pnp.runs.parts import parts

    config = configuration(spec)
    torch.manual_seed(config["seed"])
    data, module, _ = parts(config)
    module.to(spec.device)
    loader = Loader(data.pretrain, spec.batch, seed=data.order_seed, device=spec.device)
    total = len(loader) * (spec.rounds + 1)
    optimizer, schedule = module.optim.build(
        module.student, global_batch=spec.batch, total_steps=total, steps_per_epoch=len(loader)
    )
    state = SimpleNamespace(
        global_step=1, current_epoch=0, world_size=1, accumulate_grad_batches=1, loggers=[]
    )
    module.trainer = state  # pyright: ignore[reportAttributeAccessIssue]
    module.log_every = 10**9

    def epoch(number: int) -> None:
        state.current_epoch = number
        for index, batch in enumerate(loader):
            with autocast(spec):
                loss = module.training_step(batch, index)["loss"]
            module.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if module.teacher is not None:
                module.teacher.update(module.student, state.global_step, total)
            state.global_step += 1

    return len(loader), epoch


def bare(spec: Spec) -> None:
    """Our step in a plain loop: what Lightning and logging add is the difference to `ours`."""
    steps, epoch = plain_loop(spec)
    for number in range(spec.rounds + 1):
        wait()
        synchronize(spec.device)
        started = time.perf_counter()
        epoch(number)
        synchronize(spec.device)
        tell(facts(spec.device, time.perf_counter() - started, steps * spec.batch))


def lightly(spec: Spec) -> None:
    """The documented example of lightly for BYOL or VICReg, see `rival.py`."""
    import lightning as L
    from rival import documented

    config = configuration(spec)
    L.seed_everything(config["seed"], workers=True, verbose=False)
    module, loader = documented(
        config,
        spec.method,
        images=spec.images,
        epochs=spec.rounds + 1,
        num_workers=spec.workers,
        pin_memory=spec.device == "cuda",
    )
    rival_trainer(spec, config, images=len(loader) * spec.batch).fit(module, loader)


def stable(spec: Spec) -> None:
    """stable-pretraining's BYOL or VICReg, see `stable.py`."""
    import lightning as L
    from stable import documented

    config = configuration(spec)
    L.seed_everything(config["seed"], workers=True, verbose=False)
    module, loader, callbacks = documented(
        config,
        spec.method,
        images=spec.images,
        num_workers=spec.workers,
        pin_memory=spec.device == "cuda",
    )
    trainer = rival_trainer(spec, config, *callbacks, images=len(loader) * spec.batch)
    trainer.fit(module, loader)


def rival_trainer(spec: Spec, config: dict[str, Any], *callbacks: Any, images: int) -> Any:
    """Lightning's Trainer without what takes time and is not training."""
    import lightning as L

    return L.Trainer(
        max_epochs=spec.rounds + 1,
        devices=1,
        accelerator=config["trainer"]["accelerator"],
        precision=config["trainer"]["precision"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, turns(spec, images)],
    )


def profile(spec: Spec) -> None:
    """Tell FLOP per image of networks and objective, operations and milliseconds by part."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pnp.runs.parts import parts
    from pnp.runs.timing import finite_and_timed

    data, module, _ = parts(configuration(spec))
    module.to(spec.device)
    count = min(64, spec.batch)
    plain = copy.deepcopy(module)
    draws = torch.Generator(spec.device).manual_seed(0)
    shape = (count, data.channels, data.size, data.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=spec.device)
    ops: dict[str, int] = {}
    with operations(ops, "views"):
        views = plain.views(images, draws)
    with FlopCounterMode(display=False) as counter:
        with operations(ops, "student"):
            outputs = plain.student.outputs(plain.encode(plain.student, [views])[1])
        targets = outputs.detach()
        if plain.teacher is not None:
            with torch.no_grad(), operations(ops, "teacher"):
                targets = plain.encode(plain.teacher.network, [views])[1]
        with operations(ops, "objective"):
            loss = plain.objective(outputs, targets, epoch=0.0)["loss"]
        with operations(ops, "backward"):
            loss.backward()
    optimizer, _ = plain.optim.build(
        plain.student, global_batch=spec.batch, total_steps=2, steps_per_epoch=2
    )
    optimizer.step()  # makes its state
    with operations(ops, "optimizer"):
        optimizer.step()
        if plain.teacher is not None:
            plain.teacher.update(plain.student, 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        _, clock = finite_and_timed(configuration(spec), Path(folder))
    clock.pop("images per second")
    tell({"flop": counter.get_total_flops() / count, "ms": clock, "ops": ops})


@contextmanager
def operations(counts: dict[str, int], part: str) -> Iterator[None]:
    """Count the ATen operations of a part that compute something: on a GPU each is a launch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            counts[part] = counts.get(part, 0) + (not func.is_view)
            return func(*args, **(kwargs or {}))

    with Counter():
        yield


def main() -> None:
    """Run one arm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", help="JSON of `Spec`")
    given = json.loads(parser.parse_args().spec)
    spec = Spec(**{**given, "overrides": tuple(given.get("overrides", ()))})
    import torch

    from pnp.cpu import keep_freed_memory
    from pnp.runs.parts import ignore_known_warnings, quieten

    torch.set_num_threads(spec.threads)
    if spec.keep_memory and spec.loop in ("ours", "bare"):
        keep_freed_memory()
    quieten()
    with warnings.catch_warnings():
        ignore_known_warnings()
        loops = {"ours": ours, "bare": bare, "lightly": lightly, "stable": stable}
        (profile if spec.profile else loops[spec.loop])(spec)


SCRIPT = here("arms.py")

if __name__ == "__main__":
    main()
