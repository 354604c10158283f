"""The terms' gradients against autograd, the alarm that names a term, and the run that stops."""

import json

import pytest
import torch
from torch.nn.functional import normalize

from pnp.callbacks.gradients import TermGradients, starving, term_gradients
from pnp.callbacks.guard import Guard
from pnp.cli.train import train
from pnp.errors import UserError
from pnp.files import read_csv
from pnp.objectives import PNP
from pnp.rivals import LeJEPA, VICReg, VISReg


class Opposite:
    """Two terms that pull the same numbers up and down, three to one."""

    weights, training = {"up": 3.0, "down": 1.0}, True

    def forward(self, student, teacher, epoch=0.0):
        return {"up": student.sum(), "down": -student.sum()}

    def eval(self):
        pass

    def train(self, mode):
        pass


def test_terms_that_pull_three_to_one_in_opposite_directions_say_so():
    z = torch.randn(2, 6, 4, dtype=torch.float64)
    shares, cosines = term_gradients(Opposite(), z, z, sphere=False)
    assert shares == pytest.approx({"up": 0.75, "down": 0.25})
    assert cosines == pytest.approx({("up", "down"): -1.0})


@pytest.mark.parametrize("teacher", [True, False])
def test_shares_and_cosines_are_those_of_the_tangential_gradients_of_weighted_terms(teacher):
    torch.manual_seed(0)
    z, t = (normalize(torch.randn(2, 9, 5, dtype=torch.float64), dim=-1) for _ in range(2))
    weights = {"alignment": 2.0, "variance": 0.5, "repulsion": 1.5}
    objective = PNP(weights, kernel="logsumexp", scale="absolute")
    shares, cosines = term_gradients(objective, z, t if teacher else None, sphere=True)
    raw = torch.randn(2, 9, 5, dtype=torch.float64) * 0 + z
    leaf = raw.requires_grad_()
    unit = normalize(leaf, dim=-1)  # its backward pass is the tangential projection
    terms = objective(unit, t if teacher else unit)
    expected = {}
    for name, weight in weights.items():
        (own,) = torch.autograd.grad(weight * terms[name], leaf, retain_graph=True)
        expected[name] = own.flatten()
    total = sum(own.norm() for own in expected.values())
    assert shares == pytest.approx({k: float(own.norm() / total) for k, own in expected.items()})
    for (a, b), cosine in cosines.items():
        same = torch.cosine_similarity(expected[a], expected[b], dim=0)
        assert cosine == pytest.approx(float(same))


@pytest.mark.parametrize(
    "objective", [VICReg(), LeJEPA(), VISReg()], ids=lambda o: type(o).__name__
)
def test_the_weighted_terms_of_a_rival_sum_to_its_loss(objective):
    z = torch.randn(2, 12, 6)
    terms = objective(z, z)
    total = sum(weight * terms[name] for name, weight in objective.weights.items())
    torch.testing.assert_close(total, terms["loss"])
    shares, _ = term_gradients(objective, z, None, sphere=False)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0


def test_a_look_leaves_gradients_random_numbers_and_mode_as_they_were():
    objective, z = LeJEPA(), torch.randn(2, 8, 4, requires_grad=True)
    before = torch.random.get_rng_state()
    term_gradients(objective, z, None, sphere=False)
    assert z.grad is None
    assert objective.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_starving_term_is_the_weakest_of_those_that_work_against_this_collapse():
    shares = {"alignment": 0.9, "variance": 0.04, "covariance": 0.01, "repulsion": 0.05}
    weights = dict.fromkeys(shares, 1.0)
    assert starving("cone", weights, shares).startswith("variance starves: 4 %")
    assert starving("dimensional", weights, shares).startswith("covariance starves: 1 %")
    alone = starving("complete", {"alignment": 1.0}, {"alignment": 1.0})
    assert alone == "no term works against it: variance and repulsion weigh 0"


def test_a_collapse_stops_the_run_in_its_first_epoch_if_asked_to_and_names_what_starves(
    tmp_path, compose
):
    words = [
        "objective=no_repulsion", "objective.weights={variance: 1.0e-3, covariance: 0}",
        "callbacks.guard.on_collapse=stop", "callbacks.gradients.every_n_steps=2",
        "data.n_train=1024", "data.batch_size=16", "trainer.max_epochs=1", "optim.lr=0.02",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"on_collapse=stop; .*variance starves: .* % of the grad"):
        train(compose(*words))
    (alarm,) = json.loads((tmp_path / "run" / "alarms.json").read_text())
    assert alarm["step"] < 64
    assert "variance starves" in alarm["message"]
    rows = read_csv(tmp_path / "run" / "metrics.csv")
    shares = [row for row in rows if row["gradient/share/variance"]]
    assert len(shares) > 5
    assert float(shares[0]["gradient/share/alignment"]) > 0.9
    seen = [(int(r["step"]), int(r["images_seen"])) for r in rows if r["images_seen"]]
    assert all(images == 16 * (step + 1) for step, images in seen)
    steps = [int(row["step"]) for row in read_csv(tmp_path / "run" / "seconds.csv")]
    assert steps == [step for step, _ in seen]


def test_wrong_values_are_refused_by_their_full_key():
    with pytest.raises(UserError, match=r"callbacks\.gradients\.every_n_steps"):
        TermGradients(0)
    with pytest.raises(UserError, match=r"callbacks\.guard\.on_collapse"):
        Guard("explode")
