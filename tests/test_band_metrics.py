"""BandMetrics: equal to the functions, whatever the batches and the processes."""

import numpy as np
import pytest
import torch
from ranks import on_ranks

from pnp.distributed import gloo_group
from pnp.errors import UserError
from pnp.evaluation import BandMetrics, ThreeWayThreshold, band_curve, band_report, score_metrics


def sample(n=1500, seed=0):
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(n, generator=g)
    eta = torch.sigmoid(20 * (u - 0.5))
    y = (torch.rand(n, generator=g) < eta).long()
    return (20 * (u - 0.5)).round(decimals=1), y, eta


def computed(batches, **options):
    metric = BandMetrics(0.02, 0.02, **options)
    for batch in batches:
        metric.update(*batch)
    return {k: v.item() for k, v in metric.compute().items()}


def test_it_computes_what_the_functions_do():
    s, y, _ = sample()
    ours = computed([(s, y)])
    exact = ThreeWayThreshold(0.02, 0.02).fit(s, y)
    plugin = ThreeWayThreshold(0.02, 0.02, method="empirical").fit(s, y)
    expected = {
        **score_metrics(s, y),
        "band/width": np.mean(exact.predict(s) == -1),
        "band/plugin": np.mean(plugin.predict(s) == -1),
        "band/curve_mean": band_curve(s, y)["mean"],
        "thr/t_hi": exact.t_hi_,
        "thr/k_fp": exact.k_fp_,
        "data/n": 1500,
        "data/pi1": y.double().mean().item(),
    }
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-6), name
    assert not any(name.startswith(("err/", "oracle/")) for name in ours)


def test_with_a_threshold_calibrated_elsewhere_it_agrees_with_the_report():
    (cs, cy, _), (ts, ty, eta) = sample(seed=1), sample(seed=2)
    expected = band_report(cs, cy, ts, ty, max_fp=0.02, max_fn=0.02, test_eta=eta).metrics
    threshold = ThreeWayThreshold(0.02, 0.02, abstain_value=7).fit(cs, cy)
    ours = computed([(ts, ty, eta)], threshold=threshold)
    for name in ("band/width", "err/fp_ucb", "sel/risk", "oracle/excess", "sel/aurc", "thr/t_lo"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-6), name
    with pytest.raises(UserError, match="not fitted"):
        BandMetrics(threshold=ThreeWayThreshold(0.02, 0.02))


def test_batches_their_order_and_half_precision_of_exact_values_change_nothing():
    s, y, eta = sample()
    s = s.bfloat16().float()
    order = torch.randperm(s.numel(), generator=torch.Generator().manual_seed(0))
    whole = computed([(s, y, eta)])
    parts = zip(s[order].split(400), y[order].split(400), eta[order].split(400), strict=True)
    assert computed(parts) == whole
    assert computed([(s.bfloat16(), y.bool(), eta)]) == whole


def test_reset_forgets_and_bad_input_is_a_user_error():
    s, y, eta = sample(600)
    metric = BandMetrics(0.1, 0.1)
    metric.update(s, y, eta)
    metric.reset()
    with pytest.raises(UserError, match="no samples"), pytest.warns(UserWarning, match="before"):
        metric.compute()
    for batches, message in [
        ([(s * float("nan"), y)], "NaN"),
        ([(s, torch.ones_like(y))], "every label is 1"),
        ([(s, y, eta), (s, y)], "some samples only"),
        ([(s, y, eta + 1)], "expected probabilities"),
    ]:
        with pytest.raises(UserError, match=message):
            computed(batches)
    with pytest.raises(UserError, match="shapes"):
        metric.update(s[:, None], y[:, None])


def measure_share(index, folder):
    with gloo_group(f"{folder}/store", index, 2):
        # Uneven: 1000 samples in two batches and 500 in one.
        mine = [t[:1000] if index == 0 else t[1000:] for t in sample()]
        batches = zip(*(t.split(500) for t in mine), strict=True)
        torch.save(computed(batches), f"{folder}/{index}.pt")


def test_two_processes_compute_exactly_what_one_does(tmp_path):
    on_ranks(measure_share, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{index}.pt") for index in range(2))
    assert first == second == computed([sample()])
