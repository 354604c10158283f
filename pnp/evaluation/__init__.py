"""Evaluation of frozen features; names load on first use, so that the band needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pnp.evaluation.band import (
        BandCurve,
        BandMetrics,
        BandReport,
        Concept,
        ThreeWayClassifier,
        ThreeWayThreshold,
        allowed_errors,
        auroc,
        band_curve,
        band_report,
        clopper_pearson,
        closed_form_band,
        min_calibration_size,
        one_vs_rest,
        oracle_band,
        parse_concepts,
        risk_coverage,
        score_metrics,
    )

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
    """Import a public name on first use."""
    if name in __all__:
        return getattr(import_module("pnp.evaluation.band"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
