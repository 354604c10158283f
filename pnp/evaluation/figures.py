"""Pictures for the report: sample views, and features in the plane."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def _axes(rows: int, columns: int, width: float, height: float):  # noqa: ANN202 - matplotlib's own
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


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
    rows = [images.float() / 255, *shown]
    figure, axes = _axes(len(rows), len(images), 0.8 * len(images), 0.85 * len(rows))
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row, strict=True):
            axis.imshow(picture.permute(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
    figure.savefig(file, dpi=110)


def draw_pca(file: Path, features: Tensor, labels: Tensor | None, classes: Sequence[str]) -> None:
    """Features on their first two principal axes, coloured by class where there are classes.

    Args:
        file: where to write the PNG.
        features: `(N, d)`.
        labels: `(N,)` or None.
        classes: names.
    """
    centred = features - features.mean(0)
    _, values, axes2 = torch.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes2[:2].T
    share = values.square() / values.square().sum()
    figure, axes = _axes(1, 1, 6.4, 4.6)
    axis = axes[0, 0]
    if labels is None:
        axis.scatter(*plane.T, s=4, alpha=0.6, linewidths=0)
    else:
        from matplotlib import colormaps

        colours = colormaps["tab10" if len(classes) <= 10 else "turbo"]
        for index, name in enumerate(classes[:20]):
            chosen = plane[labels == index]
            colour = colours(index if len(classes) <= 10 else index / len(classes))
            axis.scatter(*chosen.T, s=4, alpha=0.6, linewidths=0, label=name, color=colour)
        axis.legend(
            markerscale=3, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    axis.set_xlabel(f"first axis ({share[0]:.0%} of the variance)")
    axis.set_ylabel(f"second axis ({share[1]:.0%})")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
