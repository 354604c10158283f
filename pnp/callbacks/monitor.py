"""Student and teacher on held-out images at every epoch: geometry, kNN, band, collapse alarm."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int64
from rich.console import Console
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from pnp import geometry
from pnp.data import ImageSet
from pnp.distributed import broadcast, rank, world_size
from pnp.evaluation.band_metrics import BandMetrics
from pnp.evaluation.features import extract
from pnp.evaluation.probes import knn_votes
from pnp.files import write_json
from pnp.loggers.wandb import WandbLog
from pnp.method import SelfSupervised
from pnp.seeds import generator

QUESTIONS = 10  # classes whose band is measured online, at most
# Kinds of collapse: how each shows in the embeddings, and what to do about it.
ADVICE = {
    "complete": "all images share one embedding: raise the weights of variance or repulsion",
    "cone": "all images sit in one narrow cone: raise variance or repulsion, or lower the margin",
    "dimensional": "few axes are used: raise covariance or repulsion, or lower the learning rate",
}


def collapse_kind(measures: dict[str, float], images: int, dims: int) -> str | None:
    """Name the collapse that `geometry.describe` shows, the worst first; None when there is none.

    complete: mean cosine above 0.95; cone: ‖mean z‖ above 0.7; dimensional: effective rank below
    5 % of what N images in D dimensions allow.
    """
    if measures["mean_cosine"] > 0.95:
        return "complete"
    if measures["mean_norm"] > 0.7:
        return "cone"
    if measures["effective_rank"] < 0.05 * min(dims, images - 1):
        return "dimensional"
    return None


def knn_accuracy(
    votes: Float[Tensor, "n c"], labels: Int64[Tensor, " n"], device: torch.device | str = "cpu"
) -> float:
    """Share of the images of all processes whose label gets most votes.

    Args:
        votes: of this process's images.
        labels: their classes.
        device: where collectives work.
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

    Args:
        votes: of this process's images.
        labels: their classes.
        classes: two or more that occur among the images of all processes, in order.
        device: where collectives work.
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
        every_n_epochs: how often.
        alarms: file that lists the alarms; None keeps them to the terminal.
    """

    def __init__(
        self,
        images: int = 1500,
        bank: int = 4000,
        k: int = 20,
        temperature: float = 0.07,
        every_n_epochs: int = 1,
        alarms: str | Path | None = None,
    ) -> None:
        self.images, self.bank, self.k, self.temperature = images, bank, k, temperature
        self.every_n_epochs = every_n_epochs
        self.file = Path(alarms) if alarms else None
        self.alarms: list[dict[str, Any]] = []
        self.kinds: dict[str, tuple[str | None, str | None]] = {}  # seen last, raised last

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images, the same in every run on these splits."""
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.held_out = _some(data.splits["validation"], self.images)
        labelled = data.splits["train"]
        self.neighbours = _some(labelled, self.bank) if labelled.labels is not None else None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, log, and raise the alarm."""
        assert isinstance(pl_module, SelfSupervised)
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        for name, network in pl_module.networks.items():
            # Rank 0's numbers count: all ranks must agree on which checkpoint is best.
            measures, votes, dims = broadcast(self.measure(trainer, pl_module, name, network))
            for key, value in measures.items():
                pl_module.log(f"geometry/{name}/{key}", value)
            for key, value in votes.items():
                pl_module.log(key.format(name), value)
            self.check(trainer, name, measures, dims)

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
        first, second = self.two_views(module, network, keywords)
        measures["alignment"] = geometry.alignment(first, second)
        if trainer.is_global_zero:
            for log in _wandb(trainer):
                log.log_embeddings(name, z, trainer.global_step - 1)
        if self.neighbours is None or self.held_out.labels is None:
            return measures, {}, z.shape[1]
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
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of two augmented views of some held-out images, the same draws every epoch."""
        few = self.held_out.subset(torch.arange(min(500, len(self.held_out))))
        draws = generator(module.seed, device=module.device)
        first, second = (
            extract(network, few, lambda x: module.views(x, draws)[0], **keywords)[1]
            for _ in range(2)
        )
        return first, second

    def check(self, trainer: L.Trainer, name: str, measures: dict[str, float], dims: int) -> None:
        """Raise the alarm once, when a network shows a kind of collapse twice in a row.

        Every network starts as a cone and needs its first epoch to leave it.
        """
        kind = collapse_kind(measures, len(self.held_out), dims)
        before, raised = self.kinds.get(name, (None, None))
        self.kinds[name] = (kind, raised if kind else None)
        if kind is not None and kind == before and kind != raised:
            self.kinds[name] = (kind, kind)
            alarm = {
                "step": trainer.global_step,
                "epoch": trainer.current_epoch + 1,
                "network": name,
                "kind": kind,
                "message": f"{kind} collapse of the {name}: {ADVICE[kind]} (mean cosine "
                f"{measures['mean_cosine']:.2f}, ‖mean z‖ {measures['mean_norm']:.2f}, effective "
                f"rank {measures['effective_rank']:.1f} of {dims})",
            }
            self.alarms.append(alarm)
            if trainer.is_global_zero:
                text = f"[bold red]ALARM[/] epoch {alarm['epoch']}: {alarm['message']}"
                Console(soft_wrap=True, highlight=False).print(text)
                for log in _wandb(trainer):
                    title = f"{kind} collapse of the {name}"
                    log.alarm(title, alarm["message"], trainer.global_step - 1)
                if self.file:
                    write_json(self.file, self.alarms)

    def state_dict(self) -> dict[str, Any]:
        """Alarms so far: a resumed run does not raise them twice."""
        return {"alarms": self.alarms, "kinds": self.kinds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the alarms of the checkpoint."""
        self.alarms, self.kinds = state_dict["alarms"], state_dict["kinds"]


def _wandb(trainer: L.Trainer) -> list[WandbLog]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLog)]


def _some(images: ImageSet, count: int) -> ImageSet:
    """A fixed random subset of at most `count` images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[:count].sort().values)
