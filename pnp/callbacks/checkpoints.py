"""Checkpoints: last, best by online kNN, and a clean stop when a signal asks for it."""

from contextlib import nullcontext
from pathlib import Path
from shutil import copyfile
from signal import SIGTERM
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from pnp.distributed import broadcast, flag
from pnp.errors import number, whole
from pnp.files import replacing
from pnp.results import ONLINE, logged_best
from pnp.signals import Interrupted, listener


class Checkpoints(Checkpoint):
    """Write `last.ckpt` at the end of epochs and `best.ckpt` whenever the better network improves.

    Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 finish the step, save `last.ckpt` and raise
    `pnp.signals.Interrupted`; a second Ctrl-C stops at once. Files are replaced whole: whatever
    happens, a reader sees the old or the new one.

    Args:
        folder: where the files go.
        config: the resolved configuration, kept inside each checkpoint.
        monitor: the logged metric that `best.ckpt` follows; without it only `last.ckpt` is written.
            `main` in it stands for the better of student and teacher. `auto` is kNN on validation,
            `probe/main/knn`, or without labels `probe/main/views`.
        every_n_steps: also write `last.ckpt` every so many optimizer steps; 0 is only per epoch.
        max_share: largest share of the time that `last.ckpt` may take: where an epoch lasts no
            longer than writing its end, several epochs share a checkpoint. A signal, the last epoch
            and a better `best.ckpt` always write.
    """

    def __init__(
        self,
        folder: str | Path,
        config: dict[str, Any] | None = None,
        monitor: str = "auto",
        every_n_steps: int = 0,
        max_share: float = 0.05,
    ) -> None:
        whole("callbacks.checkpoints.every_n_steps", every_n_steps, 0)
        number("callbacks.checkpoints.max_share", max_share, 0, 1, open_low=True)
        self.folder, self.config, self.monitor = Path(folder), config or {}, monitor
        self.every_n_steps, self.max_share = every_n_steps, max_share
        self.written, self.cost = -float("inf"), 0.0  # when the last one was, and how long it took
        self.best: float | None = None
        self.main: str | None = None  # the better network now
        self.stop_requested = self.saved = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on signals wait for the end of a step; there is always a checkpoint."""
        listener.install()  # Lightning has put its own handler for SIGTERM in front of ours
        listener.deferred = True
        self.step = trainer.global_step
        if not (self.folder / "last.ckpt").exists():
            self.save(trainer)

    def stopping(self, *, now: bool = False) -> bool:
        """Tell whether a signal came, on any rank: all have to leave after the same step.

        Of several processes one tells the others in the next step, unless they are asked `now`.
        """
        self.stop_requested |= flag.raised(bool(listener.seen), now=now)
        return self.stop_requested

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Save between steps when asked to."""
        if trainer.global_step == self.step:  # gradients are still accumulating
            return
        self.step = trainer.global_step
        if trainer.is_last_batch:  # the epoch's own metrics and checkpoint come first
            return
        if self.stopping():
            self.save(trainer)
            self.saved = True
        elif self.every_n_steps and self.step % self.every_n_steps == 0:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the epoch; Lightning calls this after the monitors have logged."""
        found = [logged_best(trainer.callback_metrics, key) for key in self.monitored]
        best, better = next(filter(None, found), None), False
        if best is not None:
            self.main, value = best
            better = self.best is None or value > self.best
            self.best = value if better else self.best
        self.saved = self.stopping(now=True)
        if better or self.saved or self.due(trainer):
            self.save(trainer)
        if better and trainer.is_global_zero:
            last = self.folder / "last.ckpt"
            with replacing(self.folder / "best.ckpt") as part:
                try:  # a second name for a file that is only ever replaced
                    part.hardlink_to(last)
                except OSError:  # links are not allowed here
                    copyfile(last, part)

    def due(self, trainer: L.Trainer) -> bool:
        """Tell whether this epoch's end is written, the same on all ranks."""
        epochs, steps = trainer.max_epochs or -1, trainer.max_steps
        ended = 0 < epochs <= trainer.current_epoch + 1 or 0 < steps <= trainer.global_step
        cheap = self.cost <= self.max_share * (monotonic() - self.written)
        return trainer.should_stop or ended or bool(broadcast(cheap))

    @property
    def monitored(self) -> tuple[str, ...]:
        """Logged metrics; the first that is there counts."""
        return ONLINE if self.monitor == "auto" else (self.monitor,)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Stop here, once Lightning has logged the step that was saved last."""
        if self.saved:
            raise Interrupted(listener.seen or SIGTERM)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before the evaluation if the request came in the last epoch."""
        listener.deferred = False
        if self.monitor != "auto" and self.best is None and trainer.is_global_zero:
            print(
                f"callbacks.checkpoints.monitor={self.monitor} was not logged: there is no "
                f"best.ckpt. Logged are {', '.join(sorted(trainer.callback_metrics)) or 'none'}."
            )
        if self.saved:
            raise Interrupted(listener.seen or SIGTERM)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Nothing is left to finish."""
        listener.deferred = False

    def save(self, trainer: L.Trainer) -> None:
        """Replace `<folder>/last.ckpt`; every rank has to call it."""
        file, started = self.folder / "last.ckpt", monotonic()
        with replacing(file) if trainer.is_global_zero else nullcontext(file) as part:
            trainer.save_checkpoint(part)
        self.written = monotonic()
        self.cost = self.written - started

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep configuration, digests of the images and the better network with the weights."""
        checkpoint["config"] = self.config
        if (record := getattr(trainer.datamodule, "split_record", None)) is not None:  # pyright: ignore[reportAttributeAccessIssue]
            checkpoint["splits"] = record()
        if self.main is not None:
            checkpoint["main"] = self.main

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and the better network."""
        return {"best": self.best, "main": self.main}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best value so far."""
        self.best, self.main = state_dict["best"], state_dict.get("main")
