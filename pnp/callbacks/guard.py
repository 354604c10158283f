"""Stop a run that is lost: a loss that is not finite, and, if asked to, a collapse."""

from typing import Any

import lightning as L
import torch

from pnp.callbacks.monitor import Monitor
from pnp.errors import UserError, choice


class FiniteLoss(L.Callback):
    """Raise when a term of the loss is NaN or infinite.

    On a CPU every step is checked before the next. On a GPU looking at a value stalls the queue, so
    the first bad step is remembered on the device and read at every logged step and before every
    checkpoint: a checkpoint never holds weights from after it.
    """

    def __init__(self) -> None:
        self.first_bad: torch.Tensor | None = None
        self.names: list[str] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Note the first bad step of each term."""
        terms: dict[str, torch.Tensor] = outputs["terms"]
        values = torch.stack([term.float() for term in terms.values()])
        if self.first_bad is None:
            self.names = list(terms)
            self.first_bad = torch.full_like(values, torch.inf)
        step = torch.where(values.isfinite(), torch.inf, float(trainer.global_step))
        self.first_bad = torch.minimum(self.first_bad, step)
        if values.device.type == "cpu" or trainer.global_step % 50 == 0:
            self.check(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Never save weights from after the first bad step."""
        self.check(trainer)

    def check(self, trainer: L.Trainer) -> None:
        """Raise if any step so far was bad.

        Raises:
            UserError: names the step, the terms and the checkpoint from before.
        """
        if self.first_bad is None:
            return
        first = self.first_bad.cpu()
        step = float(first.min())
        if step == float("inf"):
            return
        bad = [n for n, s in zip(self.names, first, strict=True) if float(s) == step]
        culprits = [name for name in bad if name != "loss"] or bad
        folders = [getattr(c, "folder", None) for c in trainer.checkpoint_callbacks]
        folder = next((f for f in folders if f), None)
        raise UserError(
            f"the loss is not finite at step {step:.0f}; first to go: {', '.join(culprits)}. "
            + (f"{folder / 'last.ckpt'} holds the state from before. " if folder else "")
            + "Lower optim.lr, lengthen optim.warmup_epochs, or set trainer.gradient_clip_val=1."
        )


class Guard(L.Callback):
    """Stop the run at the monitor's collapse alarm; put it after the monitor.

    Args:
        on_collapse: `warn` leaves it at the alarm, `stop` ends the run.
    """

    def __init__(self, on_collapse: str = "warn") -> None:
        self.on_collapse = choice("callbacks.guard.on_collapse", on_collapse, ("warn", "stop"))

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Stop after the step that raised the alarm."""
        self.check(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Stop after the epoch that raised the alarm."""
        self.check(trainer)

    def check(self, trainer: L.Trainer) -> None:
        """Raise at the first alarm.

        Raises:
            UserError: repeats the alarm and says how to go on.
        """
        if self.on_collapse == "warn":
            return
        monitors = [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, Monitor)]
        alarms = [alarm for monitor in monitors for alarm in monitor.alarms]
        if alarms:
            raise UserError(
                f"stopped at step {alarms[0]['step']} by callbacks.guard.on_collapse=stop; "
                f"{alarms[0]['message']}. To go on all the same: callbacks.guard.on_collapse=warn."
            )
