"""Small multiples of one run: every logged metric over steps, as SVG that follows the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import pairwise

from pnp.report.reading import Curve, describe_curve, split_key
from pnp.results import OWNERS

# matplotlib knows no CSS variables: these inks are put in their place afterwards.
INKS = {
    "student": ("#010101", "var(--k0)"),
    "teacher": ("#010102", "var(--k1)"),
    "text": ("#010103", "var(--soft)"),
    "grid": ("#010104", "var(--rule)"),
}
ORDER = (*OWNERS, "batch", "")
LARGEST = 1e100  # beyond this an axis overflows


@dataclass(frozen=True)
class Panel:
    """One chart: name, meaning, SVG, (css, label, last value) of each line, and a remark."""

    name: str
    meaning: str
    svg: str
    legend: list[tuple[str, str, float]]
    remark: str


def panels(curves: Mapping[str, Curve], axis: str = "optimizer step") -> dict[str, list[Panel]]:
    """The panels of every section; lines of student, teacher and batch share one.

    Args:
        curves: steps and values by logged key.
        axis: what stands in the place of the steps, in words.
    """
    grouped: dict[str, dict[str, dict[str, Curve]]] = {}
    for key, curve in curves.items():
        section, name, owner = split_key(key)
        grouped.setdefault(section, {}).setdefault(name, {})[owner] = curve
    ends = [end for steps, _ in curves.values() for end in (steps[0], steps[-1])]
    return {
        section: [
            _panel(section, name, lines, (min(ends), max(ends)), axis)
            for name, lines in own.items()
        ]
        for section, own in grouped.items()
    }


def _panel(
    section: str, name: str, lines: dict[str, Curve], x: tuple[float, float], axis: str
) -> Panel:
    words = describe_curve(section, name)
    odd = sum(not abs(value) < LARGEST for _, values in lines.values() for value in values)
    remark = f"{odd:,} value{'s' * (odd > 1)} not finite (gaps)" if odd else ""
    lines = dict(sorted(lines.items(), key=lambda line: ORDER.index(line[0])))
    legend = [(owner, owner if owner != name else "", y[-1]) for owner, (_, y) in lines.items()]
    label = f"{words.heading} against {axis}: " + ", ".join(
        f"{o} ends at {v:.4g}" for _, o, v in legend
    )
    return Panel(words.heading, words.meaning, draw(lines, x, label), legend, remark)


def draw(lines: Mapping[str, Curve], x: tuple[float, float], label: str) -> str:
    """An SVG of lines over steps, described by `label`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    text, grid = INKS["text"][0], INKS["grid"][0]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "path.simplify": True}):
        figure = Figure(figsize=(3.8, 1.9))
        axis = figure.add_axes((0.115, 0.125, 0.87, 0.82))
        for owner, (steps, values) in lines.items():
            ys = [v if abs(v) < LARGEST else math.nan for v in values]
            ink = INKS["teacher" if owner == "teacher" else "student"][0]
            style = {"batch": ":", "average": "--"}.get(owner, "-")
            axis.plot(steps, ys, style, color=ink, linewidth=1.4, marker="." if _dotted(ys) else "")
        axis.set_xlim(*(x if x[0] < x[1] else (x[0] - 1, x[0] + 1)))
        axis.grid(axis="y", color=grid, linewidth=0.7)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labelsize=8, colors=text)
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.yaxis.offsetText.set(color=text, size=8)
        stream = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue().partition("<svg ")[2]
    for ink, variable in INKS.values():
        svg = svg.replace(ink, variable)
    return f'<svg role="img" aria-label="{escape(label)}" {svg}'


def _dotted(values: Sequence[float]) -> bool:
    """No two neighbours are finite: a line would show nothing."""
    finite = [math.isfinite(value) for value in values]
    return not any(a and b for a, b in pairwise(finite))
