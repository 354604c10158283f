"""The closed forms equal the formulas as they are read, value and gradient, in any blocks."""

import pytest
import torch
from naive import covariance, repulsion
from torch.nn.functional import normalize

from pnp import dispersion, losses

KERNELS = ("hinge", "softplus", "gaussian", "logsumexp")


def sphere(*shape, seed=0, dtype=torch.float64):
    draws = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=draws, dtype=torch.float64), dim=-1).to(dtype)


def both(function, z):
    """Value and gradient of 3 · function(z): a scale shows that backward multiplies."""
    z = z.clone().requires_grad_()
    value = function(z)
    (3 * value).backward()
    return value.detach(), z.grad


@pytest.fixture(params=[7, 64, 2**19])
def block(request, monkeypatch):
    monkeypatch.setitem(dispersion.BLOCK, "cpu", request.param)
    monkeypatch.setattr(dispersion, "LEAST", 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kernel", [*KERNELS, "coupled"])
def test_repulsion_equals_the_naive_form(kernel, dtype, tolerance, block):
    # Not quite unit, so that the gaussian's dependence on length is seen.
    z = 1.1 * sphere(3, 6, 4, dtype=dtype)
    options = {"margin": -0.3, "kernel": kernel, "t": 3.0, "beta": 5.0, "temperature": 0.3}
    if kernel == "coupled":
        options |= {"kernel": "logsumexp", "decoupled": False}
    for got, expected in zip(
        both(lambda z: losses.repulsion(z, **options), z),
        both(lambda z: repulsion(z, **options), z),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", ["sphere", "absolute"])
@pytest.mark.parametrize(("images", "dims"), [(20, 5), (5, 20), (8, 8)])
def test_covariance_equals_the_naive_form_on_either_side(images, dims, scale, dtype, tolerance):
    z = sphere(2, images, dims, dtype=dtype) + 0.2
    for got, expected in zip(
        both(lambda z: losses.covariance(z, scale), z),
        both(lambda z: covariance(z, scale), z),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("images", "dims"), [(20, 5), (5, 20)])
def test_the_coding_rate_equals_the_naive_form_on_either_side(images, dims):
    def plain(z):
        grams = z.mT @ z * (dims / (0.3 * images))
        return -torch.logdet(torch.eye(dims) + grams).mean() / (2 * dims)

    z = sphere(2, images, dims)
    for got, expected in zip(
        both(lambda z: losses.coding_rate(z, 0.3), z), both(plain, z), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_keeps_five_digits_over_many_blocks(kernel):
    z = normalize(sphere(2, 500, 16) + 0.2, dim=-1)
    value, grad = both(lambda z: losses.repulsion(z, kernel=kernel), z.float())
    expected, slope = both(lambda z: repulsion(z, kernel=kernel), z)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(grad.double(), slope, rtol=0, atol=1e-5 * float(slope.abs().max()))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_gaussian_kernel_that_underflows_everywhere_stays_finite(kernel):
    z = sphere(2, 4, 3, dtype=torch.float32)
    options = {"kernel": kernel, "t": 500.0, "temperature": 2e-3}
    got, grad = both(lambda z: losses.repulsion(z, **options), z)
    expected, _ = both(lambda z: repulsion(z, **options), z.double())
    assert grad.isfinite().all()
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_views_of_one_image_do_not_repel_each_other(kernel):
    apart = torch.eye(4, dtype=torch.float64)[None].repeat(2, 1, 1)
    value, grad = both(lambda z: losses.repulsion(z, kernel=kernel, margin=0.0), apart)
    if kernel == "hinge":
        assert value == 0
        assert grad.abs().max() == 0
    for view in grad:  # whatever force there is comes from the other images, alike for all views
        torch.testing.assert_close(view, grad[0])
        pull = view.diagonal() if kernel != "gaussian" else torch.zeros(4)
        assert pull.abs().max() == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_those_of_finite_differences(kernel):
    def term(z):
        return losses.repulsion(z, -0.5, kernel)

    assert torch.autograd.gradcheck(term, sphere(2, 4, 4).requires_grad_())


def test_no_pair_matrix_outlives_its_block(monkeypatch):
    monkeypatch.setitem(dispersion.BLOCK, "cpu", 1000)
    monkeypatch.setattr(dispersion, "LEAST", 1)
    largest = []
    multiply = torch.Tensor.__matmul__

    def watched(a, b):
        out = multiply(a, b)
        largest.append(out.numel())
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    losses.repulsion(sphere(2, 100, 3, dtype=torch.float32))
    assert max(largest) <= 1000
    largest.clear()
    losses.covariance(sphere(1, 10, 300, dtype=torch.float32))
    assert max(largest) <= 100
