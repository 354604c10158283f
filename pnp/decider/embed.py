"""Features of a folder of images as a table, and a sheet of the images that they find alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from torch import nn

from pnp.console import printable
from pnp.decider import page
from pnp.decider.decider import embedded, features
from pnp.decider.images import Reader, find
from pnp.decider.parts import ignored
from pnp.errors import UserError
from pnp.export.encoder import Encoder
from pnp.files import replacing, write_text

KINDS = (".csv", ".npy", ".parquet")


@dataclass(frozen=True, eq=False)
class Embedded:
    """Features (n, d) of the images `names` (n) below `root`; `failed` are (name, reason)."""

    root: Path
    names: list[str]
    features: Float32[np.ndarray, "n d"]
    failed: list[tuple[str, str]]
    notes: list[str]


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


def embed(
    encoder: Encoder,
    images: str | Path,
) -> Embedded:
    """Features of the images of a folder, chunk by chunk, as a decider computes them.

    Args:
        encoder: on its device.
        images: a folder, or one file.

    Raises:
        UserError: no image, or none that can be read.
    """
    root, names, others = find(images)
    reader = Reader(encoder.channels, encoder.size)
    good, parts, failed = [], [], []
    chunks = embedded(partial(features, encoder), reader, root, names)
    for read, _, part, bad in chunks:
        good += read
        parts.append(part)
        failed += bad
    if not good:
        some = "; ".join(f"{printable(name)} ({reason})" for name, reason in failed[:3])
        raise UserError(f"images={images}: none of {len(names):,} images can be read: {some}.")
    return Embedded(root, good, torch.cat(parts).numpy(), failed, [*ignored(others), *reader.notes])


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
        rows = [(printable(name), reason) for name, reason in embedded.failed]
        write_text(unreadable, pd.DataFrame(rows, columns=["file", "reason"]).to_csv(index=False))
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
        row = []
        for j, caption in ((i, ""), *zip(found, (f"{value:.2f}" for value in values), strict=True)):
            name = embedded.names[j]
            row.append(page.Shown(page.thumbnail(embedded.root / name), printable(name), caption))
        rows.append(row)
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
