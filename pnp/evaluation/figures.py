"""Pictures of one run: views, features in the plane, scores, band curves, regions, image sheets."""

# torch and matplotlib are partly typed: strict here means our own names.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp.band.curves import BandCurve
from pnp.evaluation.concept_bands import Answer


def axes_grid(
    panels: int, width: float, height: float, columns: int | None = None
) -> tuple[Any, list[Any]]:
    """A figure of `panels` axes of `width` × `height` inches, at most five in a row.

    Made without pyplot: no global state, safe in threads and without a display.
    """
    from matplotlib.figure import Figure

    columns = columns or min(panels, 5 if panels % 5 == 0 else 4)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.title.set_fontsize(9)
    for axis in axes[panels:]:
        axis.axis("off")
    return figure, axes


def draw_views(file: Path, images: Tensor, views: Tensor, mean: Tensor, std: Tensor) -> None:
    """A sheet: one column per image, the original on top of its views.

    Args:
        file: where to write the PNG.
        images: uint8 `(n, C, H, W)`.
        views: normalised `(V, n, C, S, S)`.
        mean: of the normalisation, one per channel.
        std: likewise.
    """
    shown = (views * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).clamp(0, 1)
    pictures = [*(images.float() / 255), *shown.flatten(0, 1)]
    figure, axes = axes_grid(len(pictures), 0.8, 0.85, columns=len(images))
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(picture.permute(1, 2, 0).squeeze().numpy(), cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
    figure.savefig(file, dpi=110)


def principal_plane(features: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates `(N, 2)` on the first two principal axes, and their shares of the variance."""
    centred = features - features.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, values[:2].square() / values.square().sum()


def draw_pca(file: Path, features: Tensor, labels: Tensor | None, classes: Sequence[str]) -> None:
    """Features on their first two principal axes, coloured by class where there are classes.

    Args:
        file: where to write the PNG.
        features: `(N, d)`.
        labels: `(N,)` or None.
        classes: names.
    """
    plane, share = principal_plane(features)
    figure, (axis,) = axes_grid(1, 6.4, 4.6)
    if labels is None:
        axis.scatter(*plane.T.numpy(), s=4, alpha=0.6, linewidths=0)
    else:
        from matplotlib import colormaps

        few = len(classes) <= 10
        colours = colormaps["tab10" if few else "turbo"]
        for index, name in enumerate(classes[:20]):
            colour = colours(index if few else index / len(classes))
            points = plane[labels == index].T.numpy()
            axis.scatter(*points, s=4, alpha=0.6, linewidths=0, label=name, color=colour)
        axis.legend(
            markerscale=3, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    axis.set_xlabel(f"first axis ({share[0]:.0%} of the variance)")
    axis.set_ylabel(f"second axis ({share[1]:.0%})")
    figure.savefig(file, dpi=110)


# Colour-blind-safe: P, ¬P and the band keep their colour in every picture.
P, NOT_P, BAND = "#0072b2", "#d55e00", "#999999"
LINES = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")


def draw_curves(file: Path, answers: Mapping[str, Mapping[str, Answer]]) -> None:
    """Band width against allowed error, one panel per concept, one line per representation.

    Solid is plug-in (what ranks representations), dashed is certified, dotted the oracle.

    Args:
        file: SVG or PNG.
        answers: representation -> concept -> answer.
    """
    concepts = list(next(iter(answers.values())))
    figure, panels = axes_grid(len(concepts), 3.2, 2.6)
    for axis, concept in zip(panels, concepts, strict=False):
        for colour, (name, found) in zip(LINES, answers.items(), strict=False):
            curves = found[concept].report.curves
            for kind, style in (("plugin", "-"), ("certified", "--")):
                label = name if kind == "plugin" else None
                axis.plot(*_xy(curves[kind]), style, color=colour, label=label, linewidth=1.3)
            if "oracle" in curves:
                axis.plot(*_xy(curves["oracle"]), ":", color="black", linewidth=1.3)
        axis.set(xscale="log", ylim=(0, 1), title=concept)
    panels[0].set(xlabel="allowed error, each side", ylabel="share in the band")
    _legend(figure, panels[0])
    figure.savefig(file)


def draw_scores(file: Path, answers: Mapping[str, Answer]) -> None:
    """Histograms of test logits of P and ¬P (log count), the certified band shaded."""
    figure, panels = axes_grid(len(answers), 3.2, 2.4)
    for axis, (concept, found) in zip(panels, answers.items(), strict=False):
        low, high = np.quantile(found.scores, [0.001, 0.999])
        bins = np.linspace(low, high, 60)
        for value, colour, label in ((0, NOT_P, "¬P"), (1, P, "P")):
            axis.hist(
                found.scores[found.y == value],
                bins,
                color=colour,
                alpha=0.55,
                log=True,
                label=label,
            )
        threshold = found.report.threshold
        edges = np.clip([threshold.t_lo_, threshold.t_hi_], low, high)
        axis.axvspan(edges[0], edges[1], color=BAND, alpha=0.3, linewidth=0, label="band")
        axis.set(title=concept)
    panels[0].set(xlabel="logit", ylabel="test images")
    _legend(figure, panels[0])
    figure.savefig(file)


def draw_posterior(
    file: Path, found: Answer, eta: np.ndarray, max_fp: float, max_fn: float
) -> None:
    """Share of each η bin in the band, beside the oracle's share: shows who erases what.

    Args:
        file: where to write.
        found: the answer of one representation.
        eta: Pr(P | image) of the test images.
        max_fp: budget.
        max_fn: budget.
    """
    from pnp.band.oracle import oracle_band

    inside = found.report.threshold.predict(found.scores) == -1
    ideal = oracle_band(eta, max_fp, max_fn)["membership"]
    edges = np.linspace(0, 1, 21)
    cell = np.clip(np.digitize(eta, edges) - 1, 0, 19)
    counts = np.maximum(np.bincount(cell, minlength=20), 1)
    figure, panels = axes_grid(1, 5.2, 3.0)
    axis = panels[0]
    centre = (edges[:-1] + edges[1:]) / 2
    share = np.bincount(cell, weights=inside, minlength=20) / counts
    best = np.bincount(cell, weights=ideal, minlength=20) / counts
    axis.bar(centre, share, width=0.045, color=BAND, label="in the band")
    axis.step(edges, [*best, best[-1]], where="post", color="black", linestyle=":", label="oracle")
    axis.set(xlabel="η = Pr(P | image)", ylabel="share of the images", ylim=(0, 1.05))
    _legend(figure, axis)
    figure.savefig(file)


def draw_classes(file: Path, answers: Mapping[str, Answer], classes: Sequence[str]) -> None:
    """Share of every original class in the band of every concept."""
    table = np.array(
        [
            [a.report.metrics.get(f"band/class/{c}", math.nan) for c in range(len(classes))]
            for a in answers.values()
        ],
        dtype=float,
    )
    figure, panels = axes_grid(1, 1.6 + 0.45 * len(classes), 1.2 + 0.3 * len(answers))
    axis = panels[0]
    axis.imshow(table, cmap="Greys", vmin=0, vmax=max(0.05, float(np.nanmax(table))), aspect="auto")
    for row, column in np.ndindex(table.shape):
        dark = table[row, column] > 0.6 * np.nanmax(table)
        axis.text(
            column, row, f"{table[row, column]:.2f}".lstrip("0"), ha="center", va="center",
            fontsize=7, color="white" if dark else "black",
        )  # fmt: skip
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=7)
    axis.set_yticks(range(len(answers)), list(answers), fontsize=7)
    axis.set(xlabel="class", ylabel="concept")
    figure.savefig(file)


def draw_sheet(file: Path, found: Answer, pictures: np.ndarray, eta: np.ndarray | None) -> None:
    """Image sheets: a walk through the band by score, then the worst FP and the worst FN.

    Args:
        file: PNG.
        found: the answer of one representation.
        pictures: uint8 `(n, H, W, C)` of all test images.
        eta: Pr(P | image) of the answered images, where known.
    """
    region = found.report.threshold.predict(found.scores)
    order = np.argsort(found.scores)
    band = order[region[order] == -1]
    walk = (
        band[np.linspace(0, len(band) - 1, min(12, len(band))).astype(int)] if len(band) else band
    )
    worst_fp = order[::-1][(found.y[order[::-1]] == 0) & (region[order[::-1]] == 1)][:12]
    worst_fn = order[(found.y[order] == 1) & (region[order] == 0)][:12]
    rows = [("through\nthe band", walk), ("worst\nFP", worst_fp), ("worst\nFN", worst_fn)]
    rows = [(title, chosen) for title, chosen in rows if len(chosen)]
    if not rows:
        return
    figure, panels = axes_grid(13 * len(rows), 0.95, 1.3, columns=13)
    for axis in panels:
        axis.axis("off")
    for number, (title, chosen) in enumerate(rows):
        first, *row = panels[13 * number : 13 * (number + 1)]
        first.text(0, 0.5, title, fontsize=11, va="center")
        for axis, item in zip(row, chosen, strict=False):
            axis.imshow(pictures[found.index[item]].squeeze(), cmap="gray", vmin=0, vmax=255)
            known = f"\nη {eta[item]:.2f}" if eta is not None else ""
            axis.set_title(f"{found.scores[item]:+.1f}{known}", fontsize=9, pad=3)
    figure.savefig(file, dpi=110)


def draw_regions(file: Path, plane: np.ndarray, found: Answer) -> None:
    """Features in the plane coloured by region: P, ¬P, band.

    Args:
        file: PNG.
        plane: `(n, 2)` of the answered images.
        found: the answer of one representation.
    """
    region = found.report.threshold.predict(found.scores)
    figure, panels = axes_grid(1, 5.2, 4.0)
    for value, colour, label in ((0, NOT_P, "¬P"), (-1, BAND, "uncertain"), (1, P, "P")):
        chosen = plane[region == value]
        panels[0].scatter(*chosen.T, s=4, alpha=0.6, linewidths=0, color=colour, label=label)
    _legend(figure, panels[0], markerscale=3)
    panels[0].set(xlabel="first principal axis", ylabel="second")
    figure.savefig(file, dpi=110)


def _legend(figure: Any, axis: Any, **options: Any) -> None:
    """One legend for all panels, above them: it covers no data."""
    handles, names = axis.get_legend_handles_labels()
    columns = min(len(names), max(2, int(figure.get_figwidth())))
    figure.legend(
        handles, names, loc="outside upper center", ncols=columns, frameon=False, fontsize=9,
        **options,
    )  # fmt: skip


def _xy(curve: BandCurve) -> tuple[np.ndarray, np.ndarray]:
    return curve["level"], curve["width"]
