"""Optimizers and their schedules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pnp import auto
from pnp.errors import UserError, choice, number


def cosine(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` (step 0) to `end` (step `total` and after).

    >>> cosine(0, 100, 0.99, 1.0), cosine(100, 100, 0.99, 1.0)
    (0.99, 1.0)
    """
    progress = min(max(step / total, 0.0), 1.0) if total > 0 else 1.0
    return end - (end - start) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_cosine(step: int, total: int, warmup: int, floor: float = 0.0) -> float:
    """Learning-rate factor: linear from 1/warmup to 1, then a cosine down to `floor`.

    Args:
        step: the optimizer step about to be taken, from 0.
        total: optimizer steps of the whole run.
        warmup: optimizer steps of linear warm-up; 0 starts at the top.
        floor: the factor at the end.

    >>> [round(warmup_cosine(s, 12, 2), 2) for s in (0, 1, 2, 7, 12)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return cosine(step - warmup, total - warmup, 1.0, floor)


NAMES = ("adamw", "sgd", "lars", "muon")


@dataclass(frozen=True)
class Optim:
    """Optimizer and schedule, as `conf/optim` sets them.

    Args:
        name: `adamw`, `sgd`, `lars` or `muon` (matrices and filters; AdamW for the rest).
        lr: peak learning rate per 256 images of the global batch (linear scaling).
        weight_decay: on matrices and filters only, never on biases, norms or other vectors.
        momentum: of sgd, lars and muon.
        betas: of adamw, and of muon for the rest.
        warmup_epochs: linear warm-up, in epochs (fractions allowed).
        final_lr: the last learning rate, as a share of the peak.

    Raises:
        UserError: an unknown name or a value out of range.
    """

    name: str = "adamw"
    lr: float | str = "auto"
    weight_decay: float = 0.05
    momentum: float = 0.9
    betas: Sequence[float] = (0.9, 0.95)
    warmup_epochs: float = 1.0
    final_lr: float = 0.0

    def __post_init__(self) -> None:
        choice("optim.name", self.name, NAMES)
        if self.lr == "auto" and self.name not in ("adamw", "muon"):
            raise UserError(f"optim.lr=auto is for adamw and muon: give {self.name} a number.")
        if self.lr != "auto":
            number("optim.lr", self.lr, 0, open_low=True)
        for key in ("weight_decay", "warmup_epochs"):
            number(f"optim.{key}", getattr(self, key), 0)
        number("optim.momentum", self.momentum, 0, 1, open_high=True)
        number("optim.final_lr", self.final_lr, 0, 1)
        if len(self.betas) != 2:
            raise UserError(f"optim.betas={list(self.betas)}: give two numbers in [0, 1).")
        for beta in self.betas:
            number("optim.betas", beta, 0, 1, open_high=True)

    def effective_lr(self, global_batch: int, total_steps: int) -> float:
        """Peak learning rate for a global batch of that many images in a run of that many steps."""
        lr = auto.learning_rate(total_steps) if isinstance(self.lr, str) else self.lr
        return lr * global_batch / 256

    def build(
        self,
        module: nn.Module,
        *,
        global_batch: int,
        total_steps: int,
        steps_per_epoch: float,
        constant: nn.Module | None = None,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """The optimizer over `module`'s trained parameters and its per-step schedule.

        Args:
            module: parameters without gradient (the teacher) are left out.
            global_batch: images per optimizer step over all ranks and micro-batches.
            total_steps: optimizer steps of the whole run.
            steps_per_epoch: optimizer steps per epoch, for the warm-up.
            constant: a part of `module` whose lr stays at the peak (SimSiam's predictor).
        """
        lr = self.effective_lr(global_batch, total_steps)
        steady = set(constant.parameters()) if constant is not None else set[nn.Parameter]()
        trained = [p for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in trained if (p.ndim > 1) == matrix and (p in steady) == still],
                "weight_decay": self.weight_decay if matrix else 0.0,
            }
            for still in ([False, True] if steady else [False])
            for matrix in (True, False)
        ]
        betas = (self.betas[0], self.betas[1])
        if self.name == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
        elif self.name == "sgd":
            optimizer = torch.optim.SGD(groups, lr=lr, momentum=self.momentum, fused=True)
        elif self.name == "muon":
            from timm.optim.muon import Muon  # torch's own leaves filters out

            optimizer = Muon(groups, lr=lr, momentum=self.momentum, nesterov=True, betas=betas)
        else:
            from timm.optim.lars import (
                Lars,
            )  # leaves groups without decay unadapted, as the paper does

            optimizer = Lars(groups, lr=lr, momentum=self.momentum)  # pyright: ignore[reportArgumentType]
        # Warm-up never takes more than a tenth of a short run.
        warmup = min(round(self.warmup_epochs * steps_per_epoch), total_steps // 10)

        def scheduled(step: int) -> float:
            return warmup_cosine(step, total_steps, warmup, self.final_lr)

        # The groups of `constant` come last.
        factors = [scheduled, scheduled, lambda _: 1.0, lambda _: 1.0][: len(groups)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return optimizer, schedule
