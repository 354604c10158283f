"""Features of a folder of images as a table, and a sheet of the images that they find alike."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from pnp.console import printable
from pnp.decider import page
from pnp.decider.decider import Embedded
from pnp.errors import UserError
from pnp.files import replacing, write_text

KINDS = (".csv", ".npy", ".parquet")


def kind(out: Path) -> str:
    """The ending of a table's name, in small letters.

    Raises:
        UserError: not one of those that can be written.
    """
    ending = out.suffix.lower()
    if ending not in KINDS:
        raise UserError(f"out={out}: give a file that ends in {', '.join(KINDS)}.")
    if ending == ".parquet" and find_spec("pyarrow") is None:
        raise UserError(
            f"out={out} needs pyarrow: pip install 'pnp-ssl[parquet]', or give a .csv or .npy file."
        )
    return ending


def write(embedded: Embedded, out: Path) -> list[Path]:
    """Write the table, and a csv of the files without features if there are any.

    Returns:
        The files written: `out`, for .npy `NAME.files.csv`, and `NAME.unreadable.csv`.
    """
    ending = kind(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    names = pd.DataFrame({"file": list(map(printable, embedded.names))})
    columns = [f"f{i}" for i in range(embedded.features.shape[1])]
    whole = pd.concat([names, pd.DataFrame(embedded.features, columns=columns)], axis=1)
    files = [out]
    with replacing(out) as part, part.open("wb") as stream:
        if ending == ".npy":
            np.save(stream, embedded.features)
        elif ending == ".csv":
            whole.to_csv(stream, index=False, float_format="%.9g")
        else:
            whole.to_parquet(stream, index=False)
    if ending == ".npy":
        files.append(out.with_suffix(".files.csv"))
        write_text(files[-1], names.to_csv(index=False))
    unreadable = out.with_suffix(".unreadable.csv")
    unreadable.unlink(missing_ok=True)
    if embedded.failed:
        failed = pd.DataFrame(embedded.failed, columns=["file", "reason"])
        write_text(unreadable, failed.to_csv(index=False))
        files.append(unreadable)
    return files


def sheet(embedded: Embedded, of: str, queries: int, neighbours: int) -> str | None:
    """A page of images, evenly spread over the list, each with those most similar to it.

    Similar are those at the largest cosine of features, from which the mean has been taken: what
    all images share says nothing.

    Args:
        embedded: the images.
        of: the encoder, in words.
        queries: rows at most.
        neighbours: images beside each.

    Returns:
        The page; None for a single image.
    """
    n = len(embedded.names)
    if n < 2 or not queries:
        return None
    z = torch.from_numpy(embedded.features)
    z = nn.functional.normalize(z - z.mean(0), dim=1)
    asked = torch.linspace(0, n - 1, min(queries, n)).round().long()
    cosines = z[asked] @ z.T
    cosines[torch.arange(len(asked)), asked] = -2  # of itself
    near = cosines.topk(min(neighbours, n - 1))
    rows = []
    for i, values, found in zip(asked.tolist(), *map(torch.Tensor.tolist, near), strict=True):
        captions = ["", *(f"{value:.2f}" for value in values)]
        rows.append(page.sheet(embedded, [i, *found], captions))
    return page.render(
        "neighbours.html", title=f"Nearest neighbours of {n:,} images", of=of, n=n, rows=rows,
        notes=embedded.notes, failed=embedded.failed[: page.LISTED],
        more=len(embedded.failed) - page.LISTED,
    )  # fmt: skip


def describe(embedded: Embedded, facts: Mapping[str, object]) -> list[str]:
    """Lines to print: counts, encoder, and what had to be changed."""
    n, dim = embedded.features.shape
    failed = f"; unreadable {len(embedded.failed):,}" if embedded.failed else ""
    return [f"{n:,} images, {dim} features of {facts['encoder']}{failed}", *embedded.notes]
