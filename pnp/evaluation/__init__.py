"""Evaluation of frozen features: probes, geometry, the band, and the pictures of them.

The names of `pnp.band` are here too, where version 0.1 had them.
"""

from typing import Any

from pnp import band
from pnp.band import *  # noqa: F403

__all__ = [*band.__all__, "BandMetrics"]  # noqa: F405  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import `BandMetrics`, the one name that needs torch, on first use."""
    if name == "BandMetrics":
        from pnp.evaluation.band_metrics import BandMetrics

        return BandMetrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
