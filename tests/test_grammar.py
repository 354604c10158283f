"""Losses of the papers are weighted sums of P¬P's terms: value and gradient, to ten digits."""

import math

import pytest
import torch
import torch.nn.functional as F

from pnp.objectives import PNP

VIEWS, IMAGES, DIMS, TAU = 2, 9, 5, 0.3


def logits(z):
    """Cosines over τ of all rows (V·N) with all, an anchor with itself left out."""
    s = z.flatten(0, 1) @ z.flatten(0, 1).T / TAU
    return s.masked_fill(torch.eye(len(s), dtype=torch.bool), -math.inf)


def nt_xent(z):
    """Chen et al. 2020, eq. 1: cross-entropy of an anchor's other view among all other rows."""
    other = torch.arange(VIEWS * IMAGES).roll(IMAGES)
    return F.cross_entropy(logits(z), other)


def decoupled_contrastive(z):
    """Yeh et al. 2022, eq. 6: NT-Xent without the other view in the denominator."""
    rows, other = torch.arange(VIEWS * IMAGES), torch.arange(VIEWS * IMAGES).roll(IMAGES)
    s = logits(z)
    negatives = s.masked_fill(F.one_hot(other).bool(), -math.inf)
    return (negatives.logsumexp(1) - s[rows, other]).mean()


def vicreg(z):
    """Bardes et al. 2022, eq. 6, the mean of the two views' variance terms, at 25, 25, 1."""
    loss = 25 * F.mse_loss(*z)
    for view in z:
        cov = torch.cov(view.T)
        loss = loss + 25 / 2 * F.relu(1 - (cov.diagonal() + 1e-4).sqrt()).mean()
        loss = loss + (cov.square().sum() - cov.diagonal().square().sum()) / DIMS
    return loss


def uniformity(z):
    """Wang & Isola 2020: log mean of exp(−2‖z_i − z_j‖²) over pairs, of one set of vectors."""
    return torch.pdist(z[0]).square().mul(-2).exp().mean().log()


def align_and_uniform(z):
    """Wang & Isola 2020: mean ‖x − y‖² of the two views, and the uniformity of both together."""
    rows = z.flatten(0, 1)
    different = ~(torch.arange(IMAGES).repeat(VIEWS)[:, None] == torch.arange(IMAGES).repeat(VIEWS))
    pairs = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")[different]
    return (z[0] - z[1]).square().sum(1).mean() + (-2 * pairs.square()).exp().mean().log()


def coding_rate(z):
    """Yu et al. 2020, eq. 7, as EMP-SSL has it: mean of −½ log det(I + D/(N·.2)·ZᵀZ) over views."""
    grams = torch.stack([view.T @ view for view in z])
    return -torch.logdet(torch.eye(z.shape[2]) + z.shape[2] / (0.2 * z.shape[1]) * grams).mean() / 2


# paper's loss: P¬P's options, views, and (scale, offset) of P¬P's loss that gives it
LOGSUMEXP = {"weights": {"alignment": 1, "repulsion": 1}, "kernel": "logsumexp", "temperature": TAU}
POINTS = {
    nt_xent: (
        {**LOGSUMEXP, "decoupled": False},
        VIEWS,
        1 / (2 * TAU),
        math.log(VIEWS * IMAGES - 1) - 1 / TAU,
    ),
    decoupled_contrastive: (
        LOGSUMEXP,
        VIEWS,
        1 / (2 * TAU),
        math.log(VIEWS * (IMAGES - 1)) - 1 / TAU,
    ),
    vicreg: (
        {
            "weights": {"alignment": 25 / DIMS, "variance": 25, "covariance": 2},
            "scale": "absolute",
        },
        VIEWS,
        1,
        0,
    ),
    uniformity: ({"weights": {"repulsion": 1}, "kernel": "gaussian"}, 1, 1, 0),
    coding_rate: ({"weights": {"coding_rate": DIMS}}, VIEWS, 1, 0),
    align_and_uniform: (
        {"weights": {"alignment": 1, "repulsion": 1}, "kernel": "gaussian"},
        VIEWS,
        1,
        0,
    ),
}


@pytest.mark.parametrize("loss", POINTS, ids=lambda loss: loss.__name__)
def test_a_papers_loss_is_a_point_of_the_objective(loss):
    options, views, scale, offset = POINTS[loss]
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(views, IMAGES, DIMS, dtype=torch.float64, generator=draws).requires_grad_()
    # Gradients are compared in front of the sphere: 2 − 2cos is ‖a − b‖² on it, and not beside it.
    z = F.normalize(x, dim=-1)
    # Without a teacher the student's own views are the target.
    value, expected = scale * PNP(**options)(z, z)["loss"] + offset, loss(z)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    (got,), (gradient,) = (torch.autograd.grad(v, x, retain_graph=True) for v in (value, expected))
    torch.testing.assert_close(got, gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_pull_and_push_on_an_embedding_weigh_the_same_at_every_temperature(temperature):
    # Far from any crowd: the views of an image agree, images are orthogonal.
    z = torch.eye(8, dtype=torch.float64).repeat(2, 1, 1)

    def force(teacher, **weights):
        """Length of the gradient on one embedding, summed over what acts on it."""
        leaf = z.clone().requires_grad_()
        objective = PNP(weights, kernel="logsumexp", temperature=temperature)
        objective(leaf, leaf if teacher == "none" else z)["loss"].backward()
        assert leaf.grad is not None
        return float(leaf.grad[0, 0].abs().sum())

    assert force("none", alignment=1) == pytest.approx(force("none", repulsion=1))
    assert force("ema", alignment=2) == pytest.approx(force("ema", repulsion=1))
