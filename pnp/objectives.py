"""Objectives: named, weighted terms of the embeddings -> {"loss": …, every computed term}."""

from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnp import losses
from pnp.distributed import gather_images, global_mean
from pnp.errors import UserError

TERMS = ("alignment", "variance", "covariance", "repulsion")
DEFAULT_WEIGHTS = {"alignment": 1.0, "variance": 1.0, "covariance": 0.04, "repulsion": 1.0}


class PNP(nn.Module):
    """P¬P: local alignment plus global dispersion, `L = Σ weight_k · term_k`.

    Alignment compares the views of one image; variance, covariance and repulsion are statistics of
    the global batch: with several processes the embeddings of all of them are gathered first. Every
    term and the loss are those of the global batch on every rank; see `docs/distributed.md`.

    Args:
        weights: term -> weight; a term that is absent or weighs 0 is not computed.
        margin: cosine below which repulsion leaves a pair alone.
        kernel: repulsion kernel: `hinge`, `softplus` or `gaussian`.
        floor: variance floor, in units of 1/√D at scale `sphere`.
        scale: `sphere` (reachable on unit vectors) or `absolute` (VICReg's own).
        eps: inside the root of the variance term; relative to the floor at scale `sphere`.
        queue: images of earlier steps that repulsion also looks at, by the teacher's embedding of
            their first view (newest first); every forward in training mode adds its own. They get
            no gradient. In the first `queue` images of an epoch an image may meet its own embedding
            of the epoch before.

    Raises:
        UserError: an unknown term, scale or kernel, a negative weight, or no weight above 0.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        *,
        margin: float = 0.2,
        kernel: str = "hinge",
        floor: float = 1.0,
        scale: str = "sphere",
        eps: float = 1e-4,
        queue: int = 0,
    ) -> None:
        super().__init__()
        self.weights = _checked(DEFAULT_WEIGHTS if weights is None else weights)
        for name, value, known in (
            ("scale", scale, losses.SCALES),
            ("kernel", kernel, losses.KERNELS),
        ):
            if value not in known:
                raise UserError(
                    f"objective.{name}={value!r} is unknown; choose one of {', '.join(known)}."
                )
        for name, value in (("floor", floor), ("eps", eps)):
            if not value > 0:
                raise UserError(f"objective.{name}={value} must be above 0.")
        if not -1 <= margin < 1:
            raise UserError(f"objective.margin={margin} is a cosine: give a value in [-1, 1).")
        if queue < 0 or queue % 1:
            raise UserError(f"objective.queue={queue} must be a number of images, or 0 for none.")
        self.queue = int(queue) if "repulsion" in self.weights else 0
        self.past: Tensor | None
        # Saved with the module once there is something in it; its length says how full it is.
        self.register_buffer("past", None)
        self.register_load_state_dict_pre_hook(_make_room)  # pyright: ignore[reportUnknownMemberType]
        self.margin, self.kernel, self.floor, self.scale, self.eps = (
            margin,
            kernel,
            floor,
            scale,
            eps,
        )

    def forward(
        self,
        student: Float[Tensor, "v n d"],
        teacher: Float[Tensor, "w n d"],
        epoch: float = 0.0,
    ) -> dict[str, Tensor]:
        """The weighted sum as `"loss"`, and every computed raw (unweighted) term by name.

        Args:
            student: unit embeddings `(V, N, D)` of this process's images.
            teacher: unit embeddings `(W, N, D)` of the same images, without gradient.
            epoch: unused here; objectives with schedules ask for it.
        """
        everyone, own = student, None
        if self.weights.keys() - {"alignment"}:
            # What the queue will take travels with the student: one collective.
            sent = torch.cat([student, teacher[:1].detach()]) if self.queue else student
            everyone, own = gather_images(sent, dim=1)
        z = everyone[: len(student)]
        compute = {
            "alignment": lambda: global_mean(losses.alignment(student, teacher), student.shape[1]),
            "variance": lambda: losses.variance(z, self.floor, self.scale, self.eps),
            "covariance": lambda: losses.covariance(z, self.scale, own),
            "repulsion": lambda: losses.repulsion(
                z, self.margin, self.kernel, past=self.past, own=own
            ),
        }
        terms = {name: compute[name]() for name in self.weights}
        loss = sum(
            (weight * terms[name] for name, weight in self.weights.items()), student.new_zeros(())
        )
        if self.queue and self.training:
            new = everyone[-1].detach()
            old = new[:0] if self.past is None else self.past.to(new)
            self.past = torch.cat([new, old])[: self.queue].clone()
        return {"loss": loss, **terms}

    def extra_repr(self) -> str:
        """The formula at a glance, for logs."""
        formula = " + ".join(f"{weight:g}·{name}" for name, weight in self.weights.items())
        return (
            f"{formula}, scale={self.scale}, kernel={self.kernel}, margin={self.margin:g}, "
            f"queue={self.queue}"
        )


def _make_room(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Take over the shape of a saved queue: it depends on D and on how full it was."""
    saved = state_dict.get(f"{prefix}past")
    if saved is not None and isinstance(module, PNP) and module.queue:
        module.past = torch.empty_like(saved)


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    """The positive weights, in the order of TERMS; anything odd is named."""
    for name, weight in weights.items():
        if name not in TERMS:
            near = get_close_matches(str(name), TERMS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"objective.weights has an unknown term {name!r}; known: {', '.join(TERMS)}.{hint}"
            )
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise UserError(f"objective.weights.{name}={weight!r} is not a number.")
        if not 0 <= weight < float("inf"):
            raise UserError(f"objective.weights.{name}={weight} must be finite and not negative.")
    active = {name: float(weights[name]) for name in TERMS if weights.get(name, 0) > 0}
    if not active:
        raise UserError("objective.weights are all 0: give at least one term a weight above 0.")
    return active
