"""Progress of training: a rich bar on a terminal, one line per epoch anywhere else."""

from time import perf_counter
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from pnp.results import ONLINE, logged_best

# Logged metric -> what a narrow bar calls it.
SHOWN = {
    "loss/total": "loss",
    "geometry/batch/sigma": "σ√D",
    "geometry/batch/mean_cosine": "cos",
}


def _shown(trainer: L.Trainer) -> dict[str, float]:
    logged = {**trainer.callback_metrics, **getattr(trainer.lightning_module, "logged", {})}
    values = {short: float(logged[name]) for name, short in SHOWN.items() if name in logged}
    for key, short in zip(ONLINE, ("kNN", "matched views"), strict=True):
        if best := logged_best(logged, key):
            values[short] = best[1]
    return values


class Progress(RichProgressBar):
    """Rich progress bar with loss, σ·√D, mean cosine and kNN, read only when the bar refreshes."""

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The few numbers worth the width of a terminal."""
        return _shown(trainer)


class EpochLines(L.Callback):
    """One line per epoch, for logs and terminals that cannot redraw; put it after the monitors."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock (a resumed run begins in the middle of an epoch)."""
        self.started = perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the run is."""
        if not trainer.is_global_zero:
            return
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in _shown(trainer).items())
        seconds, self.started = perf_counter() - self.started, perf_counter()
        step, total = trainer.global_step, pl_module.total_steps
        print(
            f"epoch {trainer.current_epoch + 1:3}  step {step}/{total}  {seconds:.0f} s  {numbers}",
            flush=True,
        )
