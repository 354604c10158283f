"""Timing of `pnp-doctor`: milliseconds of each part of the real training step."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from torch import nn

from pnp.runs.checks import Check, flat_gradient, shortened
from pnp.runs.parts import build_trainer, parts

# Parts of a step: the end of the name that Lightning or `finite_and_timed` gives an action -> part.
PARTS = {
    "train_dataloader_next": "data",
    "views": "views",
    "student": "student",
    "teacher": "teacher",
    "objective": "objective",
    ".training_step": "rest and logging",
    ".backward": "backward",
    ".optimizer_step": "optimizer",
}
SECONDS = 15.0  # after which no further step starts


class _Clock(Profiler):
    """Seconds of each part of a step, without those of the parts inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.stack: list[str] = []
        self.since = 0.0

    def start(self, action_name: str) -> None:
        """Pause the surrounding part."""
        self._charge(action_name)
        self.stack.append(action_name)

    def stop(self, action_name: str) -> None:
        """Go on with the surrounding part."""
        self._charge(action_name)
        self.stack.pop()

    def summary(self) -> str:
        """Nothing: the doctor makes its own table."""
        return ""

    def _charge(self, action_name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.stack:
            part = next((PARTS[key] for key in PARTS if self.stack[-1].endswith(key)), "other")
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self.since
        self.since = now


class _Timed(nn.Module):
    def __init__(self, part: str, inner: nn.Module, clock: _Clock) -> None:
        super().__init__()
        self.part, self.inner, self.clock = part, inner, clock

    def forward(self, *args: Any, **keywords: Any) -> Any:
        with self.clock.profile(self.part):
            return self.inner(*args, **keywords)


class _Finite(L.Callback):
    """Name the first term that is not finite; forget the times of the first step, a warm-up."""

    def __init__(self, clock: _Clock) -> None:
        self.clock, self.deadline = clock, time.perf_counter() + SECONDS
        self.steps, self.fault, self.bad_gradient = 0, "", False

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        self.bad_gradient = not bool(flat_gradient(pl_module).isfinite().all())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        bad = [name for name, term in outputs["terms"].items() if not bool(term.isfinite())]
        bad += ["the gradient"] if self.bad_gradient and not bad else []
        self.fault = self.fault or (f"step {self.steps}: {', '.join(bad)}" if bad else "")
        self.steps += 1
        if self.steps == 1:
            self.clock.seconds.clear()
        trainer.should_stop = self.steps >= 3 and time.perf_counter() > self.deadline


def finite_and_timed(config: dict[str, Any], folder: Path) -> tuple[Check, dict[str, float]]:
    """Train some steps as pnp-train does: are losses and gradients finite, what takes the time?

    Returns:
        The check, and milliseconds per batch by part, with `images per second`.
    """
    config = shortened(config, 12)
    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, module, _ = parts(config)
    clock, augment, encode = _Clock(), module.augment, module.encode

    def timed_augment(images: Any, draws: Any) -> Any:
        with clock.profile("views"):
            return augment(images, draws)

    def timed_encode(network: Any, views: Any) -> Any:
        with clock.profile("student" if network is module.student else "teacher"):
            return encode(network, views)

    module.augment, module.encode = timed_augment, timed_encode
    module.objective = _Timed("objective", module.objective, clock)
    trainer = build_trainer(config, folder, data)
    watch = _Finite(clock)
    trainer.profiler, trainer.callbacks[:] = clock, [watch]  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(module, datamodule=data)
    count, images = max(1, watch.steps - 1), data.loader_batch
    times = {part: 1000 * clock.seconds.get(part, 0.0) / count for part in PARTS.values()}
    times["images per second"] = 1000 * images / max(1e-9, sum(times.values()))
    note = watch.fault or f"{watch.steps} batches of {images} images on {module.device}"
    return Check("first steps finite", float(bool(watch.fault)), 0.0, note), times
