"""P / not-P / uncertain: thresholds whose error budgets hold, and the band they leave.

A score s(x) decides P where s > t_hi, not-P where s < t_lo, and "uncertain" in the band between.
The thresholds make the band as narrow as the budgets allow, and no narrower. Everything public
about it is here; nothing but `BandMetrics` needs torch.
"""

from typing import TYPE_CHECKING, Any

from pnp.evaluation.band_reports import BandCurve, BandReport, band_curve, band_report
from pnp.evaluation.classifier import ThreeWayClassifier
from pnp.evaluation.concepts import Concept, one_vs_rest, parse_concepts
from pnp.evaluation.oracle import closed_form_band, oracle_band
from pnp.evaluation.scoring import auroc, clopper_pearson, risk_coverage, score_metrics
from pnp.evaluation.thresholds import (
    ThreeWayThreshold,
    allowed_errors,
    min_calibration_size,
)

if TYPE_CHECKING:
    from pnp.evaluation.band_metrics import BandMetrics

__all__ = [
    "BandCurve",
    "BandMetrics",
    "BandReport",
    "Concept",
    "ThreeWayClassifier",
    "ThreeWayThreshold",
    "allowed_errors",
    "auroc",
    "band_curve",
    "band_report",
    "clopper_pearson",
    "closed_form_band",
    "min_calibration_size",
    "one_vs_rest",
    "oracle_band",
    "parse_concepts",
    "risk_coverage",
    "score_metrics",
]


def __getattr__(name: str) -> Any:
    """Import `BandMetrics`, and with it torch, only when asked for."""
    if name == "BandMetrics":
        from pnp.evaluation.band_metrics import BandMetrics

        return BandMetrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
