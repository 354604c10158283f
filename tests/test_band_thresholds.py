"""The three-way thresholds: certificate, references, invariances, ties, crossing, bad input."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from pnp.errors import UserError
from pnp.evaluation import (
    ThreeWayClassifier,
    ThreeWayThreshold,
    allowed_errors,
    band_curve,
    closed_form_band,
    min_calibration_size,
)


def sample(n, seed=0, k=20.0, c=0.5, levels=None):
    """Scores u ~ U[0, 1] (on `levels` ties if given) with labels from eta = sigmoid(k (u - c))."""
    rng = np.random.default_rng(seed)
    u = rng.random(n)
    if levels:
        u = (np.floor(u * levels) + 0.5) / levels
    return u, (rng.random(n) < 1 / (1 + np.exp(-k * (u - c)))).astype(int)


def true_errors(threshold, k=20.0, c=0.5):
    """Exact P(P, Y=0) and P(not-P, Y=1) of u ~ U[0, 1]: integrals of 1 - eta and eta."""
    hi, lo = np.clip([threshold.t_hi_, threshold.t_lo_], 0, 1)
    fp = 1 - hi - (np.logaddexp(0, k * (1 - c)) - np.logaddexp(0, k * (hi - c))) / k
    fn = (np.logaddexp(0, k * (lo - c)) - np.logaddexp(0, -k * c)) / k
    return fp, fn, max(0.0, hi - lo)


@pytest.mark.parametrize(("n", "expected_width"), [(500, 0.277), (2000, 0.202)])
def test_budgets_hold_with_probability_one_minus_delta_at_the_simulated_width(n, expected_width):
    trials, a, delta = 1000, 0.01, 0.1
    results = [
        true_errors(ThreeWayThreshold(a, a, delta).fit(*sample(n, seed))) for seed in range(trials)
    ]
    fp, fn, width = np.array(results).T
    violated = np.count_nonzero((fp > a) | (fn > a))
    # The rate is at most delta: allow what a rate of exactly delta shows once in a thousand runs.
    assert violated <= stats.binom.ppf(0.999, trials, delta)
    assert violated > 0.02 * trials  # tight, not merely safe (simulated: .079 and .071)
    assert width.mean() == pytest.approx(expected_width, rel=0.05)
    assert width.mean() > closed_form_band(20, 0.5, a, a)["band"]


def test_class_conditional_budgets_hold_when_positives_are_rare():
    k, c, trials, level, delta = 20.0, 0.85, 400, 0.05, 0.1
    pi1 = (np.logaddexp(0, k * (1 - c)) - np.logaddexp(0, -k * c)) / k
    violated = 0
    for seed in range(trials):
        threshold = ThreeWayThreshold(level, level, delta, budget="class_conditional")
        fp, fn, _ = true_errors(threshold.fit(*sample(1000, seed, k, c)), k, c)
        violated += fp / (1 - pi1) > level or fn / pi1 > level
    assert 0 < violated <= stats.binom.ppf(0.999, trials, delta)


def test_crc_meets_the_budget_on_average_but_not_in_each_calibration():
    fits = [ThreeWayThreshold(0.01, 0.01, method="crc").fit(*sample(500, s)) for s in range(1000)]
    fp, fn, _ = np.array([true_errors(f) for f in fits]).T
    for error in (fp, fn):
        noise = 4 * error.std() / np.sqrt(error.size)
        assert error.mean() == pytest.approx(5 / 501, abs=noise)  # (k + 1) / (n + 1), k = 4
        assert 0.3 < np.mean(error > 0.01) < 0.6


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("level", [0.001, 0.01, 0.05, 0.3, 0.9])
def test_exact_allowed_errors_equal_a_brute_force_binomial_tail(level, delta):
    for n in (1, 2, 37, 299, 1000, 5003):
        k = np.arange(n + 1)
        log_pmf = stats.binom.logpmf(k, n, level)
        tail = np.cumsum(np.exp(log_pmf))
        assert allowed_errors(n, level, delta) == np.count_nonzero(tail <= delta / 2) - 1


def test_crc_and_empirical_allow_the_errors_of_their_formulas():
    for n in (10, 99, 100, 101, 250, 2000):
        for percent in (1, 7, 29, 57):  # in integers, where floating point would round down
            level = percent / 100
            assert allowed_errors(n, level, method="empirical") == n * percent // 100
            assert allowed_errors(n, level, method="crc") == (n + 1) * percent // 100 - 1


@pytest.mark.parametrize("method", ["exact", "crc", "empirical"])
def test_min_calibration_size_is_the_first_that_allows_any_error(method):
    for level in (0.5, 0.1, 0.01, 0.005, 0.001):
        n = min_calibration_size(level, 0.1, method)
        assert allowed_errors(n, level, 0.1, method) >= 0
        if n > 1 and method != "empirical":
            assert allowed_errors(n - 1, level, 0.1, method) == -1
    sizes = [min_calibration_size(level, 0.1) for level in (0.01, 0.005, 0.001)]
    assert sizes == [299, 598, 2995]
    assert min_calibration_size(0.01, 0.1 / 10) == 528  # ten concepts at once


@pytest.mark.filterwarnings("ignore")
def test_exact_regions_equal_two_one_sided_mapie_controllers():
    from mapie.risk_control import BinaryClassificationController
    from mapie.risk_control.risks import BinaryRisk

    def everyone(y, p):
        return np.ones(len(y), bool)

    joint_fp = BinaryRisk(lambda y, p: (p == 1) & (y == 0), everyone, higher_is_better=False)
    size = BinaryRisk(lambda y, p: p == 1, everyone, higher_is_better=True)

    def controlled(u, y, level):
        controller = BinaryClassificationController(
            lambda x: np.stack([1 - x[:, 0], x[:, 0]], 1),
            risk=joint_fp,
            target_level=level,
            confidence_level=0.95,
            best_predict_param_choice=size,
            list_predict_params=np.linspace(0, 1, 201),
            fwer_method="fixed_sequence",
        )
        return controller.calibrate(u[:, None], y).best_predict_param

    # Scores between the points of MAPIE's grid, so that grid and order statistics cut alike.
    for n, a, b in [(500, 0.05, 0.02), (1000, 0.03, 0.01), (2000, 0.01, 0.01)]:
        u, y = sample(n, n, k=12, levels=200)
        t_hi, t_lo = controlled(u, y, a), 1 - controlled(1 - u, 1 - y, b)
        ours = ThreeWayThreshold(a, b).fit(u, y)
        assert not ours.crossed_
        np.testing.assert_array_equal(
            ours.predict(u), np.where(u > t_hi, 1, np.where(u < t_lo, 0, -1))
        )


def test_class_conditional_crc_regions_equal_crepes_p_values():
    from crepes.base import p_values_batch

    for seed, levels in [(0, None), (1, None), (2, 40)]:
        (u, y), (new, _) = sample(700, seed, levels=levels), sample(400, seed + 50, levels=levels)
        p_if_negative = p_values_batch(u[y == 0], new, smoothing=False)
        p_if_positive = p_values_batch(-u[y == 1], -new, smoothing=False)
        ours = ThreeWayThreshold(0.013, 0.021, method="crc", budget="class_conditional").fit(u, y)
        assert not ours.crossed_
        np.testing.assert_array_equal(
            ours.predict(new),
            np.where(p_if_negative <= 0.013, 1, np.where(p_if_positive <= 0.021, 0, -1)),
        )


@pytest.mark.parametrize("transform", [lambda s: s**3, np.exp, lambda s: 7 * s - 3, np.arctan])
@pytest.mark.parametrize("a", [0.01, 0.2])  # the second crosses
def test_calibration_regions_are_invariant_to_strictly_increasing_maps(transform, a):
    s, y = sample(600, 3)
    before, after = (ThreeWayThreshold(a, a).fit(t, y) for t in (s, transform(s)))
    assert before.crossed_ == after.crossed_ == (a == 0.2)
    np.testing.assert_array_equal(before.predict(s), after.predict(transform(s)))


@pytest.mark.parametrize("levels", [None, 30])
def test_fit_ignores_the_order_of_samples(levels):
    s, y = sample(600, 4, levels=levels)
    order = np.random.default_rng(0).permutation(s.size)
    for a in (0.01, 0.2):
        one = ThreeWayThreshold(a, a).fit(s, y)
        assert vars(one) == vars(ThreeWayThreshold(a, a).fit(s[order], y[order]))


GOLDEN = [  # method, budget, levels of ties, max_fp: t_lo, t_hi, samples in the band of a curve
    ("exact", "joint", None, 0.02, 0.373177385686872, 0.5750044697370883, [500, 500, 89, 21, 0]),
    ("exact", "class_conditional", None, 0.05, 0.39130259991577365, 0.5360530822434132,
     [500, 500, 138, 68, 20]),
    ("crc", "joint", 40, 0.02, 0.4375, 0.5375, [500, 177, 59, 0, 0]),
    ("crc", "class_conditional", None, 0.01, 0.3244521698250583, 0.6585270892294647,
     [500, 355, 89, 32, 0]),
    ("empirical", "joint", None, 0.01, 0.39130259991577365, 0.5750044697370883,
     [180, 124, 38, 0, 0]),
    ("exact", "joint", None, 0.2, 0.5361771115512933, 0.5361771115512933, [500, 500, 89, 21, 0]),
    ("empirical", "class_conditional", 40, 0.3, 0.5, 0.5, [193, 177, 98, 40, 0]),
    ("exact", "joint", None, 0.001, -np.inf, np.inf, [500, 500, 89, 21, 0]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "budget", "levels", "max_fp", "t_lo", "t_hi", "in_band"), GOLDEN
)
def test_thresholds_and_curves_equal_those_of_version_0_1_to_the_bit(
    method, budget, levels, max_fp, t_lo, t_hi, in_band
):
    calibration, test = sample(700, 11, levels=levels), sample(500, 12, levels=levels)
    fit = ThreeWayThreshold(max_fp, max_fp / 2, 0.1, method, budget).fit(*calibration)
    assert (fit.t_lo_, fit.t_hi_, fit.crossed_) == (t_lo, t_hi, t_lo == t_hi)
    scores, y = calibration
    levels = [0.001, 0.004, 0.02, 0.05, 0.1]
    curve = band_curve(*test, levels, 0.5, method, budget=budget, calib_scores=scores, calib_y=y)
    assert (curve["width"] * 500).round().tolist() == in_band


@pytest.mark.parametrize("budget", ["joint", "class_conditional"])
@pytest.mark.parametrize("method", ["exact", "crc", "empirical"])
def test_a_curve_equals_a_loop_of_fits(method, budget):
    crossed = 0
    for seed, levels in [(0, None), (1, 60), (2, 5)]:
        (s, y), (new, _) = sample(400, seed, levels=levels), sample(300, seed + 9, levels=levels)
        grid = np.geomspace(0.002, 0.7, 15)
        curve = band_curve(
            *(new, y[:300], grid, 0.7, method), budget=budget, calib_scores=s, calib_y=y
        )
        fits = [ThreeWayThreshold(a, 0.7 * a, 0.1, method, budget).fit(s, y) for a in grid]
        assert curve["width"].tolist() == [np.mean(f.predict(new) == -1) for f in fits]
        crossed += sum(f.crossed_ for f in fits)
    assert crossed
    with pytest.raises(UserError, match="both calib_scores and calib_y"):
        band_curve(new, y[:300], calib_scores=s)


def test_swapping_the_classes_mirrors_the_regions():
    s, y = sample(900, 5)
    one = ThreeWayThreshold(0.01, 0.03).fit(s, y).predict(s)
    two = ThreeWayThreshold(0.03, 0.01).fit(-s, 1 - y).predict(-s)
    np.testing.assert_array_equal(one, np.where(two == -1, -1, 1 - two))


@pytest.mark.parametrize("levels", [3, 10, 50, None])
@pytest.mark.parametrize("a", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_each_region_is_the_largest_with_at_most_k_errors_even_under_ties(levels, a, dtype):
    s, y = sample(800, 6, levels=levels)
    s = s.astype(dtype)
    fit = ThreeWayThreshold(a, a).fit(s, y)
    region = fit.predict(s)
    assert np.count_nonzero((region == 1) & (y == 0)) <= fit.k_fp_
    assert np.count_nonzero((region == 0) & (y == 1)) <= fit.k_fn_
    if fit.crossed_:
        assert (region != -1).all()
        return
    band = s[region == -1]
    assert np.count_nonzero((s >= band.max()) & (y == 0)) > fit.k_fp_
    assert np.count_nonzero((s <= band.min()) & (y == 1)) > fit.k_fn_


def test_separable_scores_are_cut_in_the_middle_of_the_gap():
    s = np.concatenate([np.linspace(-3, -1, 500), np.linspace(2, 5, 500)])
    y = np.arange(1000) >= 500
    fit = ThreeWayThreshold(0.01, 0.01).fit(s, y)
    assert fit.crossed_
    assert fit.t_lo_ == fit.t_hi_ == 0.5
    np.testing.assert_array_equal(fit.predict(s), y)
    assert fit.predict([0.5, 0.4999]).tolist() == [1, 0]


def test_a_crossing_is_cut_where_calibration_errors_are_fewest_within_both_budgets():
    for seed in range(20):
        s, y = sample(400, seed, levels=60)
        fit = ThreeWayThreshold(0.15, 0.05, method="empirical").fit(s, y)
        if not fit.crossed_:
            continue
        cuts = np.concatenate([[-np.inf], (np.unique(s)[1:] + np.unique(s)[:-1]) / 2, [np.inf]])
        fp = np.array([np.count_nonzero((s >= c) & (y == 0)) for c in cuts])
        fn = np.array([np.count_nonzero((s < c) & (y == 1)) for c in cuts])
        feasible = (fp <= fit.k_fp_) & (fn <= fit.k_fn_)
        region = fit.predict(s)
        assert np.count_nonzero(region != y) == (fp + fn)[feasible].min()
        assert np.count_nonzero((region == 1) & (y == 0)) <= fit.k_fp_
        assert np.count_nonzero((region == 0) & (y == 1)) <= fit.k_fn_
        break
    else:
        pytest.fail("no seed crossed: the test tested nothing")


def test_a_cut_between_neighbouring_floats_or_huge_scores_still_separates():
    for low, high in [(1.0, np.nextafter(1.0, 2.0)), (-1.7e308, 1.7e308), (0.0, 5e-324)]:
        s, y = np.repeat([low, high], 500), np.repeat([0, 1], 500)
        fit = ThreeWayThreshold(0.01, 0.01).fit(s, y)
        assert fit.crossed_
        np.testing.assert_array_equal(fit.predict(s), y)


def test_all_scores_tied_leave_everything_in_the_band_and_say_so():
    y = np.arange(1000) % 2
    fit = ThreeWayThreshold(0.01, 0.01).fit(np.full(1000, 2.5), y)
    assert (fit.predict(np.full(10, 2.5)) == -1).all()
    assert not fit.crossed_
    assert any("all 1000 scores equal 2.5" in w for w in fit.warnings_)


def test_too_few_samples_empty_the_region_and_name_the_size_needed():
    s, y = sample(298, 7)
    fit = ThreeWayThreshold(0.01, 0.2).fit(s, y)
    assert (fit.k_fp_, fit.t_hi_) == (-1, np.inf)
    assert not (fit.predict(s) == 1).any()
    assert (fit.predict(s) == 0).any()
    assert any("max_fp=0.01 needs 299 calibration samples, got 298" in w for w in fit.warnings_)
    both = ThreeWayThreshold(0.001, 0.001).fit(s, y)
    assert (both.predict(s) == -1).all()
    assert len(both.warnings_) == 2


def test_a_joint_budget_above_the_prevalence_is_named_trivial():
    rng = np.random.default_rng(0)
    s, y = rng.normal(size=5000), np.arange(5000) < 50  # random scores, 1 % positives
    joint = ThreeWayThreshold(0.02, 0.02).fit(s, y)
    assert (joint.predict(s) == -1).mean() == 0  # "certified", and worthless
    assert joint.trivial_ == "fn"
    assert any("class_conditional" in w for w in joint.warnings_)
    strict = ThreeWayThreshold(0.05, 0.2, budget="class_conditional").fit(s, y)
    assert strict.trivial_ == ""
    assert strict.warnings_ == []
    assert (strict.predict(s) == -1).mean() > 0.6
    assert ThreeWayThreshold(0.02, 0.02).fit(-s, ~y).trivial_ == "fp"
    assert ThreeWayThreshold(0.7, 0.7).fit(s, np.arange(5000) % 2).trivial_ == "both"


@pytest.mark.parametrize(
    ("scores", "y", "params", "message"),
    [
        ([0.0, np.nan], [0, 1], {}, "NaN or infinite"),
        ([0.0, np.inf], [0, 1], {}, "NaN or infinite"),
        ([[0.0], [1.0]], [0, 1], {}, r"shape \(2, 1\)"),
        ([], [], {}, r"shape \(0,\)"),
        ([0.0, 1.0, 2.0], [0, 1], {}, "2 values for 3 samples"),
        ([0.0, 1.0], [1, 2], {}, "Concept"),
        ([0.0, 1.0], [-1, 1], {}, "expected only 0 and 1"),
        ([0.0, 1.0], [1, 1], {}, "every label is 1"),
        ([0.0, 1.0], [0, 0], {}, "every label is 0"),
        ([0.0, 1.0], [0, 1], {"max_fp": 0.0}, "max_fp=0"),
        ([0.0, 1.0], [0, 1], {"max_fn": 1.0}, "max_fn=1"),
        ([0.0, 1.0], [0, 1], {"delta": 1.5}, "delta=1.5"),
        *(
            ([0.0, 1.0], [0, 1], {"abstain_value": v}, f"abstain_value={v!r}, expected an int8")
            for v in (1, 0, 128, None, "x", 2.5, True)
        ),
    ],
)
def test_bad_input_is_a_user_error_that_names_it(scores, y, params, message):
    threshold = ThreeWayThreshold(0.01, 0.01).set_params(**params)
    with pytest.raises(UserError, match=message):
        threshold.fit(np.array(scores), np.array(y))


def test_masked_values_are_refused_and_an_unmasked_array_is_welcome():
    s, y = sample(500)
    fit = ThreeWayThreshold(0.05, 0.05).fit(np.ma.array(s), y)
    assert fit.t_hi_ == ThreeWayThreshold(0.05, 0.05).fit(s, y).t_hi_
    for scores, labels in ((np.ma.array(s, mask=s > 0.9), y), (s, np.ma.array(y, mask=s > 0.9))):
        with pytest.raises(UserError, match="values are masked"):
            fit.fit(scores, labels)
    with pytest.raises(UserError, match="values are masked"):
        fit.predict(np.ma.array(s, mask=s > 0.9))


def test_predict_refuses_nan_and_an_unknown_method_is_named():
    fit = ThreeWayThreshold(0.05, 0.05).fit(*sample(500))
    with pytest.raises(UserError, match="first at index 1"):
        fit.predict(np.array([0.1, np.nan]))
    with pytest.raises(UserError, match="choose from exact, crc, empirical"):
        ThreeWayThreshold(0.05, 0.05).set_params(method="hoeffding").fit(*sample(500))
    with pytest.raises(UserError, match="choose from joint, class_conditional"):
        ThreeWayThreshold(0.05, 0.05).set_params(budget="marginal").fit(*sample(500))


def test_it_follows_the_conventions_of_scikit_learn():
    threshold = ThreeWayThreshold(0.05, 0.02, delta=0.2, method="crc", abstain_value=-2)
    copy = clone(threshold)
    assert copy is not threshold
    assert copy.get_params() == threshold.get_params()
    with pytest.raises(NotFittedError):
        copy.predict([0.0])
    s, y = sample(500)
    assert copy.fit(s, y) is copy
    region = copy.predict(s)
    assert region.dtype == np.int8
    assert set(region.tolist()) == {-2, 0, 1}
    assert "On average" in copy.guarantee_
    assert "probability >= 0.9 " in ThreeWayThreshold(0.05, 0.02).fit(s, y).guarantee_
    assert ThreeWayThreshold(0.05, 0.02, method="empirical").fit(s, y).guarantee_[:4] == "None"


def test_the_classifier_only_calibrates_and_reads_log_odds_from_probabilities():
    s, y = sample(1500, 8)
    x = s[:, None]
    head = LogisticRegression(C=10.0).fit(x[:500], y[:500])
    weights = head.coef_.copy()

    class Probabilities:
        """The same head with predict_proba alone."""

        classes_ = np.array([0, 1])

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return head.predict_proba(x)

    threshold = ThreeWayThreshold(0.02, 0.02)
    model = ThreeWayClassifier(head, threshold).fit(x[500:], y[500:])
    reference = ThreeWayThreshold(0.02, 0.02).fit(head.decision_function(x[500:]), y[500:])
    np.testing.assert_array_equal(head.coef_, weights)
    assert not hasattr(threshold, "t_lo_")
    np.testing.assert_array_equal(model.predict(x), reference.predict(head.decision_function(x)))
    other = ThreeWayClassifier(Probabilities(), threshold).fit(x[500:], y[500:])
    np.testing.assert_allclose(other.decision_function(x), head.decision_function(x), atol=1e-9)
    with pytest.raises(NotFittedError):
        ThreeWayClassifier(LogisticRegression(), threshold).fit(x, y)
    with pytest.raises(UserError, match="classes_"):
        ThreeWayClassifier(LogisticRegression().fit(x, y + 1), threshold).fit(x, y)
