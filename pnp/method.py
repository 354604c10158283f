"""The LightningModule: views -> student -> teacher -> objective -> log -> return."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnp import geometry
from pnp.compiling import check_cuda_graphs, compile_parts
from pnp.data import Batch
from pnp.distributed import average_gradients, rank
from pnp.errors import UserError
from pnp.geometry import unit
from pnp.networks import EMATeacher, Network, frozen_buffers
from pnp.optim import Optim
from pnp.seeds import generator, step_seed
from pnp.views import Views

TEACHERS = ("ema", "stop_gradient", "none")


class Outputs(NamedTuple):
    """What the networks make of a batch: V views of N images, the teacher sees the first W of them.

    features (V, N, F), z (V, N, D), student (V, N, K) and teacher (W, N, K'), without gradient.
    """

    features: Tensor
    z: Tensor
    student: Tensor
    teacher: Tensor


class SelfSupervised(L.LightningModule):
    """Student, teacher and objective: the one skeleton of every method.

    Args:
        backbone: see `pnp.backbones`.
        projector: see `pnp.networks`.
        objective: (student outputs, teacher outputs, epoch) -> {"loss", terms}.
        views: see `pnp.views`; at least 2 views.
        optim: see `pnp.optim`.
        head: predictor or prototypes after the projector; see `pnp.networks`.
        teacher: `ema` (a moving average of the student), `stop_gradient` (the student's own z) or
            `none` (the student's own outputs, for objectives that ask for no target).
        momentum: of the EMA teacher, at step 0; see `pnp.networks`.
        predicts: the head is a predictor, which the teacher has not.
        normalize: unit z; see `pnp.networks`.
        freeze_head_epochs: epochs in which the head is not trained (DINO's last layer).
        constant_head_lr: keep the head's learning rate at the peak (SimSiam's predictor).
        micro_batch: images per forward; a larger batch is embedded in pieces of that size and the
            objective still sees all of it. None takes the batch whole.
        concat_views: one forward for all views, so that BatchNorm sees them together; `auto` does
            so on a GPU, where it is faster, and takes them one by one on a CPU, where that is.
        compile: parts that go through torch.compile, see `pnp.compiling`.
        cuda_graphs: replay the compiled encoder as CUDA graphs, for batches that do not fill a GPU.
        seed: owns every random draw of training.
        log_every: optimizer steps between two logged values: logging each step costs 1 ms of it.
        channels_last: keep filters and images in the channels-last memory format.

    Raises:
        UserError: fewer than 2 views, or an option out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        objective: nn.Module,
        views: Views,
        optim: Optim | None = None,
        *,
        head: nn.Module | None = None,
        teacher: str = "ema",
        momentum: float = 0.99,
        predicts: bool = False,
        normalize: bool = True,
        freeze_head_epochs: int = 0,
        constant_head_lr: bool = False,
        micro_batch: int | None = None,
        concat_views: bool | str = "auto",
        compile: bool | Sequence[str] = False,
        cuda_graphs: bool = False,
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
        if teacher not in TEACHERS:
            raise UserError(f"method.teacher={teacher!r}: choose one of {', '.join(TEACHERS)}.")
        if concat_views not in (True, False, "auto"):
            raise UserError(f"method.concat_views={concat_views!r}: choose auto, true or false.")
        if (constant_head_lr or freeze_head_epochs) and head is None:
            raise UserError("method.constant_head_lr and freeze_head_epochs need a method.head.")
        self.student = Network(backbone, projector, head, normalize=normalize)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.student.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]
        self.kind = teacher
        without = "head" if predicts else None
        self.teacher = EMATeacher(self.student, momentum, without) if teacher == "ema" else None
        self.objective = objective
        self.views = views
        self.cuda_graphs = cuda_graphs
        compile_parts(compile, self.networks, views, objective, cuda_graphs=cuda_graphs)
        self.optim = optim or Optim()
        self.freeze_head_epochs, self.constant_head_lr = freeze_head_epochs, constant_head_lr
        self.micro_batch, self.concat_views = micro_batch, concat_views
        self.seed, self.log_every = seed, log_every
        self.total_steps = 0  # known once there is a trainer
        self.steps_per_epoch = 1
        self._again: tuple[list[Batch], Tensor, int] | None = None

    @property
    def networks(self) -> dict[str, Network]:
        """What there is to judge: the student, and the teacher if it has weights of its own."""
        if self.teacher is None:
            return {"student": self.student}
        return {"student": self.student, "teacher": self.teacher.network}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One batch of the loader; callbacks read what it returns."""
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the last step's outputs may be overwritten
        pieces = batch.split(self.micro_batch or len(batch.images))
        whole = len(pieces) == 1
        outputs = self.embed(batch, batch_idx) if whole else self.embed_all(pieces, batch_idx)
        epoch = self.trainer.global_step / self.steps_per_epoch
        terms = self.objective(outputs.student, outputs.teacher, epoch=epoch)
        embeddings = unit(outputs.z.detach())
        self.log_terms(terms, embeddings[0], batch_idx)
        return {
            "loss": terms["loss"],
            "terms": {name: term.detach() for name, term in terms.items()},
            "embeddings": embeddings,
            "features": outputs.features.detach(),
            "labels": batch.labels,
        }

    def draws(self, batch_idx: int) -> torch.Generator:
        """The step's own random numbers.

        A function of (seed, epoch, batch, rank), so that a resumed run draws what the unbroken one
        would have drawn.
        """
        return generator(*self._key(batch_idx), device=self.device)

    def embed(
        self,
        batch: Batch,
        batch_idx: int,
        piece: int = 0,
        draws: torch.Generator | None = None,
        *,
        targets: bool = True,
    ) -> Outputs:
        """What student and teacher make of augmented images.

        Args:
            batch: the images.
            batch_idx: names the draws.
            piece: which part of the batch this is.
            draws: where the draws of the batch have come to; None starts them.
            targets: False leaves the teacher out (its place is empty).
        """
        draws = draws or self.draws(batch_idx)
        # Dropout draws from the global stream: the same key owns it.
        torch.manual_seed(step_seed(*self._key(batch_idx), 1 + piece))
        crops = [self.views(batch.images, draws)]
        if self.views.local:
            crops.append(self.views.local_views(batch.images, draws))
        features, z = self.encode(self.student, crops)
        student = self.student.outputs(z)
        teacher = student[: self.views.count].detach()
        if not targets:
            teacher = teacher[:0]
        elif self.teacher is not None:
            with torch.no_grad():
                _, t = self.encode(self.teacher.network, crops[:1])
                teacher = self.teacher.network.outputs(t)
        elif self.kind == "stop_gradient":
            teacher = z[: self.views.count].detach()
        return Outputs(features, z, student, teacher)

    def encode(
        self, network: Network, crops: list[Tensor]
    ) -> tuple[Float[Tensor, "v n f"], Float[Tensor, "v n d"]]:
        """Features and z of every view; see `concat_views` for what BatchNorm sees.

        Args:
            network: student or teacher.
            crops: views (V, N, C, S, S), one tensor per size.
        """
        together = self.concat_views
        if together == "auto":
            together = self.device.type == "cuda"
        features, z = [], []
        for views in crops:
            inputs = [views.flatten(0, 1)] if together else list(views)
            for images in inputs:
                f, e = network.encode(images.contiguous(memory_format=self.memory_format))
                count = len(views) // len(inputs)
                features.append(f.unflatten(0, (count, -1)))
                z.append(e.unflatten(0, (count, -1)))
        return torch.cat(features), torch.cat(z)

    def embed_all(self, pieces: list[Batch], batch_idx: int) -> Outputs:
        """Outputs of a batch that does not fit: gradient caching (Gao et al. 2021).

        The pieces are embedded without a graph and the objective sees all of them; `backward` then
        embeds each piece once more, with the same draws, and gives it its share of dL/d outputs.
        """
        draws = self.draws(batch_idx)
        with torch.no_grad(), frozen_buffers(self.student):
            parts = [self.embed(piece, batch_idx, i, draws) for i, piece in enumerate(pieces)]
        joined = Outputs(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
        leaf = joined.student.requires_grad_()
        self._again = (pieces, leaf, batch_idx)
        return joined._replace(student=leaf)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Down to the weights; by way of the cached outputs if the batch came in pieces."""
        loss.backward(*args, **kwargs)
        if self.micro_batch is None:
            return
        if self._again is not None:
            (pieces, leaf, batch_idx), self._again = self._again, None
            assert leaf.grad is not None
            draws, sizes = self.draws(batch_idx), [len(piece.images) for piece in pieces]
            for i, (piece, grad) in enumerate(zip(pieces, leaf.grad.split(sizes, 1), strict=True)):
                with self.trainer.precision_plugin.forward_context():
                    student = self.embed(piece, batch_idx, i, draws, targets=False).student
                student.backward(grad)
        average_gradients(self.student)

    def on_fit_start(self) -> None:
        """Gradients of pieces are averaged over ranks once, by `backward`, not after each piece.

        Raises:
            UserError: CUDA graphs that cannot be.
        """
        if self.cuda_graphs:
            whole = self.micro_batch is None and self.trainer.accumulate_grad_batches == 1
            check_cuda_graphs(self.device, self.trainer.world_size, whole=whole)
        if self.micro_batch and self.trainer.world_size > 1:
            model: Any = self.trainer.model
            model.require_backward_grad_sync = False

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Hold the head still for its first epochs."""
        if self.current_epoch < self.freeze_head_epochs and self.student.head is not None:
            for parameter in self.student.head.parameters():
                parameter.grad = None

    def log_terms(self, terms: dict[str, Tensor], z: Tensor, batch_idx: int) -> None:
        """Log every `log_every` optimizer steps, straight to the loggers.

        `self.log` would repeat the last value in the row of every step until the epoch ends.
        """
        step = self.trainer.global_step
        first_of_step = batch_idx % self.trainer.accumulate_grad_batches == 0
        if step % self.log_every or not first_of_step:
            return
        names = {"loss": "total"}
        values = {
            **{f"loss/{names.get(k, k)}": float(v.detach()) for k, v in terms.items()},
            "geometry/batch/sigma": geometry.sigma(z),
            "geometry/batch/mean_cosine": geometry.mean_cosine(z),
            "optim/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        if self.teacher is not None:
            values["optim/momentum"] = self.teacher.momentum(step, self.total_steps)
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
        self.steps_per_epoch = math.ceil(
            data.steps_per_epoch / self.trainer.accumulate_grad_batches
        )
        limits = (self.trainer.max_steps, self.steps_per_epoch * (self.trainer.max_epochs or -1))
        self.total_steps = min((limit for limit in limits if limit > 0), default=0)
        if not self.total_steps:
            raise UserError("the run has no end: set trainer.max_epochs or trainer.max_steps.")
        optimizer, schedule = self.optim.build(
            self.student,
            global_batch=self.global_batch,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            constant=self.student.head if self.constant_head_lr else None,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def global_batch(self) -> int:
        """Images per optimizer step, over all ranks and micro-batches."""
        loader = self.trainer.datamodule.loader_batch  # pyright: ignore[reportAttributeAccessIssue]
        return loader * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The teacher moves here: once per optimizer step, not per micro-batch."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            self.teacher.update(self.student, self.trainer.global_step, self.total_steps)

    def _key(self, batch_idx: int) -> tuple[int, int, int, int]:
        return self.seed, self.current_epoch, batch_idx, rank()
