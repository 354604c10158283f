"""Pictures of bands: curves, scores, η, classes, images and regions."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp.band.oracle import oracle_band
from pnp.data import ImageSet
from pnp.evaluation.concept_bands import Bands, Budgets, ConceptBand
from pnp.evaluation.figures import (
    DOT,
    SIZE,
    TILES,
    WIDTH,
    axes_grid,
    draw_sheet,
    name_axes,
    save,
    short,
)
from pnp.evaluation.gaps import Gaps
from pnp.results import OWNERS

PANELS = 12  # concepts with a panel of their own
CELLS = 30  # rows and columns of a table
# Colour-blind-safe: P, ¬P and the band keep their colour in every picture.
P, NOT_P, BAND = "#0072b2", "#d55e00", "#999999"
INKS = ("#0072b2", "#009e73", "#e69f00", "#cc79a7", "#d55e00", "#56b4e9")
LINES = dict(zip(OWNERS, INKS, strict=True))


def draw_bands(
    folder: Path,
    bands: Bands,
    main: str,
    plane: Tensor,
    test: ImageSet,
    budgets: Budgets,
    gaps: Gaps,
) -> dict[str, str | None]:
    """Draw every picture of the bands; their captions by name, None for one that failed.

    Args:
        folder: of the pictures.
        bands: of all networks.
        main: the network whose bands are looked at closely.
        plane: `(n, 2)`, the first test images in its principal plane.
        test: the test images.
        budgets: of the bands.
        gaps: where pictures that cannot be drawn are noted.
    """
    own = bands[main]
    # The first concept with a band and decided images, if any: others have nothing to show.
    shares = {name: float((band.region == -1).mean()) for name, band in own.items()}
    concept = next((name for name, share in shares.items() if 0 < share < 1), next(iter(own)))
    band = own[concept]
    eta = None if test.eta is None else test.eta.numpy()[band.index]
    captions = dict[str, str | None]()

    def draw(name: str, work: Callable[..., str], *args: Any) -> None:
        what = f"the picture {name}"
        captions[Path(name).stem] = gaps.attempt(what, work, folder / name, *args)

    draw("band_width.svg", draw_curves, bands)
    draw("band_scores.svg", draw_scores, own, OWNERS.get(main, main))
    if eta is not None:
        draw("band_eta.svg", draw_posterior, concept, band, eta, budgets)
    if test.classes:
        draw("band_classes.svg", draw_classes, own, test.classes)
    draw("band_images.png", draw_images, concept, band, test.batch, eta)
    draw("band_regions.png", draw_regions, concept, band, plane)
    return captions


def draw_curves(file: Path, bands: Bands) -> str:
    """Band width against allowed error: one panel per concept, one colour per network."""
    concepts = list(dict.fromkeys(concept for own in bands.values() for concept in own))
    figure, panels = _panels(concepts)
    for concept, axis in panels.items():
        oracle = None
        for owner, own in bands.items():
            if concept not in own:
                continue
            curves, colour = own[concept].report.curves, LINES.get(owner, "black")
            oracle = curves.get("oracle")  # the same for every network
            for kind, style in (("plugin", "-"), ("certified", "--")):
                label = OWNERS.get(owner, owner) if kind == "plugin" else None
                curve = curves[kind]
                axis.plot(curve["level"], curve["width"], style, color=colour, label=label, lw=1.3)
        if oracle is not None:
            axis.plot(oracle["level"], oracle["width"], ":", color="black", lw=1.5, label="oracle")
    axis = panels[concepts[0]]
    axis.set(xscale="log", ylim=(0, 1.02), yticks=(0, 0.5, 1))
    axis.set_xticks((1e-3, 1e-2, 1e-1), ("0.1", "1", "10"))
    axis.set_xticks((), minor=True)
    axis.set_yticklabels(("0", "50", "100"))
    name_axes(figure, axis, "allowed error on each side, %", "test images in the band, %")
    save(figure, file)
    return (
        "Share of test images in the band against the allowed error: plug-in (solid), certified "
        "(dashed), and where η is known the oracle (dotted)" + _rest(concepts)
    )


def draw_scores(file: Path, bands: Mapping[str, ConceptBand], owner: str) -> str:
    """Histograms of test logits of P and ¬P (log counts), the certified band shaded."""
    from matplotlib.ticker import NullLocator

    figure, panels = _panels(bands)
    scores = np.concatenate([bands[concept].scores for concept in panels])
    low, high = np.quantile(scores, [0.001, 0.999])
    bins = np.linspace(low, high, 60)
    for concept, axis in panels.items():
        band = bands[concept]
        for value, colour, label in ((0, NOT_P, "¬P"), (1, P, "P")):
            counts = np.histogram(np.clip(band.scores[band.y == value], low, high), bins)[0]
            axis.stairs(counts, bins, fill=True, color=colour, alpha=0.55, label=label)
        threshold = band.report.threshold
        edges = np.clip([threshold.t_lo_, threshold.t_hi_], low, high)
        axis.axvspan(*edges, color=BAND, alpha=0.3, linewidth=0, label="band, certified")
    axis = panels[next(iter(bands))]
    axis.set(yscale="log", ylim=(0.7, None))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())  # minor ticks cost more than the rest
    name_axes(figure, axis, "logit", "test images")
    save(figure, file)
    return f"Test logits of P and ¬P under the {owner}, certified band shaded" + _rest(bands)


def draw_posterior(
    file: Path, concept: str, band: ConceptBand, eta: np.ndarray, budgets: Budgets
) -> str:
    """Share of each η bin in the band beside the oracle's: shows who erases what.

    Args:
        file: SVG or PNG.
        concept: name of the concept.
        band: of one network.
        eta: Pr(P | image) of its test images.
        budgets: of the band.
    """
    ideal = oracle_band(eta, budgets.max_fp, budgets.max_fn)["membership"]
    edges = np.linspace(0, 1, 21)
    cell = np.clip(np.digitize(eta, edges) - 1, 0, 19)
    counts = np.maximum(np.bincount(cell, minlength=20), 1)
    share = np.bincount(cell, weights=band.region == -1, minlength=20) / counts
    best = np.bincount(cell, weights=ideal, minlength=20) / counts
    figure, (axis,) = axes_grid(1, 2.6)
    axis.stairs(share, edges, fill=True, color=BAND, label="in the band, certified")
    axis.stairs(best, edges, color="black", linestyle=":", linewidth=1.5, label="in the oracle's")
    axis.set(ylim=(0, 1.02), xlim=(0, 1), yticks=(0, 0.5, 1))
    axis.set_yticklabels(("0", "50", "100"))
    name_axes(figure, axis, "η = Pr(P | image)", "test images, %")
    save(figure, file)
    return f"Concept “{concept}”: share of each η bin in the certified band, beside the oracle's."


def draw_classes(file: Path, bands: Mapping[str, ConceptBand], classes: Sequence[str]) -> str:
    """Table of the share of every class in the band of every concept, the largest `CELLS` of each.

    Args:
        file: SVG or PNG.
        bands: of one network.
        classes: names of the classes.
    """
    from matplotlib.ticker import PercentFormatter

    table = np.array(
        [
            [b.report.metrics.get(f"band/class/{c}", math.nan) for c in range(len(classes))]
            for b in bands.values()
        ],
        dtype=float,
    )
    filled = np.nan_to_num(table)
    rows = np.sort(np.argsort(-filled.max(1), kind="stable")[:CELLS])
    columns = np.sort(np.argsort(-filled[rows].max(0), kind="stable")[:CELLS])
    table = table[np.ix_(rows, columns)]
    names = [short(classes[int(column)]) for column in columns]
    concepts = [short(name) for name in np.array(list(bands))[rows].tolist()]
    with_cells = table.size <= 200
    longest = [0.08 * max(map(len, words)) for words in (concepts, names)]
    upright = len(names) * (longest[1] + 0.1) < WIDTH - 1.0 - longest[0]
    bottom = 0.5 if upright else 0.4 + longest[1]
    figure, (axis,) = axes_grid(
        1,
        max(0.5, 0.2 * len(rows)),
        left=0.5 + longest[0],
        bottom=bottom,
        right=0.15 if with_cells else 0.5,
    )
    most = max(0.05, float(filled.max()))
    picture = axis.imshow(table, cmap="Greys", vmin=0, vmax=most, aspect="auto")
    if with_cells:
        for (row, column), value in np.ndenumerate(table):
            axis.text(
                column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=SIZE,
                color="white" if value > 0.6 * most else "black",
            )  # fmt: skip
    else:
        bar = figure.colorbar(picture, ax=axis, fraction=0.03, pad=0.02)
        bar.ax.tick_params(labelsize=SIZE)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axis.set_xticks(range(len(names)), names, rotation=0 if upright else 90)
    axis.set_yticks(range(len(concepts)), concepts)
    axis.set_xlabel("class", fontsize=SIZE)
    axis.set_ylabel("concept", fontsize=SIZE)
    save(figure, file)
    cut = len(bands) > CELLS or len(classes) > CELLS
    rest = f" (the largest of {len(bands)} concepts and {len(classes)} classes)" if cut else ""
    return f"Share of each original class in the band of each concept, in percent{rest}."


def draw_images(
    file: Path,
    concept: str,
    band: ConceptBand,
    images: Callable[[Tensor], Tensor],
    eta: np.ndarray | None,
) -> str:
    """Image sheet: a walk through the band by score, then the worst FP and the worst FN.

    Args:
        file: PNG.
        concept: name of the concept.
        band: of one network.
        images: places in the test split to uint8 `(n, C, H, W)`.
        eta: Pr(P | image) of the band's test images, where known.
    """
    region, order = band.region, np.argsort(band.scores)
    inside = order[region[order] == -1]
    spread = np.linspace(0, len(inside) - 1, min(TILES, len(inside))).astype(int)
    errors = {y: order[(band.y[order] == y) & (region[order] == 1 - y)] for y in (0, 1)}
    chosen = {
        "Through the band, by score": inside[spread],
        "Asserted P, but ¬P: worst first": errors[0][::-1][:TILES],
        "Asserted ¬P, but P: worst first": errors[1][:TILES],
    }
    rows = []
    for heading, items in chosen.items():
        if not len(items):
            rows.append((f"{heading.split(':')[0]}: none", [], []))
            continue
        pictures = images(torch.from_numpy(band.index[items])).permute(0, 2, 3, 1).cpu().numpy()
        words = [
            f"{band.scores[i]:+.1f}" + ("" if eta is None else f"\nη {eta[i]:.2f}") for i in items
        ]
        rows.append((heading, pictures / 255, words))
    draw_sheet(file, rows)
    given = "logit" if eta is None else "logit and η = Pr(P | image)"
    return f"Concept “{concept}”: test images in the band and the worst errors, with their {given}."


def draw_regions(file: Path, concept: str, band: ConceptBand, plane: Tensor) -> str:
    """Scatter plot of features coloured by region.

    Args:
        file: PNG.
        concept: name of the concept.
        band: of one network.
        plane: `(n, 2)` of the first test images.
    """
    drawn = band.index < len(plane)
    region, points = band.region[drawn], plane.numpy()[band.index[drawn]]
    figure, (axis,) = axes_grid(1, 3.8)
    for value, colour, label in ((0, NOT_P, "¬P"), (-1, BAND, "uncertain"), (1, P, "P")):
        axis.scatter(*points[region == value].T, **DOT, color=colour, label=label)
    name_axes(figure, axis, "first principal axis", "second principal axis", markerscale=2)
    save(figure, file, dpi=130)
    return f"Concept “{concept}”: features of test images in the principal plane, by region."


def _panels(concepts: Collection[str]) -> tuple[Any, dict[str, Any]]:
    """A figure with an axis for each of the first `PANELS` concepts."""
    drawn = list(concepts)[:PANELS]
    figure, axes = axes_grid(len(drawn), 2.8 if len(drawn) == 1 else 1.4)
    for concept, axis in zip(drawn, axes, strict=True):
        axis.set_title(short(concept, 20 if len(drawn) == 1 else 13))
    return figure, dict(zip(drawn, axes, strict=True))


def _rest(concepts: Sized) -> str:
    """The end of a caption, with the number of concepts that have no panel."""
    return f"; the first {PANELS} of {len(concepts)} concepts." if len(concepts) > PANELS else "."
