"""The terms against closed forms, gradients, invariances and degenerate inputs."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pnp import losses
from pnp.errors import UserError


def sphere(*shape: int, seed: int = 0) -> Tensor:
    """Random unit vectors in float64."""
    draws = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=draws, dtype=torch.float64), dim=-1)


TERMS = {
    "alignment": lambda z: losses.alignment(z, sphere(2, *z.shape[1:], seed=9)),
    "variance": losses.variance,
    "variance_absolute": lambda z: losses.variance(z, scale="absolute"),
    "covariance": losses.covariance,
    "covariance_absolute": lambda z: losses.covariance(z, scale="absolute"),
    "coding_rate": losses.coding_rate,
    "hinge": losses.repulsion,
    "softplus": lambda z: losses.repulsion(z, kernel="softplus"),
    "gaussian": lambda z: losses.repulsion(z, kernel="gaussian"),
    "logsumexp": lambda z: losses.repulsion(z, kernel="logsumexp"),
    "coupled": lambda z: losses.repulsion(z, kernel="logsumexp", decoupled=False),
    "alignment_mean": lambda z: losses.alignment(z, sphere(3, *z.shape[1:], seed=9), "mean"),
    "alignment_itself": lambda z: losses.alignment(z, z, "mean"),
}
DISTANCES = [name for name in TERMS if name.startswith("alignment")]


def test_alignment_is_the_mean_over_pairs_of_different_views():
    z, t = sphere(4, 5, 3), sphere(2, 5, 3, seed=1)
    pairs = [
        2 - 2 * float(z[v, i] @ t[w, i])
        for v in range(4)
        for w in range(2)
        for i in range(5)
        if v != w
    ]
    assert float(losses.alignment(z, t)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_alignment_is_zero_for_equal_views_and_four_for_opposite_ones():
    z = sphere(1, 6, 4).repeat(2, 1, 1)
    assert float(losses.alignment(z, z)) == pytest.approx(0, abs=1e-12)
    assert float(losses.alignment(z, -z)) == pytest.approx(4, abs=1e-12)


def test_alignment_to_the_mean_leaves_out_the_views_own_target_and_is_pairs_for_two_views():
    z, t = sphere(4, 5, 3), sphere(2, 5, 3, seed=1)
    means = [t[1], t[0], normalize(t.sum(0), dim=-1), normalize(t.sum(0), dim=-1)]
    expected = (2 - 2 * (z * torch.stack(means)).sum(-1)).mean()
    torch.testing.assert_close(losses.alignment(z, t, "mean"), expected)
    torch.testing.assert_close(losses.alignment(z[:2], t, "mean"), losses.alignment(z[:2], t))


@pytest.mark.parametrize("floor", [0.5, 1.0])
def test_variance_matches_its_formula(floor):
    z, d, eps = sphere(2, 7, 5), 5, 1e-4
    gamma = floor / math.sqrt(d)
    sphere_terms, absolute_terms = [], []
    for view in z:
        for axis in view.T:
            mean = sum(axis.tolist()) / 7
            var = sum((a - mean) ** 2 for a in axis.tolist()) / 6
            sphere_terms.append(max(0.0, 1 - math.sqrt(var + eps * gamma**2) / gamma))
            absolute_terms.append(max(0.0, floor - math.sqrt(var + eps)))
    mean = sum(sphere_terms) / len(sphere_terms)
    assert float(losses.variance(z, floor)) == pytest.approx(mean, abs=1e-12)
    mean = sum(absolute_terms) / len(absolute_terms)
    assert float(losses.variance(z, floor, "absolute")) == pytest.approx(mean, abs=1e-12)


def test_covariance_matches_its_formula():
    z, d = sphere(2, 7, 5), 5
    expected = 0.0
    for view in z:
        cov = torch.cov(view.T)
        expected += sum(float(cov[a, b]) ** 2 for a in range(d) for b in range(d) if a != b) / 2
    assert float(losses.covariance(z)) == pytest.approx(expected * d, abs=1e-12)
    assert float(losses.covariance(z, "absolute")) == pytest.approx(expected / d, abs=1e-12)


@pytest.mark.parametrize("kernel", ["hinge", "softplus", "gaussian", "logsumexp"])
def test_repulsion_runs_over_pairs_of_different_images_in_all_views(kernel):
    z = sphere(3, 4, 2)
    rows = [(v, i) for v in range(3) for i in range(4)]
    pairs = [(z[a], z[b]) for a in rows for b in rows if a[1] != b[1]]
    cosines = [float(a @ b) for a, b in pairs]
    expected = {
        "hinge": sum(max(0.0, c - 0.2) ** 2 for c in cosines) / len(pairs),
        "softplus": sum(math.log1p(math.exp(c - 0.2)) for c in cosines) / len(pairs),
        "gaussian": math.log(
            sum(math.exp(-2 * float((a - b).square().sum())) for a, b in pairs) / len(pairs)
        ),
        "logsumexp": sum(
            0.4 * math.log(sum(math.exp(5 * float(z[a] @ z[b])) for b in rows if a[1] != b[1]) / 9)
            for a in rows
        )
        / len(rows),
    }[kernel]
    assert float(losses.repulsion(z, 0.2, kernel)) == pytest.approx(expected, abs=1e-10)


def test_two_dimensional_embeddings_are_one_view():
    z = sphere(6, 4)
    assert losses.variance(z) == losses.variance(z[None])
    assert losses.covariance(z) == losses.covariance(z[None])


@pytest.mark.parametrize("term", TERMS)
def test_gradients_are_exact(term):
    assert torch.autograd.gradcheck(TERMS[term], sphere(2, 5, 3).requires_grad_())


@pytest.mark.parametrize("term", TERMS)
def test_the_order_of_images_does_not_matter(term):
    z = sphere(2, 6, 4)
    other = sphere(2, 6, 4, seed=9)
    order = torch.randperm(6)

    def value(order):
        if term in DISTANCES:
            return losses.alignment(z[:, order], other[:, order], "mean")
        return TERMS[term](z[:, order])

    torch.testing.assert_close(value(order), value(torch.arange(6)))


@pytest.mark.parametrize("term", ["alignment", "hinge", "softplus", "gaussian", "logsumexp"])
def test_rotating_the_space_changes_no_distance_term(term):
    z, t = sphere(2, 6, 4), sphere(2, 6, 4, seed=1)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q

    def value(z, t):
        return losses.alignment(z, t) if term == "alignment" else losses.repulsion(z, kernel=term)

    torch.testing.assert_close(value(z @ turn, t @ turn), value(z, t))


def test_no_floor_above_one_over_root_d_can_be_met_on_the_sphere():
    z = sphere(1, 4000, 64)
    assert losses.variance(z, scale="absolute") > 1 - 1 / math.sqrt(64) - 1e-3
    assert losses.variance(z) < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("term", TERMS)
def test_statistics_stay_in_float32_under_autocast(term, dtype):
    z = sphere(2, 32, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = TERMS[term](z)
    assert inside.dtype == torch.float32 or term in DISTANCES
    torch.testing.assert_close(inside, TERMS[term](z))
    assert TERMS[term](z.to(dtype)).dtype != dtype


@pytest.mark.parametrize("term", TERMS)
def test_collapsed_embeddings_give_finite_gradients(term):
    z = sphere(1, 1, 8).repeat(2, 6, 1).requires_grad_()
    TERMS[term](z).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("term", [t for t in TERMS if t not in DISTANCES])
def test_a_batch_of_one_is_an_error_that_says_so(term):
    with pytest.raises(UserError, match="at least 2 images"):
        TERMS[term](sphere(2, 1, 4))


def test_wrong_shapes_views_scales_and_kernels_are_named():
    z = sphere(1, 4, 3)
    with pytest.raises(UserError, match="at least 2 views"):
        losses.alignment(z, z)
    with pytest.raises(UserError, match="scale=cube"):
        losses.variance(z, scale="cube")
    with pytest.raises(UserError, match="kernel=spring"):
        losses.repulsion(z, kernel="spring")
    with pytest.raises(UserError, match="target=median"):
        losses.alignment(z, z, "median")
