"""Student and teacher on held-out images at every epoch: geometry, kNN, band, collapse alarm."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int64
from rich.console import Console
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from pnp import auto, geometry
from pnp.callbacks.collapse import ADVICE, Sighting, collapse_kind, is_alarming
from pnp.callbacks.gradients import TermGradients, starving
from pnp.data import ImageSet
from pnp.distributed import broadcast, rank, world_size
from pnp.errors import UserError, number, whole
from pnp.evaluation.band_metrics import BandMetrics
from pnp.evaluation.features import extract
from pnp.evaluation.probes import knn_votes
from pnp.files import write_json
from pnp.loggers.wandb import WandbLog
from pnp.method import SelfSupervised
from pnp.seeds import generator

FIRST = 1000  # steps in which batches are checked between epochs
QUESTIONS = 10  # classes whose band is measured online, at most


def knn_accuracy(
    votes: Float[Tensor, "n c"], labels: Int64[Tensor, " n"], device: torch.device | str = "cpu"
) -> float:
    """Share of the images of all processes whose label gets most votes, each bringing its own.

    `device` is where collectives work.
    """
    accuracy = MulticlassAccuracy(votes.shape[1], average="micro").to(device)
    accuracy.update(votes.to(device), labels.to(device))
    return float(accuracy.compute())


def online_band(
    votes: Float[Tensor, "n c"],
    labels: Int64[Tensor, " n"],
    classes: Int64[Tensor, " k"],
    device: torch.device | str = "cpu",
) -> float:
    """Plug-in band of each class against the rest, mean, over the images of all processes.

    `classes` are two or more that occur among all of them, in order; `device` is where collectives
    work.
    """
    # Of two classes either one asks the same question.
    questions = classes[1:] if len(classes) == 2 else classes[:QUESTIONS]
    bands: list[float] = []
    for question in questions.tolist():
        share = votes[:, question] / votes.sum(1)
        # The constant keeps the log-odds of unanimous votes finite.
        odds = ((share + 1e-3) / (1 - share + 1e-3)).log()
        band = BandMetrics().to(device)
        band.update(odds.to(device), (labels == question).to(device))
        bands.append(float(band.compute()["band/plugin"]))
    return sum(bands) / len(bands)


class Monitor(L.Callback):
    """Log geometry, online kNN and band at the end of every epoch; raise the collapse alarm.

    Geometry is that of the embeddings of the validation split; kNN votes on backbone features, from
    training images to validation images. The log-odds of the votes are the scores of the online
    band: the plug-in band at 1 % false P and 1 % false ¬P of the data's own concept, or of each
    class against the rest, mean over at most `QUESTIONS` classes. With several processes each takes
    its share of the images. Gradients, BatchNorm and the random numbers of training stay untouched.

    Args:
        images: validation images to measure.
        bank: labelled training images for kNN.
        k: neighbours.
        temperature: of the neighbours' weights.
        every_n_epochs: how often; `auto` is twenty times a run, or after every epoch of fewer than
            forty: it costs as much as some steps, and on a GPU an epoch lasts seconds.
        alarms: file that lists the alarms; None keeps them to the terminal.
        data: a `pnp.data.DataModule` to measure on; None takes the trainer's.
    """

    def __init__(
        self,
        images: int = 1500,
        bank: int = 4000,
        k: int = 20,
        temperature: float = 0.07,
        every_n_epochs: int | str = "auto",
        alarms: str | Path | None = None,
        data: Any = None,
    ) -> None:
        self.data = data
        for key, value in (("images", images), ("bank", bank), ("k", k)):
            whole(f"callbacks.monitor.{key}", value)
        number("callbacks.monitor.temperature", temperature, 0, open_low=True)
        self.images, self.bank, self.k, self.temperature = images, bank, k, temperature
        if every_n_epochs != "auto":
            whole("callbacks.monitor.every_n_epochs", every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self.file = Path(alarms) if alarms else None
        self.alarms: list[dict[str, Any]] = []
        self.seen: dict[str, Sighting] = {}  # the last measurement of each network
        self.raised: dict[str, str | None] = {}
        self.step = 0  # of the last batch that was checked

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images, the same in every run on these splits."""
        data: Any = self.data or trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not hasattr(data, "splits"):
            raise UserError(
                "the monitor needs held-out images: fit a pnp.data.DataModule, or give "
                "Monitor(data=DataModule.from_arrays(images, labels))."
            )
        self.held_out = _some(data.splits["validation"], self.images)
        labelled = data.splits["train"]
        self.neighbours = _some(labelled, self.bank) if labelled.labels is not None else None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, log, and raise the alarm."""
        assert isinstance(pl_module, SelfSupervised)
        epochs = math.ceil(pl_module.total_steps / pl_module.steps_per_epoch)
        every = self.every_n_epochs
        every = max(1, epochs // 20) if isinstance(every, str) else every
        number = trainer.current_epoch + 1
        if number % every and number < epochs:
            return
        for name, network in pl_module.networks.items():
            # Rank 0's numbers count: all ranks must agree on which checkpoint is best.
            measures, votes, dims = broadcast(self.measure(trainer, pl_module, name, network))
            for key, value in measures.items():
                pl_module.log(f"geometry/{name}/{key}", value)
            for key, value in votes.items():
                pl_module.log(key.format(name), value)
            self.check(trainer, name, measures, dims, pl_module.total_steps)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The step before a resumed run's first was checked already."""
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Check a batch of the student's embeddings every 5 to 50 of the first 1,000 steps."""
        assert isinstance(pl_module, SelfSupervised)
        step, total = trainer.global_step, pl_module.total_steps
        if step > FIRST or step % max(5, min(50, total // 20)) or step == self.step:
            return
        self.step = step
        z = outputs["embeddings"][0].cpu()
        measures = {
            "mean_cosine": geometry.mean_cosine(z),
            "mean_norm": geometry.mean_norm(z),
            "effective_rank": geometry.effective_rank(z),
        }
        # Rank 0's batch counts: all ranks must agree on an alarm.
        self.check(trainer, "student", broadcast(measures), z.shape[1], total, batch=len(z))

    def measure(
        self, trainer: L.Trainer, module: SelfSupervised, name: str, network: torch.nn.Module
    ) -> tuple[dict[str, float], dict[str, float], int]:
        """Geometry of `network`'s embeddings, kNN accuracy and band where labels exist, and D.

        All ranks call it together; the result is that of one process.
        """
        keywords: Any = {
            "device": module.device,
            "memory_format": module.memory_format,
            "autocast": trainer.precision_plugin.forward_context,
        }
        shared = partial(extract, network, plain=module.views.plain, shared=True, **keywords)
        features, z = shared(self.held_out)
        measures = geometry.describe(z, self.held_out.labels)
        measures["wasserstein"] = geometry.wasserstein(geometry.unit(z))
        first, second = self.two_views(module, network, keywords)
        measures["alignment"] = geometry.alignment(first[1], second[1])
        if trainer.is_global_zero:
            for log in _wandb(trainer):
                log.log_embeddings(name, z, trainer.global_step - 1)
        if self.neighbours is None or self.held_out.labels is None:
            matched = geometry.matched(first[0], second[0])
            return measures, {"probe/{}/views": matched}, z.shape[1]
        bank, _ = shared(self.neighbours)
        assert self.neighbours.labels is not None
        share = slice(rank(), None, world_size())
        k, heat = min(self.k, len(bank)), self.temperature
        vote = partial(knn_votes, bank, queries=features[share], k=k, temperature=heat)
        count = max(2, len(self.neighbours.classes))
        votes, labels = vote(self.neighbours.labels, classes=count), self.held_out.labels
        metrics = {"probe/{}/knn": knn_accuracy(votes, labels[share], module.device)}
        if self.neighbours.concept is not None and self.held_out.concept is not None:
            votes, labels = vote(self.neighbours.concept, classes=2), self.held_out.concept
        classes = labels.unique()
        if len(classes) > 1:
            band = online_band(votes, labels[share], classes, module.device)
            metrics["band/{}/plugin"] = band
        return measures, metrics, z.shape[1]

    def two_views(
        self, module: SelfSupervised, network: torch.nn.Module, keywords: dict[str, Any]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features and embeddings of two views of some held-out images, always the same draws."""
        few = self.held_out.subset(torch.arange(min(500, len(self.held_out))))
        draws = generator(module.seed, device=module.device)
        first, second = (
            extract(network, few, lambda x: module.views(x, draws)[0], **keywords) for _ in range(2)
        )
        return first, second

    def check(
        self,
        trainer: L.Trainer,
        name: str,
        measures: dict[str, float],
        dims: int,
        total_steps: int,
        batch: int | None = None,
    ) -> None:
        """Raise the alarm once when a kind of collapse has come to stay, see `is_alarming`.

        `batch` is the number of images where a batch of training was measured. It is compared with
        earlier batches: views are no clean images, and BatchNorm uses the batch.

        A teacher that still sits in its first cone while the student is spread lags: that is no
        collapse, and `on_train_end` says so.
        """
        kind = collapse_kind(measures, batch or len(self.held_out), dims)
        place = f"{name}, batch" if batch else name
        before = self.seen.get(place)
        self.seen[place] = now = Sighting(kind, measures["mean_cosine"], trainer.global_step)
        if kind is None and not batch:
            self.raised.pop(name, None)
        lags = name == "teacher" and self.seen["student"].kind is None
        if is_alarming(before, now, total_steps) and not lags and kind != self.raised.get(name):
            assert kind is not None
            self.raised[name] = kind
            step, epoch = trainer.global_step, trainer.current_epoch + 1
            title = f"{kind} collapse of the {name}"
            message = (
                f"{title}: {ADVICE[kind]} (mean cosine {measures['mean_cosine']:.2f}, "
                f"‖mean z‖ {measures['mean_norm']:.2f}, effective rank "
                f"{measures['effective_rank']:.1f} of {dims}){self.terms(trainer, kind)}"
            )
            alarm = {"step": step, "epoch": epoch, "network": name, "kind": kind}
            self.alarms.append({**alarm, "message": message})
            if trainer.is_global_zero:
                text = f"[bold red]ALARM[/] epoch {epoch}: {message}"
                Console(soft_wrap=True, highlight=False).print(text)
                for log in _wandb(trainer):
                    log.alarm(title, message, step - 1)
                if self.file:
                    write_json(self.file, self.alarms)

    def terms(self, trainer: L.Trainer, kind: str) -> str:
        """The starving term, by the last look at the gradients; empty where there is but one."""
        weights = getattr(getattr(trainer.lightning_module, "objective", None), "weights", {})
        looks = [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, TermGradients)]
        if len(weights) < 2 or not any(name in weights for name in ("alignment", "variance")):
            return ""
        words = starving(kind, weights, looks[0].shares if looks else {})
        return f"; {words}" if words else ""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the teacher lags, where it still is the cone that it started as."""
        student, teacher = self.seen.get("student"), self.seen.get("teacher")
        if student is None or teacher is None or student.kind or not teacher.kind:
            return
        if trainer.is_global_zero:
            module: Any = pl_module
            steps = module.total_steps
            # Where the momentum is as low as `auto` already, only more steps help.
            high = module.teacher.momentum(0, steps) > auto.momentum(steps)
            print(
                f"the teacher lags behind the student (mean cosine {teacher.cosine:.2f}, the "
                f"student's {student.cosine:.2f}): {steps} steps are few for its momentum. Train "
                f"longer{', or give method.momentum=auto' if high else ''}."
            )

    def state_dict(self) -> dict[str, Any]:
        """Alarms and measurements so far: a resumed run does not raise an alarm twice."""
        seen = {name: (s.kind, s.cosine, s.step) for name, s in self.seen.items()}
        return {"alarms": self.alarms, "seen": seen, "raised": self.raised}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the alarms of the checkpoint."""
        self.alarms = state_dict["alarms"]
        # Version 0.1 kept the kind seen last and the one raised.
        old = state_dict.get("kinds", {}).items()
        seen = {name: (kind, 1.0, 0) for name, (kind, _) in old} | state_dict.get("seen", {})
        self.seen = {name: Sighting(*values) for name, values in seen.items()}
        self.raised = {name: raised for name, (_, raised) in old} | state_dict.get("raised", {})


def _wandb(trainer: L.Trainer) -> list[WandbLog]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLog)]


def _some(images: ImageSet, count: int) -> ImageSet:
    """A fixed random subset of at most `count` images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[:count].sort().values)
