"""The band as a torchmetrics Metric: the same numbers on one process or many."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pnp.band.curves import band_curve
from pnp.band.inputs import Budget, Method, as_labels, as_posterior, as_vector
from pnp.band.report import error_metrics, oracle_metrics, threshold_metrics
from pnp.band.scores import score_metrics
from pnp.band.thresholds import ThreeWayThreshold
from pnp.errors import UserError


class BandMetrics(Metric):
    """Band width, selective risk and calibration of all logits seen since `reset`.

    `compute` returns scalars: `band/plugin` (thresholds from these samples, for ranking),
    `band/curve_mean`, `band/width` (of `threshold` if given, else of one calibrated on these
    samples), `thr/*`, `data/*` and those of `score_metrics`; with a `threshold` calibrated
    elsewhere also `err/*` and `sel/risk`, which on its own calibration samples would flatter;
    with eta also `oracle/*`. See `band_report` for their meaning.

    All samples are gathered and sorted before anything is computed, so that neither batches nor
    processes change a bit of the result. A sampler that repeats samples to fill the last batch
    counts them twice.

    Args:
        max_fp: budget of false positives, see `ThreeWayThreshold`.
        max_fn: budget of false negatives.
        delta: probability with which the budgets may fail.
        method: `exact`, `crc` or `empirical`, for `band/width`.
        budget: `joint` or `class_conditional`.
        threshold: a fitted `ThreeWayThreshold`, used as it is in place of the five above for
            `band/width`.
        **kwargs: for `torchmetrics.Metric`.

    Raises:
        UserError: if `threshold` is not fitted.

    Example:
        >>> metric = BandMetrics(max_fp=0.1, max_fn=0.1)
        >>> metric.update(torch.linspace(-3, 3, 200), torch.arange(200) >= 100)
        >>> float(metric.compute()["rank/auroc"])
        1.0
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    scores: list[Tensor]
    target: list[Tensor]
    eta: list[Tensor]

    def __init__(
        self,
        max_fp: float = 0.01,
        max_fn: float = 0.01,
        delta: float = 0.1,
        method: Method = "exact",
        budget: Budget = "joint",
        threshold: ThreeWayThreshold | None = None,
        **kwargs: Any,
    ) -> None:
        """Store the budgets and make the (gathered) states."""
        super().__init__(**kwargs)
        if threshold is not None and not hasattr(threshold, "t_lo_"):
            raise UserError("threshold: not fitted. Call threshold.fit(scores, y) first.")
        self.max_fp = max_fp
        self.max_fn = max_fn
        self.delta = delta
        self.method: Method = method
        self.budget: Budget = budget
        self.threshold = threshold
        for state in ("scores", "target", "eta"):
            self.add_state(state, default=[], dist_reduce_fx="cat")  # pyright: ignore[reportUnknownMemberType]

    def update(
        self,
        scores: Tensor,
        target: Tensor,
        eta: Tensor | None = None,
    ) -> None:
        """Add logits (n,), labels 0/1 (n,) and, where known, eta = P(Y=1 | x) (n,).

        Values are checked in `compute`, since looking at them here would stall the accelerator.

        Raises:
            UserError: if the shapes are not the same (n,).
        """
        given = [scores, target] if eta is None else [scores, target, eta]
        if scores.ndim != 1 or any(t.shape != scores.shape for t in given):
            raise UserError(
                f"BandMetrics: shapes {[tuple(t.shape) for t in given]}, expected one (n,) for all."
            )
        known = torch.full_like(scores, torch.nan, dtype=torch.float32) if eta is None else eta
        # Float32 holds any half-precision logit exactly; float64 stays, lest rounding cross t_hi.
        exact = scores if scores.dtype == torch.float64 else scores.float()
        self.scores.append(exact.detach())
        self.target.append(target.detach().float())
        self.eta.append(known.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics as float32 scalars on the metric's device.

        Raises:
            UserError: if nothing was added, one class is missing, a value is NaN, or eta was given
                for some samples only.
        """
        if len(self.scores) == 0:  # a list, or after a synchronisation a tensor
            raise UserError("BandMetrics: no samples. Call update(scores, target) first.")
        s, y, eta = (_numpy(state) for state in (self.scores, self.target, self.eta))
        order = np.lexsort((eta, y, s))
        s, eta = as_vector(s[order], "scores"), eta[order]
        positive = as_labels(y[order], s.size, need_both=True)
        threshold = self.threshold or ThreeWayThreshold(
            self.max_fp, self.max_fn, self.delta, self.method, self.budget
        ).fit(s, positive)
        region = threshold.predict(s)
        region[region == threshold.abstain_value] = -1
        plugin = ThreeWayThreshold(self.max_fp, self.max_fn, method="empirical", budget=self.budget)
        ratio = self.max_fn / self.max_fp
        curve = band_curve(s, positive, fn_ratio=ratio, budget=self.budget)
        metrics = {
            "band/width": float(np.mean(region == -1)),
            "band/plugin": float(np.mean(plugin.fit(s, positive).predict(s) == -1)),
            "band/curve_mean": curve["mean"],
            **score_metrics(s, positive),
            **threshold_metrics(threshold),
            "thr/trivial": bool(threshold.trivial_),
            "data/n": float(s.size),
            "data/pi1": float(positive.mean()),
        }
        if self.threshold is not None:
            metrics |= error_metrics(region, positive, threshold)
        missing = np.isnan(eta)
        if missing.any() and not missing.all():
            raise UserError("eta is known for some samples only. Give it always or never.")
        if not missing.any():
            known = as_posterior(eta, s.size)
            metrics |= oracle_metrics(region, known, self.max_fp, self.max_fn, self.budget)
        return {
            name: torch.tensor(float(value), dtype=torch.float32, device=self.device)
            for name, value in metrics.items()
            if not isinstance(value, str)
        }


def _numpy(state: list[Tensor] | Tensor) -> np.ndarray:
    """A state as float64, be it the list of updates or what a synchronisation made of it."""
    return dim_zero_cat(state).cpu().numpy().astype(np.float64)
