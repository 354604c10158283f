"""Checkpoints: last, best by online kNN, and a clean stop on Ctrl-C."""

import signal
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from pnp.errors import UserError


class Interrupted(Exception):
    """Training stopped on request after saving its state."""


class Checkpoints(Checkpoint):
    """Write `last.ckpt` every epoch and `best.ckpt` whenever online kNN on validation improves.

    The first Ctrl-C finishes the step, saves `last.ckpt` and stops; a second one stops at once.
    Files are replaced atomically: a reader sees the old or the new one, never half of it.

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
        if every_n_steps < 0:
            raise UserError(f"callbacks.checkpoints.every_n_steps={every_n_steps} is negative.")
        self.folder, self.config, self.monitor = Path(folder), config or {}, monitor
        self.every_n_steps = every_n_steps
        self.best: float | None = None
        self.stop_requested = self.saved = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for Ctrl-C, and make sure there is always a healthy checkpoint to go back to."""
        try:
            self.previous = signal.signal(signal.SIGINT, self.request_stop)
        except ValueError:  # not in the main thread: whoever runs us there owns the signals
            self.previous = None
        self.step = trainer.global_step
        if not (self.folder / "last.ckpt").exists():
            self.save(trainer, "last")

    def request_stop(self, *_: object) -> None:
        """Stop after this step; the next Ctrl-C is not caught."""
        self.stop_requested = True
        signal.signal(signal.SIGINT, self.previous or signal.default_int_handler)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Save between steps when asked to."""
        if trainer.global_step == self.step:  # gradients are still accumulating
            return
        self.step = trainer.global_step
        if trainer.is_last_batch:  # the epoch's own metrics and checkpoint come first
            return
        if self.stop_requested:
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
        self.saved = self.stop_requested

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Stop here, once Lightning has logged the step that was saved last."""
        if self.saved:
            raise Interrupted

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before the evaluation if the request came in the last epoch."""
        if self.saved:
            raise Interrupted

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if getattr(self, "previous", None) is not None and not self.stop_requested:
            signal.signal(signal.SIGINT, self.previous)

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Write `<folder>/<name>.ckpt` atomically."""
        final = self.folder / f"{name}.ckpt"
        partial = final.with_suffix(".part")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(final)

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
