"""Pictures for the report: sample views, and features in the plane."""

# torch and matplotlib are partly typed: strict here means our own names.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
        axis.tick_params(labelsize=7)
        axis.title.set_fontsize(8)
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
