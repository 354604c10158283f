"""Where an axis has its ticks and what they say."""

import math


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside `[low, high]`, about `count`.

    >>> linear_ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside `[low, high]`, with their 2 and 5 when there are few.

    >>> log_ticks(0.001, 0.1)
    [0.001, 0.01, 0.1]
    """
    decades = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    ticks = [float(f"{m}e{k}") for k in decades for m in (1, 2, 5)]
    inside = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
    return inside if len(inside) <= 5 else [t for t in inside if f"{t:e}"[0] == "1"]


def tick_label(value: float, step: float) -> str:
    """`value` with the digits that tell it from its neighbours `step` away.

    >>> tick_label(0.25, 0.25), tick_label(12000, 2000), tick_label(2e-6, 1e-6)
    ('0.25', '12k', '2e-6')
    """
    places = math.floor(math.log10(step) + 1e-9) if step > 0 else 0
    if not math.isclose(step, round(step, -places), rel_tol=1e-6, abs_tol=0):
        places -= 1  # a step of 2.5 needs one more digit
    if abs(value) < step * 1e-6:
        return "0"
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e12 and (abs(value) >= 1e4 or step >= 1e3):
            return f"{value / unit:.{max(0, round(math.log10(unit)) - places)}f}{suffix}"
    if 1e-4 <= abs(value) < 1e4:
        return f"{value:.{max(0, -places)}f}"
    digits = max(0, math.floor(math.log10(abs(value))) - places)
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
