"""Schedules as pure functions of the optimizer step."""

import math


def cosine(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` (step 0) to `end` (step `total` and after).

    >>> cosine(0, 100, 0.99, 1.0), cosine(100, 100, 0.99, 1.0)
    (0.99, 1.0)
    """
    progress = min(max(step / total, 0.0), 1.0) if total > 0 else 1.0
    return end - (end - start) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_cosine(step: int, total: int, warmup: int, floor: float = 0.0) -> float:
    """Learning-rate factor: linear from 1/warmup to 1, then a cosine down to `floor`.

    Args:
        step: the optimizer step about to be taken, from 0.
        total: optimizer steps of the whole run.
        warmup: optimizer steps of linear warm-up; 0 starts at the top.
        floor: the factor at the end.

    >>> [round(warmup_cosine(s, 12, 2), 2) for s in (0, 1, 2, 7, 12)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return cosine(step - warmup, total - warmup, 1.0, floor)
