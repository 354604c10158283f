"""P / ¬P / uncertain: thresholds whose error budgets hold, and the band they leave.

A score s(x) decides P where s > t_hi, ¬P where s < t_lo, and "uncertain" in the band between. The
thresholds make the band as narrow as the budgets allow, and no narrower. Needs numpy, scipy and
scikit-learn only.
"""

from pnp.band.allowed import allowed_errors, min_calibration_size
from pnp.band.classifier import ThreeWayClassifier
from pnp.band.concepts import Concept, one_vs_rest, parse_concepts
from pnp.band.curves import BandCurve, band_curve
from pnp.band.monitoring import Monitored, monitor
from pnp.band.oracle import closed_form_band, oracle_band
from pnp.band.planning import Planned, plan
from pnp.band.report import BandReport, band_report
from pnp.band.scores import auroc, clopper_pearson, risk_coverage, score_metrics
from pnp.band.several import fit_each
from pnp.band.thresholds import ThreeWayThreshold

__all__ = [
    "BandCurve",
    "BandReport",
    "Concept",
    "Monitored",
    "Planned",
    "ThreeWayClassifier",
    "ThreeWayThreshold",
    "allowed_errors",
    "auroc",
    "band_curve",
    "band_report",
    "clopper_pearson",
    "closed_form_band",
    "fit_each",
    "min_calibration_size",
    "monitor",
    "one_vs_rest",
    "oracle_band",
    "parse_concepts",
    "plan",
    "risk_coverage",
    "score_metrics",
]
