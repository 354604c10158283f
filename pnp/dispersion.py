"""Dispersion in closed form: value and gradient of a term together, by blocks of rows.

Autograd of the plain formulas keeps every N×N (D×D) intermediate for its backward. Here the
gradient, which is as large as z, is computed beside the value and kept instead; no block of the
pair matrix outlives its turn.

z (V, N, D) are V views of N images. With several processes z holds the images of all of them and
`own` says which are this one's: only their share is computed, and only their gradient. Values are
summed over the processes in forward; backward needs no collective.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pnp.distributed import all_max, all_sum

# Entries of the pair matrix that exist at once: what a CPU's cache holds, what keeps a GPU busy;
# but not fewer rows than a matrix product is fast with.
BLOCK = {"cpu": 2**18, "cuda": 2**24}
LEAST = 128


class _Known(torch.autograd.Function):
    """A scalar function of z whose gradient has been computed already."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0], None, None


def repulsion(
    z: Tensor,
    kernel: str,
    margin: float,
    t: float,
    beta: float,
    own: slice | None,
) -> Tensor:
    """The value of `pnp.losses.repulsion`; its gradient is that of the images `own`."""
    return _Known.apply(z, *_repulsion(z, kernel, margin, t, beta, own))  # pyright: ignore[reportReturnType]


def log_sum_exp(z: Tensor, temperature: float, own: slice | None, *, decoupled: bool) -> Tensor:
    """Repulsion per anchor, the kernel `logsumexp` of `pnp.losses.repulsion`."""
    return _Known.apply(z, *_log_sum_exp(z, temperature, own, decoupled))  # pyright: ignore[reportReturnType]


def covariance(z: Tensor, own: slice | None) -> Tensor:
    """Mean over v of (1/D) Σ_{d≠e} C_de²; its gradient is that of the images `own`."""
    return _Known.apply(z, *_covariance(z, own))  # pyright: ignore[reportReturnType]


def coding_rate(z: Tensor, distortion: float, own: slice | None) -> Tensor:
    """The value of `pnp.losses.coding_rate`; its gradient is that of the images `own`."""
    return _Known.apply(z, *_coding_rate(z, distortion, own))  # pyright: ignore[reportReturnType]


@torch.no_grad()
def _repulsion(
    z: Tensor,
    kernel: str,
    margin: float,
    t: float,
    beta: float,
    own: slice | None,
) -> tuple[Tensor, Tensor]:
    """Value and gradient.

    With f the kernel, s_ab = ⟨z_a, z_b⟩, and P = V²N(N−1) ordered pairs of rows a, b of different
    images,

        R = Σ_ab f(s_ab) / P,    ∂R/∂z_a = 2 Σ_b f'(s_ab) z_b / P:

    s_ab is counted from both ends, hence the 2. The gaussian kernel's f' acts on z_b − z_a, and its
    logarithm divides by the sum instead.
    """
    views, images, dims = z.shape
    # Images outermost: the rows of an image, and those of a process, lie side by side.
    rows = z.transpose(0, 1).reshape(-1, dims)
    norms = rows.square().sum(1)
    # A last column of ones makes the weights' row sums, by which the gaussian kernel pulls z_a.
    ends = F.pad(rows, (0, 1), value=1.0) if kernel == "gaussian" else rows
    mine = range(*(own or slice(None)).indices(images))
    first, last = views * mine.start, views * mine.stop
    size = max(LEAST, BLOCK.get(z.device.type, BLOCK["cuda"]) // len(rows))
    size = max(1, size // views) * views
    grad, whole = torch.zeros_like(ends), z.new_zeros(())
    peak = z.new_full((), -torch.inf)
    for start in range(first, last, size):
        stop = min(start + size, last)
        # Alone, a process meets every pair from one end only and counts it for both.
        left, right = (start, len(rows)) if own is None else (0, stop)
        s = rows[start:stop] @ rows[left:].T
        square = s[:, start - left : stop - left]
        same: Tensor = square.view(-1, views, (stop - start) // views, views)
        same.diagonal(dim1=0, dim2=2).fill_(-torch.inf)  # views of one image do not repel
        if kernel == "gaussian":
            s.mul_(2.0).sub_(norms[start:stop, None]).sub_(norms[left:]).mul_(t)
            before, peak = peak, torch.maximum(peak, s.max())
            grad *= (before - peak).exp()
            whole *= (before - peak).exp()
            values = weights = s.sub_(peak).exp_()
        elif kernel == "softplus":
            s.sub_(margin).mul_(beta)
            values, weights = F.softplus(s, threshold=40.0), s.sigmoid_()
        else:
            weights = s.sub_(margin).relu_()
            values = weights.square()
        twice = slice(stop - left, right - left)
        whole += values.sum() + values[:, twice].sum()
        grad[start:stop].addmm_(weights, ends[left:])
        grad[stop:right].addmm_(weights[:, twice].T, ends[start:stop])
    pairs = views * images * views * (images - 1)
    if kernel == "gaussian":
        top = peak if own is None else all_max(peak)
        whole, grad = whole * (peak - top).exp(), grad * (peak - top).exp()
        whole = whole if own is None else all_sum(whole)
        value = top + (whole / pairs).log()
        grad = (grad[:, :dims] - rows * grad[:, dims:]) * (4.0 * t / whole)
    else:
        value = (whole if own is None else all_sum(whole)) / pairs
        if kernel == "softplus":
            value = value / beta
        grad *= (2.0 if kernel == "softplus" else 4.0) / pairs
    return value, grad.view(images, views, dims).transpose(0, 1)


@torch.no_grad()
def _log_sum_exp(
    z: Tensor, temperature: float, own: slice | None, decoupled: bool
) -> tuple[Tensor, Tensor]:
    """Value and gradient.

    With l_a = log Σ_b exp(s_ab/τ) over the B rows b that push anchor a, and M = VN anchors,

        R = 2τ Σ_a (l_a − log B) / M,    ∂R/∂z_a = 2 Σ_b (p_ab + p_ba) z_b / M:

    p_ab = exp(s_ab/τ − l_a) is b's share of a's softmax, p_ba a's share of b's. A first pass over
    the blocks finds l, which the processes exchange; a single block is kept for the second.
    """
    views, images, dims = z.shape
    rows = z.transpose(0, 1).reshape(-1, dims)
    mine = range(*(own or slice(None)).indices(images))
    size = max(LEAST, BLOCK.get(z.device.type, BLOCK["cuda"]) // len(rows))
    size = max(1, size // views) * views
    last = views * mine.stop
    blocks = [slice(i, min(i + size, last)) for i in range(views * mine.start, last, size)]

    def logits(block: slice) -> Tensor:
        s = (rows[block] / temperature) @ rows.T
        square = s[:, block]
        if decoupled:
            square = square.view(-1, views, len(square) // views, views).diagonal(dim1=0, dim2=2)
        else:
            square = square.diagonal()
        square.fill_(-torch.inf)
        return s

    whole = logits(blocks[0]) if len(blocks) == 1 else None
    logs = z.new_zeros(len(rows))
    for block in blocks:
        logs[block] = (logits(block) if whole is None else whole).logsumexp(1)
    logs = logs if own is None else all_sum(logs)
    grad = torch.zeros_like(rows)
    for block in blocks:
        s = logits(block) if whole is None else whole
        weights = (s - logs).exp_().add_(s.sub_(logs[block, None]).exp_())
        torch.mm(weights, rows, out=grad[block])
    pushing = views * (images - 1) if decoupled else views * images - 1
    value = 2.0 * temperature * (logs.mean() - math.log(pushing))
    grad *= 2.0 / len(rows)
    return value, grad.view(images, views, dims).transpose(0, 1)


@torch.no_grad()
def _covariance(z: Tensor, own: slice | None) -> tuple[Tensor, Tensor]:
    """Value and gradient, with the smaller Gram matrix.

    With Z = (z − mean over images)/√(N−1) the covariance is C = ZᵀZ and the gradient
    4/(D√(N−1)) · Z offdiag(C): Z's columns sum to 0, so nothing comes back through the mean. Where
    N < D the same numbers come from G = ZZᵀ: ‖G‖ = ‖C‖, and Z offdiag(C) = GZ − Z diag(C).
    """
    views, images, dims = z.shape
    grad, value = torch.zeros_like(z), z.new_zeros(())
    for view, out in zip(z, grad, strict=True):
        centred = (view - view.mean(0)) / (images - 1) ** 0.5
        mine, out = (centred, out) if own is None else (centred[own], out[own])
        if dims <= images:
            gram = mine.T @ mine
            gram = gram if own is None else all_sum(gram)
            gram.fill_diagonal_(0.0)
            torch.mm(mine, gram, out=out)
            value += gram.square_().sum()
        else:
            variances = centred.square().sum(0)
            gram = mine @ centred.T
            torch.mm(gram, centred, out=out)
            out.addcmul_(mine, variances, value=-1.0)
            norm = gram.square_().sum()
            value += (norm if own is None else all_sum(norm)) - variances.square().sum()
    grad *= 4.0 / (dims * (images - 1) ** 0.5 * views)
    return value / (dims * views), grad


@torch.no_grad()
def _coding_rate(z: Tensor, distortion: float, own: slice | None) -> tuple[Tensor, Tensor]:
    """Value and gradient, with the smaller Gram matrix.

    With a = D/(ε²N) and A = I + aZᵀZ the value is −log det(A)/(2D), the gradient −(a/D) ZA⁻¹. Where
    N < D the same numbers come from B = I + aZZᵀ: det B = det A, and B⁻¹Z = ZA⁻¹.
    """
    views, images, dims = z.shape
    scale, linalg = dims / (distortion * images), cast("Any", torch.linalg)
    grad, value = torch.zeros_like(z), z.new_zeros(())
    for view, out in zip(z, grad, strict=True):
        mine = slice(None) if own is None else own
        if dims <= images:
            gram = view[mine].T @ view[mine]
            gram = gram if own is None else all_sum(gram)
        else:
            gram = view @ view.T
        gram.mul_(scale).diagonal().add_(1.0)
        root = linalg.cholesky_ex(gram).L  # without the check, which waits for the device
        value -= root.diagonal().log().sum()
        if dims <= images:
            out[mine] = torch.cholesky_solve(view[mine].T, root).T
        else:
            out[mine] = torch.cholesky_solve(view, root)[mine]
    grad *= -scale / (dims * views)
    return value / (dims * views), grad
