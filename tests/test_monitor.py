"""Geometry against closed forms and scikit-learn, and the names of the kinds of collapse."""

import math

import pytest
import torch
from ranks import on_ranks
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import normalize

from pnp import geometry
from pnp.callbacks.collapse import collapse_kind
from pnp.callbacks.monitor import knn_accuracy, online_band
from pnp.distributed import gloo_group
from pnp.errors import UserError
from pnp.evaluation.band_metrics import BandMetrics
from pnp.evaluation.probes import Space, fit_concepts, fit_linear, knn_votes, linear_probe, products


def kind(z):
    return collapse_kind(geometry.describe(z), len(z), z.shape[1])


def test_each_kind_of_collapse_gets_its_name_and_a_spread_set_none():
    point = torch.ones(400, 64) + 0.05 * torch.randn(400, 64)
    cone = torch.ones(400, 64) + 0.7 * torch.randn(400, 64)
    plane = torch.zeros(400, 64)
    plane[:, :2] = torch.randn(400, 2)
    assert kind(point) == "complete"
    assert kind(cone) == "cone"
    assert kind(plane) == "dimensional"
    assert kind(torch.randn(400, 64)) is None


def test_pairwise_measures_equal_their_sums_over_pairs():
    z = normalize(torch.randn(20, 5, dtype=torch.float64), dim=-1)
    labels = torch.arange(20) % 3
    pairs = [(i, j) for i in range(20) for j in range(20) if i != j]
    cosines = torch.stack([z[i] @ z[j] for i, j in pairs])
    same = torch.tensor([bool(labels[i] == labels[j]) for i, j in pairs])
    assert geometry.mean_cosine(z) == pytest.approx(float(cosines.mean()), abs=1e-12)
    within, between = geometry.class_cosines(z, labels)
    assert within == pytest.approx(float(cosines[same].mean()), abs=1e-12)
    assert between == pytest.approx(float(cosines[~same].mean()), abs=1e-12)
    expected = math.log(float(torch.exp(-2 * (2 - 2 * cosines)).mean()))
    assert geometry.uniformity(z) == pytest.approx(expected, abs=1e-6)


def test_ranks_of_an_isotropic_and_of_a_flat_set():
    basis = torch.cat([torch.eye(6), -torch.eye(6)]).double()
    assert geometry.effective_rank(basis) == pytest.approx(6)
    assert geometry.rankme(basis) == pytest.approx(6)
    assert geometry.sigma(basis) == pytest.approx(math.sqrt(12 / 11))
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None] * basis[:1]
    assert geometry.effective_rank(line) == pytest.approx(1)


@pytest.mark.parametrize("used", [1, 16, 64])
def test_the_wasserstein_distance_sees_the_axes_that_are_not_used(used):
    axes = torch.eye(64, dtype=torch.float64)[:used]
    z = torch.cat([axes, -axes]) @ torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64)).Q
    expected = math.sqrt(2 - 2 * math.sqrt(used / 64))
    assert geometry.wasserstein(z) == pytest.approx(expected, abs=1e-6)
    assert geometry.wasserstein(z[:1].expand(9, -1)) == pytest.approx(math.sqrt(2))


def test_half_of_the_axes_hardly_move_uniformity_and_move_the_wasserstein_distance():
    whole = normalize(torch.randn(2000, 64, dtype=torch.float64), dim=-1)
    half = torch.nn.functional.pad(normalize(whole[:, :32], dim=-1), (0, 32))
    assert geometry.uniformity(half) == pytest.approx(geometry.uniformity(whole), rel=0.04)
    assert geometry.wasserstein(half) - geometry.wasserstein(whole) > 0.5


def test_rotation_changes_no_measure_but_the_per_axis_one():
    z = torch.randn(50, 8, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    a, b = geometry.describe(z), geometry.describe(z @ turn)
    a.pop("sigma"), b.pop("sigma")
    assert a == pytest.approx(b, abs=1e-10)


def clusters(n=300, seed=0):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = 2 * torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    return centres[labels] + torch.randn(n, 6, generator=draws), labels


def test_knn_agrees_with_scikit_learn_in_every_chunking():
    (bank, labels), (queries, _) = clusters(), clusters(101, seed=1)
    reference = KNeighborsClassifier(
        n_neighbors=7,
        metric="cosine",
        weights=lambda d: torch.exp(-torch.as_tensor(d) / 0.07).numpy(),
    ).fit(bank.numpy(), labels.numpy())
    expected = torch.from_numpy(reference.predict_proba(queries.numpy())).float()
    for entries in (1, 1000, 1 << 25):
        votes = knn_votes(bank, labels, queries, classes=3, k=7, temperature=0.07, entries=entries)
        torch.testing.assert_close(
            votes / votes.sum(1, keepdim=True), expected, atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("least", [1, 1e12])
def test_products_of_rows_are_those_of_float64_by_either_library(least):
    a, b = torch.randn(33, 70), torch.randn(51, 70)
    expected = a.double() @ b.double().T
    torch.testing.assert_close(products(a, b, least).double(), expected, rtol=0, atol=1e-4)
    assert products(a.double(), b.double(), least).dtype == torch.float64


def test_knn_refuses_more_neighbours_than_there_are():
    bank, labels = clusters(9)
    with pytest.raises(UserError, match="k=10 must lie between 1 and the 9"):
        knn_votes(bank, labels, bank, classes=3, k=10)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_linear_probe_agrees_with_scikit_learn(l2):
    x, y = clusters()
    space = Space.of(x)
    _, probe = fit_linear(space(x), y, space, classes=3, l2=(1.0, l2))
    standard = ((x - x.mean(0)) / x.std(0)).numpy()
    reference = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=2000).fit(standard, y)
    expected = torch.from_numpy(reference.predict_proba(standard)).float()
    torch.testing.assert_close(probe.logits(space(x)).softmax(1), expected, atol=5e-3, rtol=0)


def test_the_linear_probe_chooses_its_regularisation_on_validation_only():
    (x, y), (queries, truth) = clusters(60), clusters(300, seed=3)
    space = Space.of(x)
    train, validation = (space(x), y), (space(queries), truth)
    fits = {l2: fit_linear(*train, space, classes=3, l2=(l2,))[0] for l2 in (10.0, 1e-2)}
    accuracy = {
        l2: float((fit.logits(validation[0]).argmax(1) == truth).float().mean())
        for l2, fit in fits.items()
    }
    probe = linear_probe(train, validation, space, classes=3, grid=(10.0, 1e-2))
    assert probe.l2 == max(accuracy, key=lambda l2: accuracy[l2])
    assert probe.validation == pytest.approx(max(accuracy.values()))


@pytest.mark.parametrize("largest", [0, 100])
def test_the_rotation_of_the_space_changes_no_prediction(largest):
    x, y = clusters()
    space = Space.of(x, largest)
    (probe,) = fit_linear(space(x), y, space, classes=3, l2=(1e-2,))
    plain = Space.of(x, 0)
    (other,) = fit_linear(plain(x), y, plain, classes=3, l2=(1e-2,))
    expected = other.logits(plain(x)).softmax(1)
    torch.testing.assert_close(probe.logits(space(x)).softmax(1), expected, atol=5e-3, rtol=0)


def test_concept_heads_are_independent_logistic_regressions():
    x, y = clusters()
    space = Space.of(x)
    targets = torch.stack([(y == 0).float(), (y == 2).float()], dim=1)
    keep = torch.ones(len(x), 2, dtype=torch.bool)
    keep[y == 1, 1] = False
    l2 = torch.tensor([1e-1, 1e-2])
    heads = fit_concepts(space(x), targets, keep, space, l2)
    standard = ((x - x.mean(0)) / x.std(0)).numpy()
    for k in range(2):
        some = keep[:, k].numpy()
        reference = LogisticRegression(C=1 / (float(l2[k]) * some.sum()), tol=1e-8, max_iter=2000)
        reference.fit(standard[some], targets[some, k].numpy())
        expected = torch.from_numpy(reference.decision_function(standard)).float()
        torch.testing.assert_close(heads.logits(space(x))[:, k], expected, atol=2e-2, rtol=1e-2)


def votes_of_thirty():
    draws = torch.Generator().manual_seed(0)
    return torch.rand(30, 3, generator=draws), torch.arange(30) % 3


def measure_share(index, folder):
    torch.set_num_threads(1)
    votes, labels = votes_of_thirty()
    share = slice(index, None, 2)
    with gloo_group(f"{folder}/store", index, 2):
        accuracy = knn_accuracy(votes[share], labels[share])
        band = online_band(votes[share], labels[share], labels.unique())
        torch.save((accuracy, band), f"{folder}/{index}.pt")


def test_two_processes_log_the_knn_accuracy_and_band_of_one(tmp_path):
    votes, labels = votes_of_thirty()
    accuracy, band = knn_accuracy(votes, labels), online_band(votes, labels, labels.unique())
    assert accuracy == float((votes.argmax(1) == labels).float().mean())
    assert 0 < band <= 1
    on_ranks(measure_share, str(tmp_path))
    for index in range(2):
        assert torch.load(tmp_path / f"{index}.pt", weights_only=True) == (accuracy, band)


def test_certain_votes_leave_no_band_and_two_classes_ask_one_question(monkeypatch):
    labels = torch.arange(40) % 2
    votes = torch.nn.functional.one_hot(labels, 2).float()
    asked = []
    update = BandMetrics.update
    monkeypatch.setattr(BandMetrics, "update", lambda *a: asked.append(1) or update(*a))
    assert online_band(votes, labels, labels.unique()) == 0.0
    assert len(asked) == 1
