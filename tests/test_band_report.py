"""The band's report, curve and score metrics: against references, closed forms and known faults."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from pnp.errors import UserError
from pnp.evaluation import (
    auroc,
    band_curve,
    band_report,
    clopper_pearson,
    closed_form_band,
    risk_coverage,
    score_metrics,
)


def sample(n, seed, noise=0.0):
    """Logits, labels and eta with eta = sigmoid(20 (u - .5)), u ~ U[0, 1]."""
    rng = np.random.default_rng(seed)
    u = rng.random(n)
    eta = expit(20 * (u - 0.5))
    return 20 * (u - 0.5 + noise * rng.normal(size=n)), (rng.random(n) < eta).astype(int), eta


def report(n=2000, seed=0, noise=0.0, a=0.01, **options):
    (cs, cy, _), (ts, ty, eta) = sample(n, seed, noise), sample(n, seed + 1000, noise)
    return band_report(cs, cy, ts, ty, max_fp=a, max_fn=a, test_eta=eta, **options)


def test_clopper_pearson_equals_scipy_and_the_calibration_rule_it_mirrors():
    for k, n in [(0, 10), (3, 50), (50, 50), (17, 2000)]:
        exact = stats.binomtest(k, n).proportion_ci(0.9, "exact")
        assert clopper_pearson(k, n, 0.1) == pytest.approx((exact.low, exact.high), abs=1e-12)
        upper = stats.binomtest(k, n, alternative="less").proportion_ci(0.95, "exact")
        assert clopper_pearson(k, n, 0.05, "upper") == pytest.approx((0.0, upper.high), abs=1e-12)
        lower = stats.binomtest(k, n, alternative="greater").proportion_ci(0.95, "exact")
        assert clopper_pearson(k, n, 0.05, "lower") == pytest.approx((lower.low, 1.0), abs=1e-12)
    for bad in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(UserError):
            clopper_pearson(*bad)


def brute_force_risks(s, y):
    """Mean over every order of equal confidences of the textbook sums."""
    wrong = (np.asarray(s) >= 0) != np.asarray(y)
    results = []
    for order in itertools.permutations(range(len(s))):
        confidence = np.abs(np.asarray(s))[list(order)]
        if (np.diff(confidence) > 0).any():
            continue
        errors = np.cumsum(wrong[list(order)])
        i = np.arange(1, len(s) + 1)
        results.append((np.mean(errors / i), np.mean(errors / len(s))))
    return np.mean(results, axis=0)


def test_risk_coverage_areas_average_over_every_order_of_ties():
    for s, y in [
        ([1.0, 1.0, -1.0, 1.0, 2.0, 0.0], [1, 0, 0, 0, 1, 0]),
        ([0.5] * 6, [1, 1, 1, 1, 1, 0]),
        ([3.0, -2.0, 1.0, -0.5, 0.1], [0, 0, 1, 1, 0]),
    ]:
        assert risk_coverage(s, y) == pytest.approx(tuple(brute_force_risks(s, y)), abs=1e-12)
        assert risk_coverage(s[::-1], y[::-1]) == risk_coverage(s, y)


def test_score_metrics_equal_scikit_learn_and_torchmetrics():
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    s, y, _ = sample(800, 0, noise=0.1)
    s = np.round(s, 1)  # ties
    p = expit(s)
    ours = score_metrics(s, y)
    assert ours["rank/auroc"] == auroc(s, y) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert ours["cal/brier"] == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert ours["cal/logloss"] == pytest.approx(log_loss(y, p), abs=1e-12)
    ece = binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=15)
    assert ours["cal/ece"] == pytest.approx(float(ece), abs=1e-6)
    order = np.random.default_rng(0).permutation(s.size)
    assert score_metrics(s[order], y[order]) == pytest.approx(ours, abs=1e-13)


def test_logloss_and_calibration_survive_extreme_logits():
    ours = score_metrics([1e4, -1e4, 800.0], [1, 0, 0])
    assert ours["cal/logloss"] == pytest.approx(800 / 3)
    assert ours["cal/brier"] == pytest.approx(1 / 3)


def test_the_plugin_curve_converges_to_the_closed_form():
    s, y, _ = sample(200_000, 1)
    curve = band_curve(s, y)
    assert curve["level"].shape == curve["width"].shape == (21,)
    exact = [closed_form_band(20, 0.5, a, a)["band"] for a in curve["level"].tolist()]
    np.testing.assert_allclose(curve["width"], exact, atol=0.01)
    assert curve["mean"] == pytest.approx(np.mean(exact), abs=0.003)
    assert (np.diff(curve["width"]) <= 0).all()


def test_the_report_is_what_its_regions_say():
    (cs, cy, _), (ts, ty, eta) = sample(2000, 4), sample(3000, 5)
    result = band_report(
        cs, cy, ts, ty, max_fp=0.01, max_fn=0.02, test_eta=eta, test_classes=ty + 3
    )
    m, region = result.metrics, result.threshold.predict(ts)
    assert m["band/width"] == np.mean(region == -1)
    assert m["band/width_lo"] < m["band/width"] < m["band/width_hi"]
    assert m["err/fp_joint"] == np.mean((region == 1) & (ty == 0))
    assert m["err/fpr"] == np.mean(region[ty == 0] == 1)
    assert m["err/fnr"] == np.mean(region[ty == 1] == 0)
    assert (
        m["err/fp_ucb"] == clopper_pearson(round(m["err/fp_joint"] * 3000), 3000, 0.05, "upper")[1]
    )
    assert m["err/fn_confirmed"] == (m["err/fn_ucb"] <= 0.02)
    assert m["sel/risk"] == np.mean(region[region != -1] != ty[region != -1])
    assert m["band/pos_rate"] == pytest.approx(ty[region == -1].mean())
    assert m["band/class/4"] == np.mean(region[ty == 1] == -1)
    assert m["err/fp_joint_eta"] == pytest.approx(np.mean((1 - eta) * (region == 1)))
    assert m["oracle/width"] == pytest.approx(
        closed_form_band(20, 0.5, 0.01, 0.02)["band"], abs=0.02
    )
    assert m["oracle/excess"] == pytest.approx(m["oracle/extra"] - m["oracle/erased"])
    assert m["oracle/recall"] == pytest.approx(1 - m["oracle/erased"] / m["oracle/width"])
    assert m["oracle/precision"] == pytest.approx(1 - m["oracle/extra"] / m["band/width"])
    assert (m["data/n_calib"], m["data/n_test"], m["thr/trivial"]) == (2000, 3000, "")
    assert all(isinstance(v, float | bool | str) for v in m.values())
    assert set(result.curves) == {"plugin", "certified", "oracle"}
    assert result.alarms == []


def test_a_noisy_score_can_have_a_wide_band_and_still_erase():
    good, noisy = report(n=10_000).metrics, report(n=10_000, noise=0.1).metrics
    assert good["oracle/recall"] > 0.99
    assert 0 < good["oracle/excess"] < 0.04
    assert noisy["oracle/excess"] > 0.1
    assert 0.75 < noisy["oracle/recall"] < 0.95


def test_class_conditional_reports_bound_the_class_rates():
    m = report(n=4000, a=0.05, budget="class_conditional").metrics
    half = closed_form_band(20, 0.5, 0.025, 0.025)["band"]  # P(Y=1) is one half
    assert m["oracle/width"] == pytest.approx(half, abs=0.02)
    assert m["err/fpr"] < m["err/fp_ucb"] < 0.08
    assert m["err/fp_joint"] < m["err/fpr"]


def test_honest_bands_raise_no_alarm_more_often_than_delta():
    alarmed = sum(bool(report(seed=seed, levels=[0.01]).alarms) for seed in range(100))
    assert alarmed <= stats.binom.ppf(0.999, 100, 0.1)


def test_leaked_calibration_raises_the_alarms():
    (cs, cy, _), (ts, ty, eta) = sample(4000, 6, 0.1), sample(4000, 7, 0.1)
    leaked = cs + 30 * (cy - 0.5)  # calibration scores of a head that has seen their labels
    result = band_report(leaked, cy, ts, ty, max_fp=0.01, max_fn=0.01, test_eta=eta)
    kinds = {alarm.split(":")[0] for alarm in result.alarms}
    assert {"exceeded", "erasing"} <= kinds
    assert result.metrics["oracle/excess"] < 0
    assert not result.metrics["err/fp_confirmed"]


def test_small_trivial_tied_and_probability_inputs_raise_their_alarms():
    def kinds(result):
        return {alarm.split(":")[0] for alarm in result.alarms}

    assert kinds(report(n=200, levels=[0.01])) >= {"too few"}
    assert kinds(report(a=0.6, levels=[0.01])) >= {"trivial"}
    (cs, cy, _), (ts, ty, _) = sample(2000, 8), sample(2000, 9)
    rounded = band_report(cs.round(), cy, ts.round(), ty, max_fp=0.01, max_fn=0.01)
    assert kinds(rounded) == {"tied"}
    probabilities = band_report(expit(cs), cy, expit(ts), ty, max_fp=0.01, max_fn=0.01)
    assert kinds(probabilities) == {"probabilities"}


def test_shares_of_nothing_are_nan_never_zero():
    everything = report(n=100, levels=[0.01]).metrics  # too few: all in the band
    assert everything["band/width"] == 1
    assert math.isnan(everything["sel/risk"])
    nothing = report(a=0.2, levels=[0.01]).metrics
    assert nothing["band/width"] == nothing["oracle/width"] == 0
    assert math.isnan(nothing["band/pos_rate"])
    assert math.isnan(nothing["oracle/recall"])


def test_report_names_the_array_at_fault():
    s, y, eta = sample(500, 10)
    with pytest.raises(UserError, match="calib_scores"):
        band_report(np.where(s > 0, np.nan, s), y, s, y, max_fp=0.1, max_fn=0.1)
    with pytest.raises(UserError, match="test_y"):
        band_report(s, y, s, y + 1, max_fp=0.1, max_fn=0.1)
    with pytest.raises(UserError, match="logits"):
        band_report(s, y, s, y, max_fp=0.1, max_fn=0.1, test_eta=eta * 3)
    with pytest.raises(UserError, match="test_classes: 3 values for 500"):
        band_report(s, y, s, y, max_fp=0.1, max_fn=0.1, test_classes=[1, 2, 3])


def test_the_band_needs_numpy_scipy_and_scikit_learn_only():
    code = (
        "import importlib, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in {'torch', 'lightning', 'torchvision', 'torchmetrics', 'hydra',\n"
        "                    'omegaconf', 'wandb', 'matplotlib', 'PIL', 'altair'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from pnp.evaluation import ThreeWayThreshold, band_report, oracle_band, Concept\n"
        "from pnp.band import band_curve\n"
        "ThreeWayThreshold(.1, .1).fit([0., 1.] * 50, [0, 1] * 50).predict([.5])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_resolves_from_both_modules():
    import pnp.band
    import pnp.evaluation
    import pnp.evaluation.band

    for name in pnp.band.__all__:
        assert getattr(pnp.evaluation, name) is getattr(pnp.band, name)
        assert getattr(pnp.evaluation.band, name) is getattr(pnp.band, name)
    assert pnp.evaluation.BandMetrics.__name__ == "BandMetrics"
    with pytest.raises(AttributeError):
        _ = pnp.evaluation.no_such_name
