"""Evaluation of frozen features: probes, geometry, the band, and the pictures of them.

The names of `pnp.band` are here too, where version 0.1 had them; they load on first use.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import a name of the band on first use."""
    import pnp.band

    if name == "BandMetrics":  # the only one that needs torch
        from pnp.evaluation.band_metrics import BandMetrics

        return BandMetrics
    if name in pnp.band.__all__:
        return getattr(pnp.band, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names that load on first use beside the others."""
    import pnp.band

    return [*globals(), *pnp.band.__all__, "BandMetrics"]
