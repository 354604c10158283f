"""The formulas of covariance and repulsion written as they are read: the reference for tests."""

import math

import torch
import torch.nn.functional as F


def covariance(z, scale="sphere"):
    """Mean over views of (1/D) Σ_{d≠e} C_de², times D² at scale sphere; z (V, N, D)."""
    n, d = z.shape[-2:]
    centred = z - z.mean(-2, keepdim=True)
    c = centred.mT @ centred / (n - 1)
    off = c.square().sum((-2, -1)) - c.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    return off.mean() * (d if scale == "sphere" else 1 / d)


def repulsion(z, margin=0.2, kernel="hinge", t=2.0, beta=1.0, *, temperature=0.2, decoupled=True):
    """Mean of the kernel over pairs of different images; z (V, N, D)."""
    v, n, _ = z.shape
    rows = z.flatten(0, 1)
    s = rows @ rows.T
    image = torch.arange(n).repeat(v)
    keep = image[None] != image[:, None]
    if kernel == "logsumexp":
        keep = keep if decoupled else ~torch.eye(len(rows), dtype=torch.bool)
        logs = (s / temperature).masked_fill(~keep, -math.inf).logsumexp(1)
        return 2 * temperature * (logs - math.log(int(keep[0].sum()))).mean()
    if kernel == "gaussian":
        d2 = (rows[:, None] - rows[None]).square().sum(-1)
        return torch.logsumexp(-t * d2[keep], 0) - math.log(int(keep.sum()))
    # Times the mask, not s[mask]: indexing makes the plain form slower than it has to be.
    if kernel == "softplus":
        return (F.softplus(beta * (s - margin)) * keep).sum() / beta / keep.sum()
    return (F.relu(s - margin).square() * keep).sum() / keep.sum()
