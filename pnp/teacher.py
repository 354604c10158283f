"""The EMA teacher: a copy of the student that moves once per optimizer step."""

from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pnp.errors import UserError
from pnp.schedules import cosine

Net = TypeVar("Net", bound=nn.Module)


class EMATeacher(nn.Module, Generic[Net]):
    """Exponential moving average of a student network: `t ← m·t + (1 − m)·s`.

    The momentum m follows a cosine from `momentum` at step 0 to 1 at the end of training. Integer
    and running-statistics buffers are copied. Its weights are an ordinary state dict, and the step
    comes from the caller: a resumed run continues the schedule where it stopped.

    Args:
        student: the network to copy.
        momentum: m at step 0.
        without: a submodule that only the student has (a predictor).

    Raises:
        UserError: a momentum outside [0, 1].
    """

    def __init__(self, student: Net, momentum: float = 0.99, without: str | None = None) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise UserError(f"teacher.momentum={momentum} must lie in [0, 1].")
        self.base = momentum
        self.network: Net = deepcopy(student).requires_grad_(False)
        if without:
            setattr(self.network, without, None)

    def momentum(self, step: int, total: int) -> float:
        """Momentum m for the `step`-th optimizer step (from 0) of `total`."""
        return cosine(step, total, self.base, 1.0)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        """What the network returns, without gradient."""
        return self.network(images)

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, total: int) -> float:
        """Move once towards `student`; returns the momentum used."""
        momentum = self.momentum(step, total)
        theirs = dict(student.named_parameters())
        mine = dict(self.network.named_parameters())
        # One fused call each: Python loops cost milliseconds, and a launch per tensor on a GPU.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            list(mine.values()), [theirs[name].detach() for name in mine], 1.0 - momentum
        )
        theirs = dict(student.named_buffers())
        for floating in (True, False):  # a fused call wants one type
            buffers = {
                name: buffer
                for name, buffer in self.network.named_buffers()
                if buffer.is_floating_point() == floating
            }
            if buffers:
                torch._foreach_copy_(list(buffers.values()), [theirs[name] for name in buffers])  # pyright: ignore[reportPrivateImportUsage]
        return momentum
