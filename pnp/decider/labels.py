"""Labels of one's own images: a csv with the columns file, label and, if given, part."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from pnp.errors import UserError, number
from pnp.files import read_text

PARTS = ("head", "validation", "calibration", "test")
POSITIVE, NEGATIVE = ("1", "p", "true", "yes"), ("0", "notp", "¬p", "false", "no")


@dataclass(frozen=True)
class Label:
    """One row: an image, its answer, the part it must go to and its group, where they are given."""

    file: str
    positive: bool
    part: str | None
    group: str | None = None


@dataclass(frozen=True)
class Labels:
    """The rows of label files, in their order, and notes on what was left out.

    `grouped`: every row names its group.
    """

    rows: tuple[Label, ...]
    notes: tuple[str, ...]
    grouped: bool = False


def read_labels(
    path: str | Path | Sequence[str],
    names: list[str],
    column: str = "label",
    groups: str | None = None,
) -> Labels:
    """Read the labels of the images `names`.

    Args:
        path: a csv file, or several, with a header; `file` is relative to the folder of images;
            the label is 0 or 1, P or notP, and empty where there is none yet; `part`, where it is
            given, is one of head, validation, calibration, test. Other columns are ignored.
        names: the image files of the folder.
        column: name of the column of labels.
        groups: name of the column of groups.

    Raises:
        UserError: no such file or columns, a label of another kind, two answers for one file, no
            group for a labelled image, or no label for any image.
    """
    there, rows, empty, missing, repeated = set(names), dict[str, Label](), 0, [], []
    wanted = ["file", column, *([groups] if groups else [])]
    lines, lacking = _lines([path] if isinstance(path, str | Path) else path, wanted)
    for where, row in lines:
        name = _name(row["file"], there)
        if not row[column].strip():
            empty += 1
            continue
        label = _row(where, name, row, column, groups)
        if name in rows:
            repeated.append(name)
            if rows[name] != label:
                raise UserError(
                    f"{where}: {name} is listed twice, with different answers, parts or groups. "
                    "Keep one of the lines."
                )
        elif name not in there:
            missing.append(name)
        else:
            rows[name] = label
    if not rows:
        raise UserError(
            f"labels={path} labels none of the {len(names):,} images"
            + (f"; it names {missing[0]}, the folder has {names[0]}" if missing else "")
            + ". Give files relative to the folder of images."
        )
    bare = sorted(there - set(rows))
    notes = [
        note("labels for files that do not exist", missing, "left out"),
        note("images without a label", bare, "not used"),
        note("labels listed twice", repeated, "counted once"),
        f"{empty:,} rows have no label yet; not used." if empty else "",
        note(f"label files without {' or '.join(wanted[1:])}", lacking, "not used"),
    ]
    return Labels(tuple(rows.values()), tuple(n for n in notes if n), groups is not None)


def _lines(
    paths: Sequence[str | Path], wanted: Sequence[str]
) -> tuple[list[tuple[str, dict[str, str]]], list[str]]:
    """The rows of the files, each with its place for messages; files that lack a column."""
    lines, lacking, seen = [], [], []
    for path in paths:
        text = read_text(Path(path), f"labels={path}")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        try:
            seen = [str(name) for name in reader.fieldnames or ()]
            if set(wanted) <= set(seen):
                lines += [(f"labels={path}, line {reader.line_num}", row) for row in reader]
            else:
                lacking.append(str(path))
        except csv.Error as error:
            where = f"labels={path}, line {reader.line_num}"
            raise UserError(f"{where}: {error}. Is it a csv, with all quotes closed?") from error
        twice = sorted(
            {name for name in seen if seen.count(name) > 1 and name in (*wanted, "part")}
        )
        if twice:
            raise UserError(f"labels={path} has the column {twice[0]} twice: keep one of them.")
    if len(lacking) == len(paths):
        raise UserError(
            f"labels={lacking[-1]} has the columns {', '.join(seen)}; expected a header with "
            f"{' and '.join(wanted)} (labels are 0 or 1, P or notP), and part if you like."
        )
    return lines, lacking


def _name(entry: str | None, there: set[str]) -> str:
    name = (entry or "").strip().replace("\\", "/")
    return name if name in there else name.removeprefix("./")


def _row(where: str, name: str, row: dict[str, str], column: str, groups: str | None) -> Label:
    word, part = row[column].strip(), (row.get("part") or "").strip() or None
    group = row[groups].strip() if groups else None
    if word.lower() not in POSITIVE + NEGATIVE:
        raise UserError(f"{where}: label {word!r} of {name}; expected 0 or 1, P or notP.")
    if part is not None and part not in PARTS:
        raise UserError(f"{where}: part {part!r} of {name}; expected {', '.join(PARTS)}.")
    if group == "":
        raise UserError(f"{where}: {name} has no {groups}; name the group of every labelled image.")
    return Label(name, word.lower() in POSITIVE, part, group)


def note(what: str, names: list[str], then: str) -> str:
    """A sentence that counts and names what was left out; empty where nothing was."""
    if not names:
        return ""
    some = ", ".join(names[:3]) + (" …" if names[3:] else "")
    return f"{what}: {len(names):,} ({some}); {then}."


@dataclass(frozen=True)
class Shares:
    """Shares of the labelled images that go to each part by the hash of their content.

    Args:
        calibration: certifies the thresholds; nobody else may see it.
        validation: chooses the regularisation of the head.
        test: measures the finished decider; 0 leaves the table to the calibration part.

    Raises:
        UserError: shares outside [0, 1), or nothing left for the head.
    """

    calibration: float = 0.5
    validation: float = 0.1
    test: float = 0.0

    def __post_init__(self) -> None:
        """Check that the parts leave something for the head."""
        for key in ("calibration", "validation", "test"):
            number(key, getattr(self, key), 0, 1, open_high=True)
        total = self.calibration + self.validation + self.test
        if not self.calibration or not self.validation or total >= 0.95:
            raise UserError(
                f"calibration={self.calibration:g}, validation={self.validation:g}, test="
                f"{self.test:g}: the first two must be above 0, and together they must leave at "
                "least 5 % for the head."
            )

    def part(self, content_hash: int) -> str:
        """The part of an image: the same for the same image, wherever and whenever it is met."""
        place = (content_hash % 2**64) / 2**64
        for name in ("calibration", "validation", "test"):
            place -= getattr(self, name)
            if place < 0:
                return name
        return "head"


def divide(labels: Labels, hashes: Int64[Tensor, " n"], shares: Shares) -> dict[str, list[int]]:
    """Row numbers of each part: the part given, else the one of the content's hash.

    An image that occurs more than once (under several names) counts once.

    Raises:
        UserError: the same image in two parts, or with two answers.
    """
    parts: dict[str, list[int]] = {name: [] for name in PARTS}
    first: dict[int, tuple[int, str]] = {}
    for i, (row, value) in enumerate(zip(labels.rows, hashes.tolist(), strict=True)):
        part = row.part or shares.part(value)
        if value not in first:
            first[value] = (i, part)
            parts[part].append(i)
            continue
        other, its = labels.rows[first[value][0]], first[value][1]
        if row.positive != other.positive:
            raise UserError(
                f"{row.file} and {other.file} are the same image with different labels. Correct "
                "one of them, or leave both out."
            )
        if part != its:
            raise UserError(
                f"{row.file} ({part}) and {other.file} ({its}) are the same image in two parts: "
                "what the head has seen proves nothing. Give them the same part, or leave one out."
            )
    return parts
