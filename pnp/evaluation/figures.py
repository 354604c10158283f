"""Pictures of one run: views and features; panels and image sheets for those of `band_figures`.

Functions that draw one write it `WIDTH` inches wide and return its caption. Margins are set in
inches instead of measured from the text: that halves the time of a small picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp.console import one_line
from pnp.files import replacing

WIDTH = 7.0
SIZE = 9  # of text, in points at WIDTH
POINTS = 2000  # images in a scatter plot
TILES = 8  # pictures in a row of a sheet
DOT: dict[str, Any] = {"s": 9, "alpha": 0.6, "linewidths": 0}


def axes_grid(
    panels: int,
    height: float,
    *,
    left: float = 0.7,
    right: float = 0.15,
    bottom: float = 0.85,
) -> tuple[Any, list[Any]]:
    """A figure of panels that share their axes; `height` of a panel and margins in inches.

    Made without pyplot: no global state, safe in threads and without a display.
    """
    from matplotlib.figure import Figure

    columns = min(panels, min((4, 5, 3), key=lambda columns: -panels % columns))
    rows = -(-panels // columns)
    top, gap = 0.3, 0.4
    total = rows * height + (rows - 1) * gap + top + bottom
    figure = Figure(figsize=(WIDTH, total))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    figure.subplots_adjust(
        left=left / WIDTH, right=1 - right / WIDTH, bottom=bottom / total, top=1 - top / total,
        hspace=gap / height, wspace=0.12,
    )  # fmt: skip
    for axis in axes[panels:]:
        axis.remove()
    for number, axis in enumerate(axes[:panels]):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=SIZE, labelbottom=number >= panels - columns)
        axis.title.set_fontsize(SIZE)
    return figure, axes[:panels].tolist()


def draw_views(file: Path, images: Tensor, views: Tensor, mean: Tensor, std: Tensor) -> str:
    """Image sheet: images on top of their views.

    Args:
        file: PNG.
        images: uint8 `(n, C, H, W)`.
        views: normalised `(V, n, C, S, S)`.
        mean: of the normalisation, one per channel.
        std: likewise.
    """
    shown = (views * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).clamp(0, 1)
    rows = [("Images", images / 255), *((f"View {i + 1}", v) for i, v in enumerate(shown))]
    draw_sheet(file, [(name, row.permute(0, 2, 3, 1).numpy(), []) for name, row in rows])
    return "Validation images, and the views of them that networks are trained on."


def principal_plane(features: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates `(N, 2)` on the first two principal axes, and their shares of the variance."""
    centred = features - features.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    shares = values.square() / values.square().sum().clamp_min(1e-30)
    plane = torch.zeros(len(features), 2), torch.zeros(2)  # one image or one feature: one axis
    plane[0][:, : len(axes[:2])], plane[1][: len(axes[:2])] = centred @ axes[:2].T, shares[:2]
    return plane


def draw_pca(
    file: Path,
    plane: Tensor,
    share: Tensor,
    labels: Tensor | None,
    classes: Sequence[str],
    split: str,
) -> str:
    """Scatter plot of features in their principal plane, coloured by class where there are any.

    Args:
        file: PNG.
        plane: `(N, 2)`.
        share: of the variance on each axis.
        labels: `(N,)` or None.
        classes: their names; the first 20 are drawn.
        split: of the images.
    """
    from matplotlib import colormaps

    figure, (axis,) = axes_grid(1, 3.8, right=0.15 if labels is None else 2.0, bottom=0.5)
    if labels is None:
        axis.scatter(*plane.T.numpy(), **DOT)
    else:
        for index, name in enumerate(classes[:20]):
            colour = colormaps["tab10" if len(classes) <= 10 else "tab20"](index)
            points = plane[labels == index].T.numpy()
            axis.scatter(*points, **DOT, label=short(name), color=colour)
        axis.legend(
            markerscale=2, fontsize=SIZE, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5),
            labelspacing=0.25, handletextpad=0.2,
        )  # fmt: skip
    axis.set_xlabel(f"first principal axis ({share[0]:.0%} of the variance)", fontsize=SIZE)
    axis.set_ylabel(f"second ({share[1]:.0%})", fontsize=SIZE)
    save(figure, file, dpi=130)
    rest = f"; the first 20 of {len(classes)} classes" if len(classes) > 20 else ""
    return f"Backbone features of {split} images on their first two principal axes{rest}."


def draw_sheet(file: Path, rows: Sequence[tuple[str, Any, Sequence[str]]]) -> None:
    """Rows of pictures below their headings, each picture above its words.

    Args:
        file: PNG.
        rows: heading, pictures `(n, H, W, C)` in [0, 1], and words of each picture or none. Of more
            than three channels the first three are shown, of two their mean.
    """
    from matplotlib.figure import Figure

    gap, line = 0.06, 0.155
    side = (WIDTH - gap * (TILES + 1)) / TILES
    top, places = 0.0, []
    for _, pictures, words in rows:
        places.append(top)
        lines = max((text.count("\n") + 1 for text in words), default=0)
        top += 0.3 + ((side + lines * line + 0.05) if len(pictures) else 0)
    # One axis in inches holds everything: an axis for each picture costs 20 times as much.
    figure = Figure(figsize=(WIDTH, top + gap))
    axis = figure.add_axes((0, 0, 1, 1))
    for (heading, pictures, words), y in zip(rows, places, strict=True):
        axis.text(gap, y + 0.22, heading, fontsize=SIZE + 1, va="baseline")
        for column, picture in enumerate(pictures):
            x, below = gap + column * (side + gap), y + 0.28 + side
            axis.imshow(
                _visible(picture), cmap="gray", vmin=0, vmax=1,
                extent=(x, x + side, below, y + 0.28),
            )  # fmt: skip
            if words:
                axis.text(
                    x + side / 2, below + 0.03, words[column], fontsize=SIZE, ha="center", va="top"
                )
    axis.set(xlim=(0, WIDTH), ylim=(top + gap, 0))
    axis.axis("off")
    save(figure, file, dpi=130)


def name_axes(figure: Any, axis: Any, x: str, y: str, **legend: Any) -> None:
    """Name the axes once for all panels, and put the legend of the first panel below them."""
    height, bounds = figure.get_figheight(), figure.subplotpars
    middle = (bounds.left + bounds.right) / 2
    figure.text(middle, 0.36 / height, x, fontsize=SIZE, ha="center")
    centre = (bounds.bottom + bounds.top) / 2
    figure.text(0.08 / WIDTH, centre, y, fontsize=SIZE, rotation=90, va="center")
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", bbox_to_anchor=(middle, 0.06 / height),
        ncols=len(labels), fontsize=SIZE, frameon=False, borderaxespad=0, borderpad=0,
        handlelength=1.6, columnspacing=1.4, **legend,
    )  # fmt: skip


def save(figure: Any, file: Path, **options: Any) -> None:
    """Write a figure whole or not at all, in the format of the file's ending."""
    with replacing(file) as part:
        figure.savefig(part, format=file.suffix[1:], **options)


def short(name: str, most: int = 20) -> str:
    """A name of at most `most` characters, as matplotlib draws it: `$` starts no formula."""
    name = one_line(name)
    return (name if len(name) <= most else f"{name[: most - 1]}…").replace("$", r"\$")


def _visible(picture: np.ndarray) -> np.ndarray:
    """One grey channel or three colours of an image (H, W, C)."""
    return picture[..., :3] if picture.shape[-1] > 2 else picture.mean(-1)
