"""The terms of the objective: pure functions of unit embeddings, in float32 or float64.

z[v, i] is the embedding of view v of image i: `(V, N, D)`. Repulsion, covariance and coding rate
are computed in closed form, see `pnp.dispersion`.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pnp import dispersion
from pnp.errors import UserError, choice
from pnp.geometry import unit, widened

SCALES = ("sphere", "absolute")
KERNELS = ("hinge", "softplus", "gaussian", "logsumexp")
TARGETS = ("pairs", "mean")

_P = ParamSpec("_P")


def _full_precision(term: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Compute `term` in at least float32: in bf16 a batch statistic keeps two or three digits."""

    @wraps(term)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        tensors = [a for a in args if isinstance(a, Tensor)]
        device = (tensors or [a for a in kwargs.values() if isinstance(a, Tensor)])[0].device.type
        with torch.autocast(device, enabled=False):
            return term(*args, **kwargs)

    return wrapped


def _check(z: Tensor, what: str, dims: tuple[int, ...] = (3,)) -> None:
    if z.ndim not in dims:
        shapes = " or ".join({2: "(N, D)", 3: "(V, N, D)"}[d] for d in dims)
        raise UserError(f"{what} expects embeddings of shape {shapes}, got {tuple(z.shape)}.")
    if z.shape[-2] < 2:
        raise UserError(
            f"{what} is a statistic of a batch: it needs at least 2 images, got {z.shape[-2]} "
            f"(shape {tuple(z.shape)}). Use a larger batch."
        )


@_full_precision
def alignment(
    student: Float[Tensor, "v n d"], teacher: Float[Tensor, "w n d"], target: str = "pairs"
) -> Float[Tensor, ""]:
    """Squared distance between the views of one image: mean over v, i of `2 − 2⟨z[v,i], target⟩`.

    pairs: each t[w,i] with w≠v in turn;
    mean:  the mean of all t[w,i] with w≠v, scaled to length 1 (FastSiam, Pototzky et al. 2022).

    0 when all views agree, 4 when they are opposite; of two views both targets are the same. Both
    index one list of views: the teacher may see only the first of them.

    Args:
        student: unit embeddings `(V, N, D)`.
        teacher: unit embeddings `(W, N, D)`: detached, or the student's own for a gradient through
            both sides.
        target: `pairs` or `mean`.

    Raises:
        UserError: the shapes do not fit, no pair v≠w exists, or the target is unknown.
    """
    choice("target", target, TARGETS)
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[1:] != teacher.shape[1:]:
        raise UserError(
            "alignment expects student (V, N, D) and teacher (W, N, D) of the same images, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    views, teachers = student.shape[0], teacher.shape[0]
    same = min(views, teachers)
    pairs = views * teachers - same
    if pairs == 0:
        raise UserError(
            f"alignment compares different views: {views} student and {teachers} teacher view(s) "
            "leave none to compare. Use at least 2 views."
        )
    z, t = widened(student), widened(teacher)
    if target == "mean":
        # A view past the teacher's last has no target of its own to leave out.
        others = t.sum(0) - F.pad(t, (0, 0, 0, 0, 0, max(0, views - teachers)))[:views]
        return (2.0 - 2.0 * (z * unit(others)).sum(-1)).mean()
    everything = (z.sum(0) * t.sum(0)).sum(-1)
    own = (z[:same] * t[:same]).sum((0, -1))
    return (2.0 - 2.0 * (everything - own) / pairs).mean()


@_full_precision
def variance(
    z: Float[Tensor, "*v n d"], floor: float = 1.0, scale: str = "sphere", eps: float = 1e-4
) -> Float[Tensor, ""]:
    """Variance floor, a hinge on each axis's standard deviation over the images.

    sphere:   mean over v, d of `max(0, 1 − σ/γ)`, `σ = sqrt(Var + eps·γ²)`, `γ = floor/√D`;
    absolute: mean over v, d of `max(0, floor − sqrt(Var + eps))` (VICReg, Bardes et al. 2022).

    Unit vectors have Σ_d Var_d <= 1, so on the sphere no floor above 1/√D can be met by every axis:
    `sphere` puts the floor where it is reachable, `absolute` keeps VICReg's constant penalty.

    Args:
        z: embeddings `(V, N, D)` or `(N, D)`; the variance is unbiased (N − 1).
        floor: in units of 1/√D for `sphere`, plain for `absolute`.
        scale: `sphere` or `absolute`.
        eps: keeps the root differentiable; relative to γ² for `sphere`.

    Raises:
        UserError: a wrong shape or scale, or fewer than 2 images.
    """
    _check(z, "variance", (2, 3))
    choice("scale", scale, SCALES)
    z = widened(z)
    var = z.var(-2)
    if scale == "absolute":
        return F.relu(floor - (var + eps).sqrt()).mean()
    gamma2 = floor**2 / z.shape[-1]
    return F.relu(1.0 - (var / gamma2 + eps).sqrt()).mean()


@_full_precision
def covariance(
    z: Float[Tensor, "*v n d"], scale: str = "sphere", own: slice | None = None
) -> Float[Tensor, ""]:
    """Decorrelation: no two axes carry the same thing.

    sphere:   mean over v of `(1/D) Σ_{d≠e} (D·C[d,e])²`;
    absolute: mean over v of `(1/D) Σ_{d≠e} C[d,e]²` (VICReg).

    Args:
        z: embeddings `(V, N, D)` or `(N, D)`; C is the unbiased covariance over the images.
        scale: `sphere` or `absolute`.
        own: as for `repulsion`.

    Raises:
        UserError: a wrong shape or scale, or fewer than 2 images.
    """
    _check(z, "covariance", (2, 3))
    choice("scale", scale, SCALES)
    wide = widened(z)
    value = dispersion.covariance(wide if wide.ndim == 3 else wide[None], own)
    return value * z.shape[-1] ** 2 if scale == "sphere" else value


@_full_precision
def coding_rate(
    z: Float[Tensor, "*v n d"], distortion: float = 0.2, own: slice | None = None
) -> Float[Tensor, ""]:
    """Minus the coding rate per dimension: mean over v of `−log det(I + D/(ε²N)·ZᵀZ)/(2D)`.

    Yu et al. 2020, https://arxiv.org/abs/2006.08558, eq. 7; EMP-SSL uses it, without the 1/D. Its
    least value on the sphere, −log(1 + 1/ε²)/2, is reached when all axes are used alike.

    Args:
        z: unit embeddings `(V, N, D)` or `(N, D)`.
        distortion: ε², the squared distortion that the code allows.
        own: as for `repulsion`.

    Raises:
        UserError: a wrong shape, or fewer than 2 images.
    """
    _check(z, "coding_rate", (2, 3))
    wide = widened(z)
    return dispersion.coding_rate(wide if wide.ndim == 3 else wide[None], distortion, own)


@_full_precision
def repulsion(
    z: Float[Tensor, "v n d"],
    margin: float = 0.2,
    kernel: str = "hinge",
    t: float = 2.0,
    beta: float = 1.0,
    own: slice | None = None,
    *,
    temperature: float = 0.2,
    decoupled: bool = True,
) -> Float[Tensor, ""]:
    """Soft repulsion between *different images*, all views pooled; views of one image never repel.

    hinge:     mean of `max(0, ⟨z_i,z_j⟩ − margin)²`;
    softplus:  mean of `softplus(β(⟨z_i,z_j⟩ − margin))/β`, the smooth hinge: never quite at rest;
    gaussian:  `log mean exp(−t‖z_i − z_j‖²)` (uniformity, Wang & Isola 2020); no margin;
    logsumexp: mean over i of `2τ log mean_j exp(⟨z_i,z_j⟩/τ)`: each anchor i is pushed alike (with
               alignment: decoupled contrastive loss, Yeh et al. 2022); no margin.

    Args:
        z: unit embeddings `(V, N, D)`.
        margin: cosine below which a pair is left alone.
        kernel: `hinge`, `softplus`, `gaussian` or `logsumexp`.
        t: concentration of the gaussian kernel.
        beta: sharpness of the softplus kernel.
        own: where z holds the images of all processes, those of this one: it computes their share
            and their gradient, and the values are summed over the processes. None: all of z.
        temperature: τ of the logsumexp kernel: the smaller, the more the nearest push.
        decoupled: False counts the other views of image i among the j of the logsumexp kernel (with
            alignment: NT-Xent, Chen et al. 2020).

    Raises:
        UserError: a wrong shape or kernel, or fewer than 2 images.
    """
    _check(z, "repulsion")
    choice("kernel", kernel, KERNELS)
    if kernel == "logsumexp":
        return dispersion.log_sum_exp(widened(z), temperature, own, decoupled=decoupled)
    return dispersion.repulsion(widened(z), kernel, margin, t, beta, own)
