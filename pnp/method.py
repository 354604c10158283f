"""The LightningModule: views → student → teacher → objective → log → return."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnp import auto, geometry, micro_batches
from pnp.compiling import check_cuda_graphs, compile_parts
from pnp.data.loader import as_batch
from pnp.distributed import average_gradients, rank
from pnp.errors import UserError, choice, whole
from pnp.geometry import unit
from pnp.networks import EMATeacher, Network, Outputs
from pnp.optim import Optim
from pnp.seeds import generator, step_seed
from pnp.views import Views

TEACHERS = ("ema", "stop_gradient", "none")


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
            `none` (the student's own outputs, with gradient through both sides).
        momentum: of the EMA teacher, at step 0; `auto` follows from the number of steps.
        momentum_warmup: let the teacher forget its start in the first steps, see `pnp.networks`.
        average: constant momentum of a moving average of the student that is evaluated beside it
            and changes nothing in training; `auto` as for the teacher, None for no average.
        predicts: the head is a predictor; the teacher gets none.
        normalize: unit z; see `pnp.networks`.
        freeze_head_epochs: epochs in which the head is not trained (DINO's last layer).
        constant_head_lr: keep the head's learning rate at the peak (SimSiam's predictor).
        micro_batch: images per forward pass; a larger batch is embedded in pieces of that size,
            see `pnp.micro_batches`, and the objective still sees all of it. None: no pieces.
        concat_views: one forward pass for all views, so that BatchNorm sees them together; `auto`
            does so on a GPU and takes them one by one on a CPU: the faster way on each.
        compile: parts that go through torch.compile, see `pnp.compiling`.
        cuda_graphs: replay the compiled encoder as CUDA graphs, for batches too small to fill a
            GPU.
        seed: owns every random draw of training.
        log_every: optimizer steps between two logged values, or `auto`; logging a step takes 1 ms.
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
        momentum: float | str = "auto",
        momentum_warmup: bool = False,
        average: float | str | None = None,
        predicts: bool = False,
        normalize: bool = True,
        freeze_head_epochs: int = 0,
        constant_head_lr: bool = False,
        micro_batch: int | None = None,
        concat_views: bool | str = "auto",
        compile: bool | Sequence[str] = False,
        cuda_graphs: bool = False,
        seed: int = 0,
        log_every: int | str = "auto",
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if views.count < 2:
            raise UserError(
                f"views.count={views.count}: alignment compares views, give at least 2."
            )
        if log_every != "auto":
            whole("method.log_every", log_every)
        choice("method.teacher", teacher, TEACHERS)
        choice("method.concat_views", concat_views, ("auto", True, False))
        if (constant_head_lr or freeze_head_epochs) and head is None:
            raise UserError("method.constant_head_lr and freeze_head_epochs need a method.head.")
        if momentum_warmup and teacher != "ema":
            raise UserError(
                f"method.momentum_warmup has no effect: method.teacher={teacher} has no momentum."
            )
        self.student = Network(backbone, projector, head, normalize=normalize)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.student.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]
        self.kind = teacher
        without = "head" if predicts else None
        self.teacher = self.average = None
        if teacher == "ema":
            self.teacher = EMATeacher(self.student, momentum, without, warmup=momentum_warmup)
        if average is not None:
            self.average = EMATeacher(self.student, average, "head", end=None, warmup=True)
        self.objective = objective
        self.views = views
        self.cuda_graphs = cuda_graphs
        compile_parts(compile, self.networks, views, objective, cuda_graphs=cuda_graphs)
        self.optim = optim or Optim()
        self.freeze_head_epochs, self.constant_head_lr = freeze_head_epochs, constant_head_lr
        self.micro_batch, self.concat_views = micro_batch, concat_views
        self.seed, self.log_every = seed, log_every
        self.total_steps = 0  # set once there is a trainer
        self.steps_per_epoch = 1
        self.logged: dict[str, float] = {}  # the last values that went to the loggers

    @property
    def together(self) -> bool:
        """`concat_views`, resolved: all views in one forward."""
        return (
            self.device.type == "cuda" if self.concat_views == "auto" else self.concat_views is True
        )

    @property
    def networks(self) -> dict[str, Network]:
        """Networks to evaluate: the student and, if they exist, the EMA teacher and the average."""
        others = {"teacher": self.teacher, "average": self.average}
        present = {name: ema.network for name, ema in others.items() if ema is not None}
        return {"student": self.student, **present}

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Views → student → teacher → objective → log; callbacks read what this returns."""
        batch = as_batch(batch)
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the last step's outputs may be overwritten
        outputs = self.embed(batch.images, batch_idx)
        epoch = self.trainer.global_step / self.steps_per_epoch
        terms = self.objective(outputs.student, outputs.teacher, epoch=epoch)
        embeddings = unit(outputs.z.detach())
        self.log_terms(terms, embeddings[0], batch_idx)
        return {
            "loss": terms["loss"],
            "terms": {name: term.detach() for name, term in terms.items()},
            "embeddings": embeddings,
            "student": outputs.student.detach(),
            "teacher": outputs.teacher.detach(),
            "features": outputs.features.detach(),
            "labels": batch.labels,
        }

    def embed(self, images: UInt8[Tensor, "n c h w"], batch_idx: int) -> Outputs:
        """Views → student → teacher, in micro-batches where the batch is larger than one."""
        forward, draws = partial(self.embed_piece, batch_idx), partial(self.draws, batch_idx)
        if self.micro_batch is None or len(images) <= self.micro_batch:
            outputs = forward(images, draws())
        else:
            pieces = images.split(self.micro_batch)
            autocast = self.trainer.precision_plugin.forward_context
            outputs = micro_batches.embed(forward, pieces, draws, self.student, autocast)
        if self.kind == "none":
            return outputs._replace(teacher=outputs.student[: self.views.count])
        return outputs

    def embed_piece(
        self,
        batch_idx: int,
        images: UInt8[Tensor, "n c h w"],
        draws: torch.Generator,
        piece: int = 0,
        *,
        targets: bool = True,
    ) -> Outputs:
        """Views → student → teacher.

        Args:
            batch_idx: number of the batch in this epoch.
            images: the batch, or a piece of it.
            draws: random numbers of the batch, where the pieces before this one have left them.
            piece: number of the piece.
            targets: False leaves the teacher's outputs empty.
        """
        # Dropout draws from the global stream: the same key owns it.
        torch.manual_seed(step_seed(*self._key(batch_idx), 1 + piece))
        views = self.augment(images, draws)
        features, z = self.encode(self.student, views)
        student = self.student.outputs(z)
        teacher = self.targets(views, z, student) if targets else student[:0].detach()
        return Outputs(features, z, student, teacher)

    def draws(self, batch_idx: int) -> torch.Generator:
        """Random numbers of one step, a function of (seed, epoch, batch, rank).

        A resumed run draws what the unbroken run would have drawn.
        """
        return generator(*self._key(batch_idx), device=self.device)

    def augment(
        self, images: UInt8[Tensor, "n c h w"], draws: torch.Generator
    ) -> list[Float[Tensor, "v n c s s"]]:
        """Views of the images, then local views if there are any: one tensor per size."""
        views = [self.views(images, draws)]
        if self.views.local:
            views.append(self.views.local_views(images, draws))
        return views

    def encode(
        self, network: Network, views: list[Tensor]
    ) -> tuple[Float[Tensor, "v n f"], Float[Tensor, "v n d"]]:
        """Features and z of all views; `concat_views` decides what BatchNorm sees together.

        Args:
            network: student or teacher.
            views: (V, N, C, S, S), one tensor per size.
        """
        features, z = [], []
        for same_size in views:
            for part in [same_size] if self.together else same_size.split(1):
                images = part.flatten(0, 1).contiguous(memory_format=self.memory_format)
                for outputs, output in zip((features, z), network.encode(images), strict=True):
                    outputs.append(output.unflatten(0, part.shape[:2]))
        return torch.cat(features), torch.cat(z)

    @torch.no_grad()
    def targets(
        self,
        views: list[Tensor],
        z: Float[Tensor, "v n d"],
        student: Float[Tensor, "v n k"],
    ) -> Float[Tensor, "w n k2"]:
        """Outputs of the teacher for the W views that are not local."""
        if self.teacher is not None:
            _, t = self.encode(self.teacher.network, views[:1])
            return self.teacher.network.outputs(t)
        return (z if self.kind == "stop_gradient" else student)[: self.views.count].detach()

    def on_after_backward(self) -> None:
        """Average the gradients of micro-batches over ranks: once per batch, not per piece."""
        if self.micro_batch is not None:
            average_gradients(self.student)

    def on_fit_start(self) -> None:
        """Keep DDP from averaging after each piece of a batch.

        Raises:
            UserError: CUDA graphs are not possible in this setup.
        """
        if self.cuda_graphs:
            whole = self.micro_batch is None and self.trainer.accumulate_grad_batches == 1
            check_cuda_graphs(self.device, self.trainer.world_size, whole=whole)
        if self.micro_batch and self.trainer.world_size > 1:
            model: Any = self.trainer.model
            model.require_backward_grad_sync = False

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Freeze the head in the first epochs."""
        if self.current_epoch < self.freeze_head_epochs and self.student.head is not None:
            for parameter in self.student.head.parameters():
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients; Lightning's own way refuses fused optimizers in mixed precision.

        A fused optimizer divides the gradients of 16-mixed by their scale in its step: they are
        still scaled here, and so is the limit.
        """
        if not gradient_clip_val:
            return
        scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
        limit = gradient_clip_val
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            limit *= scaler.get_scale()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(parameters, limit)
        else:
            nn.utils.clip_grad_norm_(parameters, limit)

    def log_terms(self, terms: dict[str, Tensor], z: Tensor, batch_idx: int) -> None:
        """Log every `log_every` optimizer steps, straight to the loggers.

        `self.log` would repeat the last value in the row of every step until the epoch ends, and
        copy every value to the device, which waits. `logged` is for the progress bar.
        """
        step = self.trainer.global_step
        first_of_step = batch_idx % self.trainer.accumulate_grad_batches == 0
        every = self.log_every
        every = auto.log_every(self.total_steps) if isinstance(every, str) else every
        if step % every or not first_of_step:
            return
        # Every read from a GPU waits for all of the step: one for the terms, one for z.
        numbers = torch.stack([term.detach().double() for term in terms.values()]).tolist()
        names, z = {"loss": "total"}, z.cpu()
        values = {
            **self.compute_seen(step + 1),
            **{f"loss/{names.get(k, k)}": v for k, v in zip(terms, numbers, strict=True)},
            "geometry/batch/sigma": geometry.sigma(z),
            "geometry/batch/mean_cosine": geometry.mean_cosine(z),
            "optim/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        if self.teacher is not None:
            values["optim/momentum"] = self.teacher.momentum(step, self.total_steps)
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch, **values}, step)
        self.logged = values

    def compute_seen(self, step: int) -> dict[str, float]:
        """Images that `step` optimizer steps see, and forward passes per training image.

        A pass is one view through the student or the teacher; local views count as whole ones.
        """
        images = step * self.global_batch
        data = getattr(getattr(self.trainer, "datamodule", None), "pretrain", None)
        passes = self.views.count * (1 + (self.teacher is not None)) + self.views.local
        each = {} if data is None else {"forwards_per_image": images * passes / len(data)}
        return {"images_seen": images, **each}

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule, which moves with every optimizer step.

        Raises:
            UserError: neither epochs nor steps are limited.
        """
        batches = self._batches_per_epoch()
        if math.isinf(batches):  # a stream without a length: the run is one epoch
            batches = max(1, self.trainer.max_steps * self.trainer.accumulate_grad_batches)
        if batches < 1:
            raise UserError(
                f"trainer.limit_train_batches={self.trainer.limit_train_batches}: no batch is left "
                "to train on. Give a whole number of batches, or a larger share of them."
            )
        self.steps_per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
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

    def _batches_per_epoch(self) -> float:
        """Batches of an epoch on this rank, within `limit_train_batches`; inf of a stream."""
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not hasattr(data, "steps_per_epoch"):
            self.trainer.fit_loop.setup_data()
            return self.trainer.num_training_batches
        # Not trainer.estimated_stepping_batches: it makes the loader before Lightning restores
        # positions, so that a run resumed inside an epoch would restart that epoch's data.
        batches, limit = data.steps_per_epoch, self.trainer.limit_train_batches
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    @property
    def global_batch(self) -> int:
        """Images per optimizer step, over all ranks and micro-batches.

        Raises:
            UserError: the loader does not tell its batch size.
        """
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        images = getattr(data, "loader_batch", None)
        if images is None:
            loader: Any = self.trainer.train_dataloader
            images = getattr(loader, "batch_size", None)
            images = images or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
        if images is None:
            raise UserError(
                "the training loader does not tell its batch_size, which the learning rate follows:"
                " give it an attribute batch_size, or use pnp.data.DataModule.from_arrays."
            )
        return images * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the averages: once per optimizer step, not per micro-batch."""
        super().optimizer_step(*args, **kwargs)
        for average in (self.teacher, self.average):
            if average is not None:
                average.update(self.student, self.trainer.global_step, self.total_steps)

    def _key(self, batch_idx: int) -> tuple[int, int, int, int]:
        return self.seed, self.current_epoch, batch_idx, rank()
