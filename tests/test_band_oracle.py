"""The irreducible band: closed form, linear programme, edge cases, anti-erasure; and concepts."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, linprog
from scipy.special import expit

from pnp.band.concepts import metric_names
from pnp.band.report import oracle_metrics
from pnp.errors import UserError
from pnp.evaluation import (
    Concept,
    ThreeWayThreshold,
    closed_form_band,
    one_vs_rest,
    oracle_band,
    parse_concepts,
)


def linear_programme(eta, w, a, b):
    """Most mass decided, by an independent solver: variables are P and not-P share of each item."""
    zero = np.zeros_like(eta)
    result = linprog(
        -np.concatenate([w, w]),
        A_ub=np.vstack(
            [
                np.concatenate([w * (1 - eta), zero]),
                np.concatenate([zero, w * eta]),
                np.hstack([np.eye(eta.size), np.eye(eta.size)]),
            ]
        ),
        b_ub=np.concatenate([[a, b], np.ones(eta.size)]),
        bounds=(0, 1),
    )
    return 1 + result.fun


def test_the_knapsacks_equal_a_linear_programme_on_random_discrete_problems():
    rng = np.random.default_rng(0)
    positive = 0
    for trial in range(150):
        n = int(rng.integers(1, 12))
        eta = rng.random(n) if trial % 2 else rng.integers(0, 5, n) / 4  # ties, 0 and 1 included
        w = rng.dirichlet(np.ones(n))
        a, b = rng.uniform(0.001, 0.15, 2)
        result = oracle_band(eta, a, b, w)
        assert result["band"] == pytest.approx(linear_programme(eta, w, a, b), abs=1e-9)
        assert result["membership"] @ w == pytest.approx(result["band"], abs=1e-12)
        positive += result["band"] > 0
    assert positive > 50


@pytest.mark.parametrize(
    ("k", "c", "a", "b"),
    [(20, 0.5, 0.01, 0.01), (20, 0.5, 0.01, 0.03), (5, 0.2, 0.02, 0.05), (60, 0.9, 0.001, 0.004)],
)
def test_the_closed_form_equals_quadrature(k, c, a, b):
    def fp(u):
        return quad(lambda v: expit(-k * (v - c)), u, 1, epsabs=1e-13, limit=200, points=[c])[0] - a

    def fn(u):
        return quad(lambda v: expit(k * (v - c)), 0, u, epsabs=1e-13, limit=200, points=[c])[0] - b

    hi, lo = (brentq(f, 0, 1, xtol=1e-14) for f in (fp, fn))
    closed = closed_form_band(k, c, a, b)
    assert closed["band"] == pytest.approx(hi - lo, abs=1e-9)
    assert closed["t_hi"] == pytest.approx(expit(k * (hi - c)), abs=1e-9)
    assert closed["t_lo"] == pytest.approx(expit(k * (lo - c)), abs=1e-9)


def test_the_closed_form_has_its_published_values_and_vanishes_with_wide_budgets():
    widths = [closed_form_band(20, 0.5, a, a)["band"] for a in (0.001, 0.005, 0.01, 0.02, 0.03)]
    np.testing.assert_allclose(widths, [0.3900, 0.2252, 0.15075, 0.0709, 0.0196], atol=6e-5)
    assert closed_form_band(20, 0.5, 0.01, 0.01)["t_lo"] == pytest.approx(0.18131, abs=6e-6)
    for a in (0.0347, 0.2, 0.9):
        assert closed_form_band(20, 0.5, a, a)["band"] == 0
        assert closed_form_band(20, 0.5, a, a)["crossed"]
    assert closed_form_band(5000, 0.5, 1e-4, 1e-4)["band"] < 1e-3  # no overflow when separable


def test_the_discrete_oracle_converges_to_the_closed_form():
    u = (np.arange(100_000) + 0.5) / 100_000
    result = oracle_band(expit(20 * (u - 0.5)), 0.01, 0.01)
    closed = closed_form_band(20, 0.5, 0.01, 0.01)
    assert result["band"] == pytest.approx(closed["band"], abs=1e-8)
    assert result["t_hi"] == pytest.approx(closed["t_hi"], abs=1e-4)
    assert result["t_lo"] == pytest.approx(closed["t_lo"], abs=1e-4)


def test_membership_is_in_input_order_alike_among_ties_and_scales_with_no_weight_unit():
    eta = np.array([0.5, 0.0, 1.0, 0.5, 0.5])
    result = oracle_band(eta, 0.05, 0.05)
    np.testing.assert_allclose(result["membership"], [2 / 3, 0, 0, 2 / 3, 2 / 3])
    assert result["band"] == pytest.approx(0.4)
    order = [3, 1, 0, 2, 4]
    np.testing.assert_allclose(
        oracle_band(eta[order], 0.05, 0.05, w=np.full(5, 7.0))["membership"],
        result["membership"][order],
    )


def test_oracle_edge_cases_noise_free_hopeless_and_single():
    assert oracle_band([0.0, 1.0, 1.0], 0.01, 0.01)["band"] == 0
    assert oracle_band(np.full(100, 0.5), 0.01, 0.02)["band"] == pytest.approx(1 - 2 * 0.03)
    assert oracle_band(np.ones(5), 0.01, 0.01)["band"] == 0
    assert oracle_band([0.5], 0.3, 0.3)["band"] == 0  # crossed: budgets left over
    zero_weight = oracle_band([0.0, 0.5, 1.0], 0.01, 0.01, w=[1, 0, 1])
    assert zero_weight["band"] == 0
    for bad in ({"eta": [1.2]}, {"eta": [0.5], "a": 0.0}, {"eta": [0.5], "w": [-1.0]}):
        with pytest.raises(UserError):
            oracle_band(**{"a": 0.1, "b": 0.1, **bad})
    with pytest.raises(UserError, match="slope k > 0"):
        closed_form_band(-1, 0.5, 0.1, 0.1)


@pytest.mark.parametrize("noise", [0.0, 1.0, 5.0])
def test_ambiguous_mass_outside_the_band_is_bounded_by_the_errors_made(noise):
    rng = np.random.default_rng(1)
    n, rho, a = 20_000, 0.1, 0.005
    eta = np.where(rng.random(n) < rho, 0.5, (rng.random(n) < 0.5).astype(float))
    y = rng.random(n) < eta
    s = 6 * (eta - 0.5) + rng.normal(size=n) * (0.3 + noise)
    region = ThreeWayThreshold(a, a).fit(s[::2], y[::2]).predict(s[1::2])
    metrics = oracle_metrics(region, eta[1::2], a, a)
    ambiguous = eta[1::2] == 0.5
    erased = np.mean(ambiguous & (region != -1))
    errors = float(metrics["err/fp_joint_eta"]) / 0.5 + float(metrics["err/fn_joint_eta"]) / 0.5
    assert erased <= errors + 1e-12
    assert metrics["oracle/width"] == pytest.approx(ambiguous.mean() - 4 * a, abs=1e-9)
    excess = float(metrics["oracle/extra"]) - float(metrics["oracle/erased"])
    assert metrics["oracle/excess"] == pytest.approx(excess)
    assert np.mean(region[ambiguous] == -1) >= 1 - errors / ambiguous.mean() - 1e-12


def test_concepts_map_labels_and_flip_coins_from_their_seed_alone():
    labels = np.random.default_rng(0).integers(0, 10, 20_000)
    concept = Concept(positive={5, 7}, ambiguous={6: 0.5, 2: 0.1}, ignore=[0], name="shoe")
    y, eta, keep = concept.assign(labels, seed=3)
    again = concept.assign(labels, seed=3)
    np.testing.assert_array_equal(y, again[0])
    assert (y != concept.assign(labels, seed=4)[0]).any()
    np.testing.assert_array_equal(keep, labels != 0)
    assert (y[~keep] == -1).all()
    assert np.isnan(eta[~keep]).all()
    for label, share in [(5, 1.0), (7, 1.0), (6, 0.5), (2, 0.1), (1, 0.0), (9, 0.0)]:
        assert (eta[labels == label] == share).all()
        assert y[labels == label].mean() == pytest.approx(share, abs=0.05 if 0 < share < 1 else 0)


def test_concepts_refuse_contradictions_and_unknown_labels():
    for bad in (
        {"positive": {1}, "negative": {1}},
        {"positive": {1}, "ambiguous": {1: 0.5}},
        {"positive": {1}, "ambiguous": {2: 1.5}},
        {"negative": {1}},
        {},
    ):
        with pytest.raises(UserError):
            Concept(**bad)
    with pytest.raises(UserError, match=r"\[4\] are in no set"):
        Concept(positive={1}, negative={2, 3}).assign([1, 2, 4])
    with pytest.raises(UserError, match="expected integers"):
        Concept(positive={1}).assign([0.5, 1.0])


def test_concepts_are_read_from_configuration_by_index_or_name():
    from omegaconf import OmegaConf

    classes = ["T-shirt", "Trouser", "Sandal", "Sneaker", "Bag"]
    config = OmegaConf.create(
        {
            "footwear": [2, "Sneaker"],
            "coin": {"positive": ["Bag"], "ambiguous": {1: 0.5}, "ignore": "Sandal"},
            "one_vs_rest": True,
        }
    )
    parsed = parse_concepts(config, classes)
    assert list(parsed) == ["footwear", "coin", *classes]
    assert parsed["footwear"] == Concept(positive={2, 3}, name="footwear")
    assert parsed["coin"] == Concept({4}, None, {1: 0.5}, {2}, "coin")
    assert parsed["Bag"] == one_vs_rest(classes)["Bag"]
    assert list(parse_concepts(None, classes)) == classes
    with pytest.raises(UserError, match="Did you mean Sneaker"):
        parse_concepts({"x": ["sneakers"]}, classes)
    with pytest.raises(UserError, match="Did you mean positive"):
        parse_concepts({"x": {"positives": [1]}}, classes)
    with pytest.raises(UserError, match="index below 5"):
        parse_concepts({"x": [5]}, classes)


def test_a_number_that_names_one_class_and_counts_to_another_is_refused():
    classes = [str(i) for i in range(1, 12)]
    assert parse_concepts({"two": ["2"]}, classes)["two"].positive == {1}
    for index, other in ((2, "'3' for the class with index 2"), (11, "the class called 11")):
        with pytest.raises(UserError, match=f"{index} is ambiguous.*{other}"):
            parse_concepts({"two": [index]}, classes)
    with pytest.raises(UserError, match="is ambiguous"):
        parse_concepts({"coin": {"ambiguous": {2: 0.5}}}, classes)
    digits = [str(i) for i in range(10)]  # names and indices agree
    assert parse_concepts({"two": [2]}, digits)["two"].positive == {2}


@pytest.mark.parametrize("label", [1.0, True, "1"])
def test_labels_are_integers_and_names_are_names(label):
    with pytest.raises(UserError, match="unknown class"):
        parse_concepts({"x": [label]}, ["cat", "dog"])
    with pytest.raises(UserError, match="expected an integer"):
        Concept(positive=iter([label]))
    assert Concept(positive=iter([1])).positive == {1}


def test_names_of_concepts_stay_apart_in_the_keys_of_metrics():
    classes = ["T-shirt/top", "T-shirt-top", "mean", "dog"]
    assert metric_names(one_vs_rest(classes)) == ["T-shirt-top", "T-shirt-top-2", "mean-2", "dog"]
    for config in (
        {"mean": [0]},
        {"a/b": [0], "a-b": [1]},
        {"dog": [0], "one_vs_rest": True},
        {"T-shirt/top": [0], "one_vs_rest": True},
        {"lobed": [0]},
    ):
        with pytest.raises(UserError, match="this name is taken"):
            parse_concepts(config, classes, reserved=["lobed"])
    assert list(parse_concepts({"dog": [0]}, classes)) == ["dog"]
