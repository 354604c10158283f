"""Answers of several annotators for each image of a folder."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from pnp.errors import UserError, near
from pnp.files import read_text


def read_votes(
    file: str | Path, names: Iterable[str], classes: Sequence[str]
) -> Int64[Tensor, "n k"]:
    """The class that each of k annotators gave to each image.

    Args:
        file: csv with the columns class, image, vote1 … voteK: `class/image` is a file below the
            root, with or without its ending; votes are names of classes.
        names: image files relative to the root.
        classes: names of the classes.

    Raises:
        UserError: no such file or columns, a vote for an unknown class, two lines for an image, or
            an image without votes.
    """
    number = {name: i for i, name in enumerate(classes)}
    given: dict[str, list[int]] = {}
    text = read_text(Path(file), f"data.votes={file}")
    reader = csv.DictReader(text.splitlines(), restval="")
    columns = reader.fieldnames or ()
    votes = [name for name in columns if name.startswith("vote")]
    if not {"class", "image"} <= set(columns) or not votes:
        raise UserError(
            f"data.votes={file} has the columns {', '.join(columns)}; expected class, image, vote1 "
            "and so on."
        )
    for row in reader:
        key = f"{row['class']}/{row['image']}"
        if key in given:
            raise UserError(f"data.votes={file}, line {reader.line_num}: {key} is listed twice.")
        unknown = [row[v] for v in votes if row[v] not in number]
        if unknown:
            raise UserError(
                f"data.votes={file}, line {reader.line_num}: {unknown[0]!r} is no class of the "
                f"folder.{near(unknown[0], classes)} Classes: {', '.join(classes[:20])}."
            )
        given[key] = [number[row[v]] for v in votes]
    found = {name: given.get(name) or given.get(name.rpartition(".")[0]) for name in names}
    bare = [name for name, numbers in found.items() if numbers is None]
    if bare:
        raise UserError(
            f"data.votes={file} has no votes for {len(bare):,} of {len(found):,} images, such as "
            f"{bare[0]}. Every image needs them: let data.root be the folder whose class folders "
            "the file speaks of, such as ROOT/train."
        )
    return torch.tensor(list(found.values()))
