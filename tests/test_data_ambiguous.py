"""The synthetic set: deterministic, its posterior known, its nuisances blind to it."""

import math

import pytest
import torch

from pnp.data import ambiguous


@pytest.fixture(scope="module")
def drawn():
    return ambiguous.draw("train", 3000, seed=1)


def test_a_split_depends_on_seed_and_name_only(drawn):
    torch.manual_seed(99)
    again = ambiguous.draw("train", 3000, seed=1)
    assert again.digest() == drawn.digest()
    others = [ambiguous.draw("test", 300, seed=1), ambiguous.draw("train", 300, seed=2)]
    assert len({s.digest() for s in (*others, drawn.subset(torch.arange(300)))}) == 3


def test_a_smaller_set_is_the_start_of_a_larger_one(drawn):
    assert ambiguous.draw("train", 301, seed=1).digest() == drawn.subset(torch.arange(301)).digest()


def test_eta_is_the_sigmoid_of_the_latent(drawn):
    for u, eta in zip(drawn.latent[:20].tolist(), drawn.eta[:20].tolist(), strict=True):
        assert eta == pytest.approx(1 / (1 + math.exp(-20 * (u - 0.5))), abs=1e-12)


def test_the_latent_is_uniform_and_the_concept_follows_eta(drawn):
    n = len(drawn)
    empirical = torch.arange(1, n + 1) / n
    assert (drawn.latent.sort().values - empirical).abs().max() < 1.63 / math.sqrt(n)  # KS, 1 %
    y = drawn.concept.double()
    spread = (drawn.eta * (1 - drawn.eta)).sum().sqrt()
    assert abs((y - drawn.eta).sum() / spread) < 3
    middle = (drawn.eta - 0.5).abs() < 0.25
    assert 0.4 < y[middle].mean() < 0.6
    assert y[drawn.eta > 0.99].mean() > 0.97


def test_k_and_c_change_the_concept_but_no_pixel(drawn):
    other = ambiguous.draw("train", 300, seed=1, k=5.0, c=0.3)
    assert torch.equal(other.images, drawn.images[:300])
    assert torch.allclose(other.eta, torch.sigmoid(5 * (drawn.latent[:300] - 0.3)))


def test_the_outline_has_the_stated_radius():
    """Area of r(θ) = R(1 + .4u cos(mθ + φ)) is πR²(1 + .08u²), whatever m and φ are."""
    import numpy as np

    rng, size = np.random.default_rng(0), 128
    for u in (0.0, 1.0):
        lobes = np.arange(ambiguous.BLOCK) % 4 + 3
        radius = np.random.default_rng(7).uniform(6 / 32, 10 / 32, ambiguous.BLOCK) * size
        rng = np.random.default_rng(7)  # the radius is its first draw
        area = ambiguous._shape(rng, np.full(ambiguous.BLOCK, u), lobes, size).sum((1, 2))
        assert np.allclose(area, np.pi * radius**2 * (1 + 0.08 * u**2), rtol=0.01)


def test_brightness_contrast_and_lobes_say_nothing_about_the_latent(drawn):
    pixels = drawn.images.double()
    for nuisance in (pixels.mean((1, 2, 3)), pixels.std((1, 2, 3)), drawn.labels.double()):
        r = torch.corrcoef(torch.stack([nuisance, drawn.latent]))[0, 1]
        assert r.abs() < 3.3 / math.sqrt(len(drawn))


def test_classes_are_the_number_of_lobes(drawn):
    assert drawn.classes == ("3 lobes", "4 lobes", "5 lobes", "6 lobes")
    assert torch.bincount(drawn.labels).min() > 600
    assert drawn.images.shape == (3000, 3, 32, 32)
