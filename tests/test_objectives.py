"""The composite objective: weights, names, and what collapse means to it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from pnp import geometry, losses
from pnp.errors import UserError
from pnp.objectives import PNP


def batch(n: int = 16, d: int = 8):
    student = normalize(torch.randn(2, n, d), dim=-1)
    teacher = normalize(student + 0.1 * torch.randn(2, n, d), dim=-1)
    return student, teacher


def test_the_loss_is_the_weighted_sum_of_the_terms_it_returns():
    weights = {"alignment": 2.0, "variance": 0.5, "covariance": 0.04, "repulsion": 3}
    out = PNP(weights)(*batch())
    total = sum(weight * out[name] for name, weight in weights.items())
    torch.testing.assert_close(out["loss"], total)


def test_a_term_of_weight_zero_is_not_computed(monkeypatch):
    monkeypatch.setattr(losses, "repulsion", lambda *_, **__: pytest.fail("repulsion was computed"))
    out = PNP({"alignment": 1, "variance": 1, "repulsion": 0})(*batch())
    assert set(out) == {"loss", "alignment", "variance"}


def test_unknown_terms_get_the_near_match_and_the_list():
    with pytest.raises(UserError, match=r"known: alignment, variance.*mean repulsion"):
        PNP({"repulson": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"alignment": -1}}, "at least 0"),
        ({"weights": {"alignment": float("nan")}}, "at least 0"),
        ({"weights": {"alignment": 0}}, "all 0"),
        ({"margin": 1.5}, "margin"),
        ({"floor": 0}, "floor"),
        ({"scale": "flat"}, "scale"),
        ({"kernel": "flat"}, "kernel"),
        ({"target": "flat"}, "target"),
        ({"temperature": 0}, r"objective\.temperature=0"),
        ({"t": -1}, r"objective\.t=-1"),
    ],
)
def test_impossible_options_are_errors(options, message):
    with pytest.raises(UserError, match=message):
        PNP(**options)


def test_collapse_costs_more_than_a_small_spread_except_to_alignment_and_covariance():
    point = normalize(torch.ones(1, 1, 8), dim=-1).repeat(2, 16, 1)
    spread = normalize(point + 0.05 * torch.randn(1, 16, 8), dim=-1).expand(2, 16, 8)

    def gain(**weights):
        objective = PNP(weights)
        return float(objective(point, point)["loss"] - objective(spread, spread)["loss"])

    assert gain(variance=1) > 0.01
    assert gain(repulsion=1) > 1e-3
    assert gain(alignment=1, variance=1, covariance=0.04, repulsion=1) > 0.01
    assert gain(alignment=1) <= 1e-6
    assert gain(covariance=1) < 0


@pytest.mark.parametrize(
    ("weights", "escapes"),
    [
        ({"alignment": 1, "variance": 1, "covariance": 0.04, "repulsion": 1}, True),
        ({"alignment": 1}, False),
    ],
)
def test_a_perturbed_collapse_escapes_with_the_full_objective_and_stays_with_alignment(
    weights, escapes
):
    torch.manual_seed(0)
    images = torch.randn(64, 12)
    net = nn.Linear(12, 8)
    with torch.no_grad():  # the bias dwarfs the inputs: all embeddings are nearly one point
        net.weight.mul_(1e-3)
        net.bias.fill_(1.0)
    objective = PNP(weights)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(200):
        views = images + 0.1 * torch.randn(2, 64, 12)
        z = normalize(net(views), dim=-1)
        loss = objective(z, z.detach())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cosine = geometry.mean_cosine(geometry.unit(net(images).detach()))
    assert (cosine < 0.3) == escapes
    assert escapes or cosine > 0.99


def test_the_losses_of_five_steps_are_golden():
    """A change that should not change results shows the same numbers here."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    objective, curve = PNP(), []
    images = torch.randn(32, 6, dtype=torch.float64)
    for _ in range(5):
        views = images + 0.3 * torch.randn(2, 32, 6, dtype=torch.float64)
        z = normalize(net(views), dim=-1)
        loss = objective(z, z.detach())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    assert curve == pytest.approx(GOLDEN, abs=1e-9)


GOLDEN = [
    0.9015813996299485,
    0.5374331645745295,
    0.4265044770151707,
    0.447935846378549,
    0.36621452991835873,
]
