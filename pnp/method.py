"""The LightningModule: views -> student -> teacher -> objective -> log -> return."""

import math
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnp import geometry
from pnp.data import Batch
from pnp.distributed import rank
from pnp.errors import UserError
from pnp.geometry import unit
from pnp.optim import Optim
from pnp.seeds import generator, step_seed
from pnp.teacher import EMATeacher
from pnp.views import Views


class Network(nn.Module):
    """Backbone, then projector: images to features and unit embeddings.

    Args:
        backbone: images (N, C, H, W) to features (N, dim).
        projector: features to (N, D).
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, dim) and L2-normalised embeddings (N, D), the latter in float32."""
        features = self.backbone(images)
        return features, unit(self.projector(features))


class SelfSupervised(L.LightningModule):
    """Student, EMA teacher and objective: the one skeleton of every method.

    Args:
        backbone: see `pnp.backbones`.
        projector: see `pnp.heads`.
        objective: (student embeddings, teacher embeddings) -> {"loss", terms}.
        views: see `pnp.views`; at least 2 views.
        optim: see `pnp.optim`.
        momentum: of the teacher, at step 0; see `pnp.teacher`.
        seed: owns every random draw of training.
        log_every: optimizer steps between two logged values: logging each step costs 1 ms of it.
        channels_last: keep filters and images in the channels-last memory format.

    Raises:
        UserError: fewer than 2 views.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        objective: nn.Module,
        views: Views,
        optim: Optim | None = None,
        *,
        momentum: float = 0.99,
        seed: int = 0,
        log_every: int = 10,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if views.count < 2:
            raise UserError(
                f"views.count={views.count}: alignment compares views, give at least 2."
            )
        if log_every < 1:
            raise UserError(f"log_every={log_every} must be at least 1.")
        self.student = Network(backbone, projector)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.student.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]
        self.teacher = EMATeacher(self.student, momentum)
        self.objective = objective
        self.views = views
        self.optim = optim or Optim()
        self.seed, self.log_every = seed, log_every
        self.total_steps = 0  # known once there is a trainer

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One micro-batch; callbacks read what it returns."""
        views = self.views(batch.images, self.draws(batch_idx))
        features, student = self.embed(self.student, views)
        _, teacher = self.embed(self.teacher, views)
        terms = self.objective(student, teacher)
        self.log_terms(terms, student, batch_idx)
        return {
            "loss": terms["loss"],
            "terms": {name: term.detach() for name, term in terms.items()},
            "embeddings": student.detach(),
            "features": features.detach(),
            "labels": batch.labels,
        }

    def draws(self, batch_idx: int) -> torch.Generator:
        """The step's own random numbers; dropout's global ones are re-seeded from the same key.

        A function of (seed, epoch, batch, rank), so that a resumed run draws what the unbroken one
        would have drawn.
        """
        key = (self.seed, self.current_epoch, batch_idx, rank())
        torch.manual_seed(step_seed(*key, 1))
        return generator(*key, device=self.device)

    def embed(
        self, network: nn.Module, views: Float[Tensor, "v n c h w"]
    ) -> tuple[Float[Tensor, "v n f"], Float[Tensor, "v n d"]]:
        """Features and embeddings of every view.

        One forward per view: BatchNorm sees each view by itself, and on a CPU it is the faster way.
        """
        outputs = [network(v.contiguous(memory_format=self.memory_format)) for v in views]
        features, embeddings = zip(*outputs, strict=True)
        return torch.stack(features), torch.stack(embeddings)

    def log_terms(self, terms: dict[str, Tensor], student: Tensor, batch_idx: int) -> None:
        """Log every `log_every` optimizer steps, straight to the loggers.

        `self.log` would repeat the last value in the row of every step until the epoch ends.
        """
        step = self.trainer.global_step
        first_of_step = batch_idx % self.trainer.accumulate_grad_batches == 0
        if step % self.log_every or not first_of_step:
            return
        z = student[0].detach()
        names = {"loss": "total"}
        values = {
            **{f"loss/{names.get(k, k)}": float(v.detach()) for k, v in terms.items()},
            "geometry/batch/sigma": geometry.sigma(z),
            "geometry/batch/mean_cosine": geometry.mean_cosine(z),
            "optim/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "optim/momentum": self.teacher.momentum(step, self.total_steps),
        }
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch, **values}, step)
        self.log_dict(values, logger=False)  # what the progress bar reads

    def configure_optimizers(self) -> Any:
        """AdamW, SGD or LARS with warm-up and cosine per optimizer step.

        Raises:
            UserError: neither epochs nor steps are limited.
        """
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        # Not trainer.estimated_stepping_batches: it makes the loader before Lightning restores
        # positions, and a run resumed inside an epoch would start that epoch's data anew.
        steps = math.ceil(data.steps_per_epoch / self.trainer.accumulate_grad_batches)
        limits = (self.trainer.max_steps, steps * (self.trainer.max_epochs or -1))
        self.total_steps = min((limit for limit in limits if limit > 0), default=0)
        if not self.total_steps:
            raise UserError("the run has no end: set trainer.max_epochs or trainer.max_steps.")
        optimizer, schedule = self.optim.build(
            self.student,
            global_batch=self.global_batch,
            total_steps=self.total_steps,
            steps_per_epoch=steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def global_batch(self) -> int:
        """Images per optimizer step, over all ranks and micro-batches."""
        loader = self.trainer.datamodule.batch_size  # pyright: ignore[reportAttributeAccessIssue]
        return loader * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The teacher moves here: once per optimizer step, not per micro-batch."""
        super().optimizer_step(*args, **kwargs)
        self.teacher.update(self.student, self.trainer.global_step, self.total_steps)
