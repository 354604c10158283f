"""Networks of a method: backbone → projector → head, and the teacher that follows the student."""

from contextlib import nullcontext
from copy import deepcopy
from inspect import signature
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnp import auto
from pnp.errors import UserError, choice, near, number, whole
from pnp.geometry import unit, widened
from pnp.optim import cosine


class Network(nn.Module):
    """Backbone, then projector, then head: images to features, embeddings z and outputs.

    Args:
        backbone: images (N, C, H, W) to features (N, F).
        projector: features to z (N, D).
        head: z to the outputs (N, K) that the objective compares: a predictor or prototypes; None
            compares z itself.
        normalize: put z on the unit sphere before it goes on.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        head: nn.Module | None = None,
        *,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.projector, self.head = backbone, projector, head
        self.normalize, self.compiled = normalize, False

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F) and unit embeddings (N, D) in float32, for evaluation.

        Never compiled: evaluation mode and a last batch of another size would each cost a
        compilation, and CUDA graphs one recording per batch.
        """
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            features, z = self.encode(images)
        return features, unit(z)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F) and z (N, D) in float32, unit if `normalize`, for training."""
        features = self.backbone(images)
        z = self.projector(features)
        return features, unit(z) if self.normalize else widened(z)

    def outputs(self, z: Float[Tensor, "v n d"]) -> Float[Tensor, "v n k"]:
        """Outputs of the head, one view at a time; z itself if there is no head."""
        if self.head is None:
            return z
        return torch.stack([widened(self.head(view)) for view in z])


class Outputs(NamedTuple):
    """Outputs of the networks for V views of N images; the teacher sees the first W views.

    features (V, N, F), z (V, N, D), student (V, N, K) and teacher (W, N, K'): without gradient, or
    the student's own.
    """

    features: Tensor
    z: Tensor
    student: Tensor
    teacher: Tensor


def projector(
    dim: int, *, hidden: int = 512, out: int = 128, layers: int = 3, last_norm: bool = False
) -> nn.Sequential:
    """MLP with BatchNorm and ReLU between its `layers` linear maps.

    Args:
        dim: input features.
        hidden: width of the hidden layers.
        out: embedding dimensions D.
        layers: linear maps, at least 1.
        last_norm: end in a BatchNorm without scale and shift, as SimSiam's does.

    Raises:
        UserError: a size below 1.
    """
    for name, size in (("hidden", hidden), ("out", out), ("layers", layers)):
        whole(f"model.projector.{name}", size)
    blocks: list[nn.Module] = []
    for _ in range(layers - 1):
        # BatchNorm follows, so a bias would be subtracted again.
        blocks += [
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
        ]
        dim = hidden
    blocks.append(nn.Linear(dim, out, bias=False))
    if last_norm:
        blocks.append(nn.BatchNorm1d(out, affine=False))
    return nn.Sequential(*blocks)


def predictor(dim: int, *, hidden: int | None = None, out: int | None = None) -> nn.Sequential:
    """MLP of two linear maps that predicts the teacher's z from the student's (BYOL, SimSiam).

    Args:
        dim: input dimensions.
        hidden: width of the hidden layer; None is a quarter of `dim`, SimSiam's bottleneck.
        out: output dimensions; None is `dim`.

    Raises:
        UserError: a size below 1.
    """
    hidden = max(1, dim // 4) if hidden is None else hidden
    out = dim if out is None else out
    for name, size in (("hidden", hidden), ("out", out)):
        whole(f"method.head.{name}", size)
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
    )


class Prototypes(nn.Module):
    """Scalar products with `count` unit vectors: DINO's weight-normalised last layer, norm 1.

    Unit inputs give cosines; they become logits by a temperature of some hundredths, so they are
    computed in at least float32 (bf16 would be off by a tenth in the exponent).

    Args:
        dim: input dimensions.
        count: prototypes K.

    Raises:
        UserError: fewer than 2 prototypes.
    """

    def __init__(self, dim: int, *, count: int = 2048) -> None:
        super().__init__()
        whole("method.head.count", count, 2)
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Cosines (N, K) of unit z (N, D)."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z.to(self.weight.dtype), F.normalize(self.weight, dim=1))


HEADS = {"predictor": predictor, "prototypes": Prototypes}


def head(kind: str, dim: int, **options: Any) -> nn.Module:
    """Build the head that `method.head` describes.

    Args:
        kind: `predictor` or `prototypes`.
        dim: embedding dimensions D.
        options: keyword arguments of that head.

    Raises:
        UserError: an unknown kind or option.
    """
    choice("method.head.kind", kind, HEADS)
    names = [name for name in signature(HEADS[kind]).parameters if name != "dim"]
    for name in options:
        if name not in names:
            raise UserError(
                f"method.head.{name} is unknown: a {kind} head has {', '.join(names)}."
                f"{near(name, names)}"
            )
    return HEADS[kind](dim, **options)


Net = TypeVar("Net", bound=nn.Module)


class EMATeacher(nn.Module, Generic[Net]):
    """Exponential moving average of a student network: `t ← m·t + (1 − m)·s`.

    The momentum m follows a cosine from `momentum` at step 0 to `end` at the end of training.
    Integer and running-statistics buffers are copied. Its weights are an ordinary state dict, and
    the step comes from the caller: a resumed run continues the schedule where it stopped.

    Args:
        student: the network to copy.
        momentum: m at step 0; `auto` follows from the length of training, see `pnp.auto`.
        without: a submodule that only the student has (a predictor).
        end: m at the last step; None keeps it constant, for an average to evaluate.
        warmup: in step k m is at most (1 + k)/(10 + k): the start is forgotten in some 20 steps.

    Raises:
        UserError: a momentum outside [0, 1].
    """

    def __init__(
        self,
        student: Net,
        momentum: float | str = "auto",
        without: str | None = None,
        *,
        end: float | None = 1.0,
        warmup: bool = False,
    ) -> None:
        super().__init__()
        key = "method.momentum" if end is not None else "method.average"
        self.base = "auto" if momentum == "auto" else number(key, momentum, 0, 1)
        self.end, self.warmup = end, warmup
        self.network: Net = deepcopy(student).requires_grad_(False)
        if without:
            setattr(self.network, without, None)
        self._pairs: tuple[Any, ...] = (None, None)

    def momentum(self, step: int, total: int) -> float:
        """Momentum m for the `step`-th optimizer step (from 0) of `total`."""
        start = auto.momentum(total) if isinstance(self.base, str) else self.base
        momentum = cosine(step, total, start, start if self.end is None else self.end)
        return min(momentum, (1 + step) / (10 + step)) if self.warmup else momentum

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, total: int) -> float:
        """Move once towards `student`; return the momentum used."""
        momentum = self.momentum(step, total)
        device = next(student.parameters()).device
        if self._pairs[0] is not student or self._pairs[1] != device:  # moving renews buffers
            self._pairs = (student, device, *self._alike(student))
        # One fused call each: Python loops cost milliseconds, and a launch per tensor on a GPU.
        (own, others), *buffers = self._pairs[2:]
        torch._foreach_lerp_(own, others, 1.0 - momentum)  # pyright: ignore[reportPrivateImportUsage]
        for pair in buffers:
            torch._foreach_copy_(*pair)  # pyright: ignore[reportPrivateImportUsage]
        return momentum

    def _alike(self, student: nn.Module) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Own tensors and the student's: parameters, then buffers, those of one type together."""
        source = dict(student.named_parameters())
        target = dict(self.network.named_parameters())
        weights = list[Tensor](target.values())
        pairs = [(weights, [source[name].detach() for name in target])]
        source = dict(student.named_buffers())
        for floating in (True, False):  # a fused call wants one type
            buffers = {
                name: buffer
                for name, buffer in self.network.named_buffers()
                if buffer.is_floating_point() == floating
            }
            if buffers:
                pairs.append((list(buffers.values()), [source[name] for name in buffers]))
        return pairs
