"""Repulsion and covariance in closed form: value and gradient in one pass, by blocks of rows.

Autograd of the plain formulas keeps every N × N (D × D) intermediate for its backward. Here the
gradient, which is as large as z, is computed beside the value and kept instead; no block of the
pair matrix outlives its turn.

Notation: z (V, N, D) are V views of N images, M = V·N rows in all; s_ab = ⟨z_a, z_b⟩.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pnp.distributed import largest, total

# Entries of the pair matrix that exist at once: a CPU's cache holds them; a GPU wants more.
BLOCK = {"cpu": 2**19, "cuda": 2**26}


class Repulsion(torch.autograd.Function):
    """Mean over pairs of different images of f(s), f being the kernel; see `pnp.losses.repulsion`.

    With P = V²N(N−1) ordered pairs of rows and K = V·N·Q pairs with Q past embeddings q, which get
    no gradient,

        R = [Σ_ab f(s_ab) + Σ_aq f(s_aq)] / (P + K),
        ∂R/∂z_a = [2 Σ_b f'(s_ab) z_b + Σ_q f'(s_aq) q] / (P + K):

    s_ab is counted from both ends, hence the 2. The gaussian kernel depends on z_a's length too and
    adds −z_a times its weights; its logarithm divides by the sum.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        past: Tensor | None,
        kernel: str,
        margin: float,
        t: float,
        beta: float,
        own: slice | None,
    ) -> Tensor:
        """The value; the gradient of the rows of the images `own` is kept, all of them if None."""
        views, images, _ = z.shape
        wide = _wide(z)
        rows = z.flatten(0, 1)
        queued = 0 if past is None else len(past)
        pairs = views * images * (views * (images - 1) + queued)
        mine = range(*(own or slice(None)).indices(images))
        every = torch.arange(mine.start, mine.stop, device=z.device)
        every = (every + images * torch.arange(views, device=z.device)[:, None]).flatten()
        grad = torch.zeros_like(rows)
        width = views * images + queued
        size = max(1, BLOCK.get(z.device.type, BLOCK["cuda"]) // width)
        columns = rows if past is None else torch.cat([rows, past.to(rows)])
        norms = columns.square().sum(1)
        sums, peaks, done = [], [], []
        for index in every.split(size):
            s = rows[index] @ columns.T
            if kernel == "gaussian":
                s = s.mul_(2.0).sub_(norms[index][:, None]).sub_(norms).mul_(t)
            # The views of one image do not repel: row v·N + i holds image i.
            blocked = (index % images)[:, None] + images * torch.arange(views, device=z.device)
            s.scatter_(1, blocked, -torch.inf)
            if kernel == "gaussian":
                peaks.append(s.max())
                s = s.sub_(peaks[-1]).exp_()
                sums.append(s.sum(dtype=wide))
                weights = s.mul_(4.0 * t)
            elif kernel == "softplus":
                s = s.sub_(margin).mul_(beta)
                sums.append(F.softplus(s).sum(dtype=wide) / beta)
                weights = s.sigmoid_()
            else:
                weights = s.sub_(margin).relu_()
            weights[:, len(rows) :] *= 0.5  # a past embedding is pushed from one end only
            pull = weights @ columns
            if kernel == "gaussian":
                pull -= rows[index] * weights.sum(1, keepdim=True)
            grad[index] = pull
            done.append(index)
            if kernel == "hinge":
                weights.square_()
                weights[:, len(rows) :] *= 4.0
                sums.append(weights.sum(dtype=wide))
        if kernel == "gaussian":
            peak = largest(torch.stack(peaks).max()) if own else torch.stack(peaks).max()
            scales = [(p - peak).to(wide).exp() for p in peaks]
            whole = torch.stack([s * f for s, f in zip(sums, scales, strict=True)]).sum()
            whole = total(whole) if own else whole
            for index, factor in zip(done, scales, strict=True):
                grad[index] *= (factor / whole).to(grad)
            value = peak.to(wide) + (whole / pairs).log()
        else:
            whole = torch.stack(sums).sum()
            value = (total(whole) if own else whole) / pairs
            grad *= (4.0 if kernel == "hinge" else 2.0) / pairs
        ctx.save_for_backward(grad.view_as(z))
        return value.to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The kept gradient, scaled."""
        (grad,) = ctx.saved_tensors
        return grad * grad_outputs[0], *(None,) * 6


class Covariance(torch.autograd.Function):
    """(1/V) Σ_v (1/D) Σ_{d≠e} C_de² of views z (V, N, D), with the smaller Gram matrix.

    Z is z without its mean over images, C = ZᵀZ/(N−1), and the gradient is 4/(D(N−1)) Z·offdiag(C):
    Z's columns sum to 0, so nothing comes back through the mean. Where N < D the same numbers come
    from G = ZZᵀ/(N−1), N × N: ‖G‖ = ‖C‖, and Z·offdiag(C) = GZ − Z·diag(C).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """The value; the gradient is kept."""
        views, images, dims = z.shape
        wide = _wide(z)
        grad = torch.empty_like(z)
        value = torch.zeros((), dtype=wide, device=z.device)
        for view, out in zip(z, grad, strict=True):
            centred = view - view.mean(0)
            variances = centred.square().sum(0) / (images - 1)
            if dims <= images:
                gram = centred.T @ centred / (images - 1)
                gram.fill_diagonal_(0.0)
                torch.mm(centred, gram, out=out)
                value += gram.square_().sum(dtype=wide)
            else:
                gram = centred @ centred.T / (images - 1)
                torch.mm(gram, centred, out=out)
                out -= centred.mul_(variances)
                value += gram.square_().sum(dtype=wide)
                value -= variances.square().sum(dtype=wide)
        grad *= 4.0 / (dims * (images - 1) * views)
        ctx.save_for_backward(grad)
        return (value / (dims * views)).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> Tensor:
        """The kept gradient, scaled."""
        (grad,) = ctx.saved_tensors
        return grad * grad_outputs[0]


def _wide(z: Tensor) -> torch.dtype:
    """What sums are kept in: float64 where the device has it."""
    return torch.float32 if z.device.type == "mps" else torch.float64
