"""Small multiples: which keys share a panel, what the panel says, in which order they come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pnp.report.reading import Curve
from pnp.report.svg import Series, is_drawable, line_chart, thin

NETWORKS = ("student", "teacher")
OWNERS = (*NETWORKS, "batch")  # "batch": the student on its training batch, while it learns
SECTIONS = {
    "loss": "Loss terms",
    "geometry": "Geometry of the embeddings",
    "probe": "Probes during training",
    "band": "Uncertainty band",
    "optim": "Optimisation",
    "speed": "Speed",
}
# What to look for, under the panel's name.
NOTES = {
    "total": "weighted sum of the terms",
    "mean_cosine": "between different images; 1 = complete collapse",
    "within_cosine": "between images of one class",
    "between_cosine": "between images of different classes",
    "sigma": "σ·√D; 1 = as spread as the sphere allows, 0 = collapse",
    "effective_rank": "axes in use; far below D = dimensional collapse",
    "mean_norm": "‖mean z‖; near 1 = a narrow cone",
    "uniformity": "lower = spread more evenly",
    "knn": "weighted nearest neighbours, held-out images",
    "repulsion": "0 = no two images closer than the margin",
    "covariance": "0 = no two axes carry the same thing",
    "variance": "0 = every axis spread enough",
}
# `loss/alignment` is the term that is trained; `geometry/*/alignment` is Wang & Isola's measure.
FULL_NOTES = {
    "loss/alignment": "0 = views agree, 4 = opposite",
    "geometry/alignment": "squared distance between views of one image",
}


@dataclass(frozen=True)
class Panel:
    """One chart with its words; `legend` holds (css, label, last value) of each line."""

    name: str
    note: str
    svg: str
    legend: list[tuple[str, str, float]]
    remarks: list[str]


def split_key(key: str) -> tuple[str, str, str]:
    """Section, panel and owner (a network, the batch, or an empty string) of a logged key.

    >>> split_key("geometry/student/mean_cosine")
    ('geometry', 'mean_cosine', 'student')
    """
    parts = key.split("/")
    owner = next((part for part in parts[1:] if part in OWNERS), "")
    section = parts[0] if len(parts) > 1 else "other"
    name = "/".join(part for part in parts[len(parts) > 1 :] if part != owner)
    return section, name or owner, owner


def note(section: str, name: str) -> str:
    """A line that says how to read a panel; empty for keys nobody described."""
    return FULL_NOTES.get(f"{section}/{name}", NOTES.get(name, ""))


def section_order(sections: Iterable[str]) -> list[str]:
    """The sections that exist, known ones first."""
    known = list(SECTIONS)
    return sorted(set(sections), key=lambda s: (known.index(s) if s in known else len(known), s))


def section_title(section: str) -> str:
    """The heading of a section."""
    return SECTIONS.get(section, section.replace("_", " ").capitalize())


def x_range(runs: Iterable[dict[str, Curve]]) -> tuple[float, float] | None:
    """First and last step of anything logged, so that all panels of a page share one axis."""
    steps = [(c[0][0], c[0][-1]) for curves in runs for c in curves.values()]
    return (min(s[0] for s in steps), max(s[1] for s in steps)) if steps else None


def draw(
    name: str,
    note: str,
    series: Sequence[Series],
    x_range: tuple[float, float] | None = None,
    limit: int = 400,
) -> Panel:
    """One panel of lines over steps, thinned to `limit` points a line; says what it left out."""
    remarks = []
    longest = max(len(s.x) for s in series)
    if longest > limit:
        remarks.append(f"{longest:,} points, drawn as the extremes of {limit // 2} spans")
    odd = sum(not is_drawable(y) for s in series for y in s.y)
    if odd:
        remarks.append(f"{odd:,} value{'s' * (odd > 1)} not finite (gaps)")
    said = ", ".join(f"{s.label} ends at {s.y[-1]:.4g}" for s in series[:6])
    title = f"{name} over steps: {said}"
    chart = line_chart([thin(s, limit) for s in series], title=title, x_range=x_range)
    return Panel(name, note, chart, [(s.css, s.label, s.y[-1]) for s in series], remarks)


def draw_points(name: str, note: str, series: Sequence[Series], x_label: str) -> Panel:
    """One panel of dots, one for each series of one point."""
    said = "; ".join(f"{s.label} at {s.x[0]:.4g}, {s.y[0]:.4g}" for s in series[:12])
    title = f"{name}: {said}"
    chart = line_chart(series, title=title, x_label=x_label, near="xy")
    return Panel(name, note, chart, [(s.css, s.label, s.y[-1]) for s in series], [])
