"""Kinds of collapse: how each shows in the embeddings, and when it has come to stay."""

from dataclasses import dataclass

# What to do about each kind.
ADVICE = {
    "complete": "all images share one embedding: raise the weights of variance or repulsion",
    "cone": "all images sit in one narrow cone: raise variance or repulsion",
    "dimensional": "few axes are used: raise covariance or repulsion, or lower the learning rate",
}


def collapse_kind(measures: dict[str, float], images: int, dims: int) -> str | None:
    """Name the collapse that `geometry.describe` shows, the worst first; None when there is none.

    complete: mean cosine above 0.95; cone: above 0.49, which is ‖mean z‖ above 0.7 of many images
    (of N spread ones ‖mean z‖² is 1/N, and the mean cosine over pairs 0); dimensional: effective
    rank below 5 % of what N images in D dimensions allow.
    """
    if measures["mean_cosine"] > 0.95:
        return "complete"
    if measures["mean_cosine"] > 0.49:
        return "cone"
    if measures["effective_rank"] < 0.05 * min(dims, images - 1):
        return "dimensional"
    return None


@dataclass(frozen=True)
class Sighting:
    """A measurement of one network: its kind of collapse, its mean cosine, the step."""

    kind: str | None
    cosine: float
    step: int


def is_alarming(before: Sighting | None, now: Sighting, total_steps: int) -> bool:
    """Tell whether a kind of collapse has come to stay.

    Every network starts as a cone: healthy ones of 28 px digits left it after 50 steps of 150. It
    has a third of the run (16 to 250 steps) and is left alone while its cone opens: while the mean
    cosine falls by more than .02 between two measurements.
    """
    if now.kind is None or before is None or now.kind != before.kind:
        return False
    opening = now.kind != "dimensional" and now.cosine < before.cosine - 0.02
    return now.step >= min(250, max(16, total_steps / 3)) and not opening
