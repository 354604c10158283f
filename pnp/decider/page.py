"""answers.html and the sheets: self-contained pages without scripts, at any number of images."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from pnp.console import printable
from pnp.decider.decider import Decider, Embedded
from pnp.decider.judge import Judged
from pnp.report import page

render = partial(page.render, folder=Path(__file__).parent / "templates")
# Pictures on a contact sheet, their side in pixels, and rows of a list.
SHEET, SIDE, LISTED = 24, 96, 50
COLOURS = {"P": "#2a78d6", "notP": "#8a8a8a", "uncertain": "#eda100"}


@dataclass(frozen=True)
class Shown:
    """One picture of a sheet: data address, name and caption."""

    source: str
    name: str
    caption: str


def answers(decider: Decider, judged: Judged, notes: Sequence[str]) -> str:
    """The page of an application: counts, scores, and what each answer looks like."""
    found = judged.answers
    order = np.argsort(found.scores, kind="stable")
    sure_p = order[::-1][: int((found.regions == 1).sum())][:SHEET]
    sure_not = order[: int((found.regions == 0).sum())][:SHEET]
    band = order[found.regions[order] == -1]
    spread = np.unique(np.linspace(0, len(band) - 1, 2 * SHEET).round().astype(int))
    sheets = [
        ("The surest P", "highest scores first", sure_p),
        ("Uncertain", "the band, evenly spread by score, lowest first", band[spread[: len(band)]]),
        ("The surest notP", "lowest scores first", sure_not),
    ]
    n = len(judged.names)
    return render(
        "answers.html",
        title=f"{decider.concept}: {n:,} images",
        decider=decider,
        counts=[(word, count, count / n) for word, count in found.counts().items()],
        n=n,
        notes=[note for note in notes if note],
        failed=judged.failed[:LISTED],
        more=len(judged.failed) - LISTED,
        histogram=histogram(decider, found.scores),
        sheets=[(head, which, scored(judged, rows)) for head, which, rows in sheets if len(rows)],
    )


def scored(judged: Judged, rows: Int64[np.ndarray, " k"]) -> list[Shown]:
    """Pictures of these images with their scores."""
    return sheet(judged, rows.tolist(), [f"{score:+.2f}" for score in judged.answers.scores[rows]])


def sheet(embedded: Embedded, rows: Sequence[int], captions: Sequence[str]) -> list[Shown]:
    """Pictures of these images."""
    names = [embedded.names[row] for row in rows]
    return [
        Shown(thumbnail(embedded.root / name), printable(name), caption)
        for name, caption in zip(names, captions, strict=True)
    ]


def thumbnail(path: Path) -> str:
    """A small copy of a file as a data address; a small image is enlarged to whole pixels."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        small = image.convert("RGB")
    factor = SIDE / max(small.size)
    if factor >= 2:
        whole = int(factor)
        small = small.resize((small.width * whole, small.height * whole), Image.Resampling.NEAREST)
    else:
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG" if factor >= 2 else "JPEG", quality=85)
    kind = "png" if factor >= 2 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def histogram(decider: Decider, scores: np.ndarray) -> str:
    """Scores on a log axis of counts, the band shaded, as a data address of an SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    low, high = (float(np.percentile(scores, q)) for q in (0.1, 99.9))
    cut = decider.thresholds
    finite = [t for t in (cut.t_lo, cut.t_hi) if np.isfinite(t)]
    low, high = min([low, *finite]), max([high, *finite])
    pad = 0.05 * (high - low) or 1.0
    low, high = low - pad, high + pad
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    step = (high - low) / max(10, min(80, int(2 * len(scores) ** 0.5)))
    if not cut.crossed and len(finite) == 2 and cut.t_hi > cut.t_lo:  # bars end at the thresholds
        step = (cut.t_hi - cut.t_lo) / max(1, round((cut.t_hi - cut.t_lo) / step))
    start = finite[0] if finite else low
    low = start - step * np.ceil((start - low) / step)
    high = start + step * np.ceil((high - start) / step)
    bins = low + step * np.arange(round((high - low) / step) + 1)
    regions = cut.regions(np.ascontiguousarray(scores))
    clipped = np.clip(scores, low, high)
    parts = {"notP": clipped[regions == 0], "uncertain": clipped[regions == -1]}
    parts["P"] = clipped[regions == 1]
    axes.hist(
        list(parts.values()), bins=bins.tolist(), stacked=True,
        color=[COLOURS[word] for word in parts], label=list(parts),
    )  # fmt: skip
    if not cut.crossed:
        axes.axvspan(
            max(cut.t_lo, low), min(cut.t_hi, high), color=COLOURS["uncertain"], alpha=0.15
        )
    for t in finite:
        axes.axvline(t, color="#444", linewidth=1, linestyle="--")
    axes.set(xlim=(low, high), xlabel="score (logit of P)", ylabel="images")
    top = axes.get_ylim()[1]
    if len(scores) > 200:
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylim(0, 2 * top)  # above the bars the shade of the band shows
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
