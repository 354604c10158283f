"""Checkpoints: last, best by online kNN, and a clean stop when a signal asks for it."""

from contextlib import nullcontext
from pathlib import Path
from signal import SIGTERM
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from pnp.errors import whole
from pnp.files import replacing
from pnp.signals import Interrupted, listener


class Checkpoints(Checkpoint):
    """Write `last.ckpt` every epoch and `best.ckpt` whenever online kNN on validation improves.

    Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 finish the step, save `last.ckpt` and raise
    `pnp.signals.Interrupted`; a second Ctrl-C stops at once. Files are replaced whole: whatever
    happens, a reader sees the old or the new one.

    Args:
        folder: where the files go.
        config: the resolved configuration, kept inside each checkpoint.
        monitor: the logged metric that `best.ckpt` follows; without it only `last.ckpt` is written.
        every_n_steps: also write `last.ckpt` every so many optimizer steps; 0 is only per epoch.
    """

    def __init__(
        self,
        folder: str | Path,
        config: dict[str, Any] | None = None,
        monitor: str = "probe/teacher/knn",
        every_n_steps: int = 0,
    ) -> None:
        whole("callbacks.checkpoints.every_n_steps", every_n_steps, 0)
        self.folder, self.config, self.monitor = Path(folder), config or {}, monitor
        self.every_n_steps = every_n_steps
        self.best: float | None = None
        self.stop_requested = self.saved = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on signals wait for the end of a step; there is always a checkpoint."""
        listener.install()  # Lightning has put its own handler for SIGTERM in front of ours
        listener.deferred = True
        self.step = trainer.global_step
        if not (self.folder / "last.ckpt").exists():
            self.save(trainer, "last")

    def stopping(self, trainer: L.Trainer) -> bool:
        """Tell whether a signal came, on any rank: all have to leave after the same step."""
        self.stop_requested |= bool(listener.seen)
        if trainer.world_size > 1:
            self.stop_requested = trainer.strategy.reduce_boolean_decision(
                self.stop_requested, all=False
            )
        return self.stop_requested

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Save between steps when asked to."""
        if trainer.global_step == self.step:  # gradients are still accumulating
            return
        self.step = trainer.global_step
        if trainer.is_last_batch:  # the epoch's own metrics and checkpoint come first
            return
        if self.stopping(trainer):
            self.save(trainer, "last")
            self.saved = True
        elif self.every_n_steps and self.step % self.every_n_steps == 0:
            self.save(trainer, "last")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the epoch; Lightning calls this after the monitors have logged."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and (self.best is None or float(value) > self.best):
            self.best = float(value)
            self.save(trainer, "best")
        self.save(trainer, "last")
        self.saved = self.stopping(trainer)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Stop here, once Lightning has logged the step that was saved last."""
        if self.saved:
            raise Interrupted(listener.seen or SIGTERM)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before the evaluation if the request came in the last epoch."""
        listener.deferred = False
        if self.saved:
            raise Interrupted(listener.seen or SIGTERM)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Nothing is left to finish."""
        listener.deferred = False

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Replace `<folder>/<name>.ckpt`; every rank has to call it."""
        file = self.folder / f"{name}.ckpt"
        with replacing(file) if trainer.is_global_zero else nullcontext(file) as part:
            trainer.save_checkpoint(part)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the configuration with the weights it made."""
        checkpoint["config"] = self.config

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best value so far."""
        self.best = state_dict["best"]
