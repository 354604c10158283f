"""Line charts as small inline SVG: series in, one string out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pnp.report.ticks import linear_ticks, log_ticks, tick_label

LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 32  # margins around the plot, in viewBox units
LARGEST = 1e300  # beyond this a difference of two values may overflow
SMALLEST = 1e-300  # below this a division by one may


@dataclass(frozen=True)
class Series:
    """One line: points `(x, y)`, an optional ribbon from `low` to `high`, and its CSS classes."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    css: str = "c0"


def is_drawable(*values: float) -> bool:
    """Whether every value is finite and small enough to be placed on an axis."""
    return all(abs(value) < LARGEST for value in values)  # False for NaN too


def thin(series: Series, limit: int = 400) -> Series:
    """Keep at most `limit` points: the least and the largest of each bucket, so no spike is lost.

    >>> thin(Series("a", range(10), [0, 9, 0, 0, 0, 0, 0, 0, -5, 0]), limit=4).y
    [0, 9, 0, -5]
    """
    size = len(series.x)
    if size <= limit:
        return series
    buckets = max(1, limit // 2)
    kept: set[int] = set()
    for bucket in range(buckets):
        inside = range(bucket * size // buckets, (bucket + 1) * size // buckets)
        drawable = [i for i in inside if is_drawable(series.y[i])] or [inside[0]]
        kept |= {min(drawable, key=lambda i: series.y[i]), max(drawable, key=lambda i: series.y[i])}
    index = sorted(kept)
    x, y, low, high = (
        None if column is None else [column[i] for i in index]
        for column in (series.x, series.y, series.low, series.high)
    )
    return Series(series.label, x or [], y or [], low, high, series.css)


def _limits(values: list[float]) -> tuple[float, float]:
    """The span of `values`, widened when it is too narrow to divide."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), SMALLEST):
        pad = abs(low) / 2 if abs(low) > SMALLEST else 0.5
        return low - pad, high + pad
    return low, high


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    log_x: bool = False,
    x_range: tuple[float, float] | None = None,
    near: str = "x",
    width: int = 360,
    height: int = 190,
) -> str:
    """Draw `series` into one `<svg>`, legible without a script; non-finite values leave gaps.

    Colours come from the page (`.c0`, `.c1`, … set `--ink`); `data-scale` lets a script turn
    positions back into values, `data-near` (`x` or `xy`) says what is nearest to a pointer.
    """
    xs = [x for values in [x_range or (), *(s.x for s in series)] for x in values]
    xs = [x for x in xs if is_drawable(x) and (x > 0 or not log_x)]
    rows = [values for s in series for values in (s.y, s.low, s.high) if values is not None]
    ys = [y for values in rows for y in values if is_drawable(y)]
    x0, x1 = _limits([math.log10(x) for x in xs] if log_x else xs)
    y0, y1 = _limits(ys)
    pad = (y1 - y0) * 0.05
    y0, y1 = y0 - pad, y1 + pad
    right, bottom = width - RIGHT, height - BOTTOM

    def px(x: float) -> float:
        return LEFT + ((math.log10(x) if log_x else x) - x0) / (x1 - x0) * (right - LEFT)

    def py(y: float) -> float:
        return bottom - (y - y0) / (y1 - y0) * (bottom - TOP)

    def runs(s: Series, *columns: Sequence[float]) -> list[list[tuple[float, ...]]]:
        found: list[list[tuple[float, ...]]] = [[]]
        for x, *values in zip(s.x, *columns, strict=True):
            if is_drawable(x, *values) and (x > 0 or not log_x):
                found[-1].append((px(x), *map(py, values)))
            elif found[-1]:
                found.append([])
        return [run for run in found if run]

    y_ticks = linear_ticks(y0, y1)
    x_ticks = log_ticks(10**x0, 10**x1) if log_x else linear_ticks(x0, x1)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" tabindex="0" '
        f'aria-label="{escape(title)}" data-x="{escape(x_label)}" data-near="{near}" '
        f'data-scale="{x0!r} {x1!r} {y0!r} {y1!r} {LEFT} {right} {bottom} {TOP} {int(log_x)}">'
    ]
    gap = y_ticks[1] - y_ticks[0] if len(y_ticks) > 1 else y1 - y0
    for y in y_ticks:
        at = py(y)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(
            f'<text class="yt" x="{LEFT - 6}" y="{at + 3.5:.1f}">{tick_label(y, gap)}</text>'
        )
    gap = x_ticks[1] - x_ticks[0] if len(x_ticks) > 1 else x1 - x0
    for x in x_ticks:
        at, text = px(x), tick_label(x, 10.0 ** math.floor(math.log10(x)) if log_x else gap)
        parts.append(f'<path class="tick" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text class="xt" x="{at:.1f}" y="{bottom + 15}">{text}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    parts.append(f'<text class="xl" x="{right}" y="{height - 3}">{escape(x_label)}</text>')
    for s in series:
        css = escape(s.css)
        if s.low is not None and s.high is not None:
            for run in runs(s, s.low, s.high):
                edge = [(x, low) for x, low, _ in run] + [(x, high) for x, _, high in run[::-1]]
                points = " ".join(f"{x:.1f} {y:.1f}" for x, y in edge)
                parts.append(f'<path class="ribbon {css}" d="M{points}Z"/>')
        lines = runs(s, s.y)
        if lines:
            # A run of one point becomes a line of no length, which a round cap turns into a dot.
            lines = [run * 2 if len(run) == 1 else run for run in lines]
            d = "".join("M" + " ".join(f"{x:.2f} {y:.2f}" for x, y in run) for run in lines)
            dot = " dot" if len(s.x) == 1 else ""
            parts.append(f'<path class="line {css}{dot}" data-label="{escape(s.label)}" d="{d}"/>')
    if not ys:
        middle = (LEFT + right) / 2
        parts.append(f'<text class="none" x="{middle}" y="{height / 2}">no finite value</text>')
    return "".join(parts) + "</svg>"
