"""Objectives: named, weighted terms of the embeddings -> {"loss": …, every computed term}."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from pnp import losses
from pnp.distributed import gather_images, global_mean
from pnp.errors import UserError, choice, near, number

TERMS = ("alignment", "variance", "covariance", "repulsion", "coding_rate")
DEFAULT_WEIGHTS = {"alignment": 1.0, "variance": 1.0, "covariance": 0.04, "repulsion": 1.0}


class PNP(nn.Module):
    """P¬P: local alignment plus global dispersion, `L = Σ weight_k · term_k`.

    Alignment compares the views of one image; the other terms are statistics of the global batch:
    with several processes the embeddings of all of them are gathered first. Every term and the loss
    are those of the global batch on every rank; see `docs/distributed.md`.

    Args:
        weights: term -> weight; a term that is absent or weighs 0 is not computed.
        margin: cosine below which repulsion leaves a pair alone.
        kernel: repulsion kernel: `hinge`, `softplus`, `gaussian` or `logsumexp`.
        t: concentration of the gaussian kernel.
        beta: sharpness of the softplus kernel.
        temperature: of the logsumexp kernel.
        decoupled: leave an anchor's own views out of the logsumexp kernel.
        distortion: ε² of the coding rate.
        target: what alignment compares a view with: `pairs` or `mean` of the other views.
        floor: variance floor, in units of 1/√D at scale `sphere`.
        scale: `sphere` (reachable on unit vectors) or `absolute` (VICReg's own).
        eps: inside the root of the variance term; relative to the floor at scale `sphere`.

    Raises:
        UserError: an unknown term or choice, a value out of range, or no weight above 0.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        *,
        margin: float = 0.2,
        kernel: str = "hinge",
        t: float = 2.0,
        beta: float = 1.0,
        temperature: float = 0.2,
        decoupled: bool = True,
        distortion: float = 0.2,
        target: str = "pairs",
        floor: float = 1.0,
        scale: str = "sphere",
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.weights = _checked(DEFAULT_WEIGHTS if weights is None else weights)
        choice("objective.scale", scale, losses.SCALES)
        choice("objective.kernel", kernel, losses.KERNELS)
        number("objective.floor", floor, 0, open_low=True)
        number("objective.eps", eps, 0, open_low=True)
        number("objective.margin", margin, -1, 1, open_high=True)  # a cosine
        choice("objective.target", target, losses.TARGETS)
        choice("objective.decoupled", decoupled, (True, False))
        positive = {"t": t, "beta": beta, "temperature": temperature, "distortion": distortion}
        for name, value in positive.items():
            number(f"objective.{name}", value, 0, open_low=True)
        self.margin, self.kernel, self.target = margin, kernel, target
        self.t, self.beta, self.temperature, self.decoupled = t, beta, temperature, decoupled
        self.floor, self.scale, self.eps, self.distortion = floor, scale, eps, distortion

    def forward(
        self,
        student: Float[Tensor, "v n d"],
        teacher: Float[Tensor, "w n d"],
        epoch: float = 0.0,
    ) -> dict[str, Tensor]:
        """The weighted sum as `"loss"`, and every computed raw (unweighted) term by name.

        Args:
            student: unit embeddings `(V, N, D)` of this process's images.
            teacher: unit embeddings `(W, N, D)` of the same images: without gradient, or the
                student's own.
            epoch: unused here; objectives with schedules ask for it.
        """
        # An alias sums the gradients of the global terms before that of alignment is added: the
        # order of version 0.1, to the last bit.
        z, own = student[:], None
        if self.weights.keys() - {"alignment"}:
            z, own = gather_images(z, dim=1)
        compute = {
            "alignment": lambda: global_mean(
                losses.alignment(student, teacher, self.target), student.shape[1]
            ),
            "variance": lambda: losses.variance(z, self.floor, self.scale, self.eps),
            "covariance": lambda: losses.covariance(z, self.scale, own),
            "repulsion": lambda: losses.repulsion(
                z,
                self.margin,
                self.kernel,
                self.t,
                self.beta,
                own,
                temperature=self.temperature,
                decoupled=self.decoupled,
            ),
            "coding_rate": lambda: losses.coding_rate(z, self.distortion, own),
        }
        terms = {name: compute[name]() for name in self.weights}
        loss = sum(
            (weight * terms[name] for name, weight in self.weights.items()), student.new_zeros(())
        )
        return {"loss": loss, **terms}

    def extra_repr(self) -> str:
        """The formula at a glance, for logs."""
        formula = " + ".join(f"{weight:g}·{name}" for name, weight in self.weights.items())
        return f"{formula}, scale={self.scale}, kernel={self.kernel}, margin={self.margin:g}"


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    """The positive weights, in the order of TERMS."""
    for name, weight in weights.items():
        if name not in TERMS:
            raise UserError(
                f"objective.weights has an unknown term {name!r}; known: {', '.join(TERMS)}."
                f"{near(name, TERMS)}"
            )
        number(f"objective.weights.{name}", weight, 0)
    active = {name: float(weights[name]) for name in TERMS if weights.get(name, 0) > 0}
    if not active:
        raise UserError("objective.weights are all 0: give at least one term a weight above 0.")
    return active
