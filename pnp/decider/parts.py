"""Labelled images of each part, embedded: of a folder with labels, or of a data set's split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from pnp.console import bar
from pnp.data.imageset import ImageSet
from pnp.decider.decider import BATCH, features
from pnp.decider.images import Reader, content_hashes, find
from pnp.decider.labels import Labels, Shares, divide, note, read_labels
from pnp.errors import UserError
from pnp.evaluation.probes import subset
from pnp.export.encoder import Encoder

HEAD = 50_000  # images of a split that are used


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled images of one part.

    Features (n, d), True for P (n,), content hashes (n,), and names of groups (n,), if any.
    """

    features: Float[Tensor, "n d"]
    y: Bool[Tensor, " n"]
    hashes: Int64[Tensor, " n"]
    groups: Shaped[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Int64[Tensor, " m"]) -> "Part":
        """These rows."""
        groups = None if self.groups is None else self.groups[rows.numpy()]
        return Part(self.features[rows], self.y[rows], self.hashes[rows], groups)


@dataclass(frozen=True)
class Question:
    """One concept: its labelled images by part.

    Args:
        name: of the concept.
        meaning: of P, in words.
        parts: head, validation, calibration, and test if there is one.
        notes: sentences on everything that was left out or changed.
        columns: columns of the label files that hold labels and groups, if there are any.
    """

    name: str
    meaning: str
    parts: Mapping[str, Part]
    notes: Sequence[str] = ()
    columns: Mapping[str, str | None] | None = None


def part_of_set(
    encoder: Encoder,
    images: ImageSet,
    y: Bool[Tensor, "n k"],
    keep: Bool[Tensor, "n k"],
    most: int = HEAD,
) -> list[Part]:
    """The images of a data set that count for each of k concepts, each image embedded once.

    Args:
        encoder: of the deciders.
        images: one split.
        y: True for P.
        keep: images that count.
        most: images to use; more are drawn from, always the same ones.
    """
    rows = keep.any(1).nonzero().flatten()
    rows = rows[subset(len(rows), most).sort().values]
    found, hashes = [], []
    with bar(f"{images.name} images", len(rows)) as advance:
        for piece in rows.split(BATCH):
            pixels = images.batch(piece).cpu()
            found.append(features(encoder, pixels))
            hashes.append(content_hashes(pixels))
            advance(len(piece))
    whole = Part(torch.cat(found), y[rows, 0], torch.cat(hashes))
    return [
        replace(whole, y=y[rows, k]).take(keep[rows, k].nonzero().flatten())
        for k in range(y.shape[1])
    ]


def questions_of_folder(
    encoder: Encoder,
    labels: str | Path | Sequence[str],
    images: str | Path,
    shares: Shares,
    concepts: Mapping[str, str],
    groups: str | None = None,
) -> list[Question]:
    """Labelled image files, each embedded once, divided into parts for each concept.

    Args:
        encoder: of the deciders.
        labels: csv files.
        images: the folder.
        shares: of the parts.
        concepts: name of each concept -> column that holds its labels.
        groups: column that names the group of an image.

    Raises:
        UserError: as `find`, `read_labels` and `divide`; or no labelled image can be read.
    """
    root, names, others = find(images)
    given = {name: read_labels(labels, names, column, groups) for name, column in concepts.items()}
    files = list(dict.fromkeys(row.file for part in given.values() for row in part.rows))
    reader = Reader(encoder.channels, encoder.size)
    found, hashes, bad, place = [], [], [], dict[str, int]()
    for read, pixels, failed in reader.stream(root, files):
        found.append(features(encoder, pixels))
        hashes.append(content_hashes(pixels))
        place |= {name: len(place) + i for i, name in enumerate(read)}
        bad += failed
    unreadable = note("unreadable", [f"{name} ({reason})" for name, reason in bad], "left out")
    if not place:
        raise UserError(f"images={images}: no labelled image can be read. {unreadable}")
    everything = torch.cat(found), torch.cat(hashes)
    questions = []
    for name, rows in given.items():
        parts, notes = _divided(rows, *everything, place, shares)
        notes = [*rows.notes, *others, unreadable, *notes, *reader.notes]
        first = Path(labels if isinstance(labels, str | Path) else labels[0]).name
        what = "label" if concepts[name] == "label" else f"{concepts[name]} is"
        columns = {"label": concepts[name], "groups": groups}
        meaning = f"{what} 1 or P in {first}"
        questions.append(Question(name, meaning, parts, [n for n in notes if n], columns))
    return questions


def _divided(
    labels: Labels,
    features: Float[Tensor, "n d"],
    hashes: Int64[Tensor, " n"],
    place: Mapping[str, int],
    shares: Shares,
) -> tuple[dict[str, Part], list[str]]:
    """The labelled images in their parts, and sentences on what was done to that end."""
    rows = tuple(row for row in labels.rows if row.file in place)
    index = torch.tensor([place[row.file] for row in rows]).long()
    groups = np.array([row.group for row in rows], dtype=str) if labels.grouped else None
    y = torch.tensor([row.positive for row in rows], dtype=torch.bool)
    everything = Part(features[index], y, hashes[index], groups)
    divided = divide(replace(labels, rows=rows), everything.hashes, shares)
    notes = []
    repeated = len(rows) - sum(map(len, divided.values()))
    if repeated:
        notes.append(f"repeated: {repeated:,} images occur under several names; counted once.")
    parts = {name: everything.take(torch.tensor(i).long()) for name, i in divided.items()}
    if not len(parts["validation"]):  # all parts were given, and this one was not among them
        head = parts["head"]
        turn = torch.arange(len(head)) % 5 == 0
        parts["validation"] = head.take(turn.nonzero().flatten())
        parts["head"] = head.take((~turn).nonzero().flatten())
        notes.append("validation: a fifth of the head's images choose its regularisation.")
    return parts, notes
