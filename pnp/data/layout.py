"""Image folders as people lay them out: parts, order of classes, csv labels, usual size."""

import csv
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from pnp.errors import UserError

log = logging.getLogger(__name__)

# Folder names, in any case, that mean an official part, and what the part is called here.
PARTS = {
    **dict.fromkeys(("train", "training", "train_images"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate"), "validation"),
    **dict.fromkeys(("test", "testing", "test_images"), "test"),
}
# Columns of a csv of labels, in any case.
FILE = ("file", "filename", "file_name", "image", "image_name", "path", "name", "id")
LABEL = ("label", "labels", "class", "class_name", "target", "category", "y")
PART = ("part", "split", "set")
SIZE = 64  # largest side that is chosen for the user, in pixels
SAMPLE = 64  # files whose size is looked at


def part_folders(root: Path, *, labelled: bool = True) -> dict[str, Path]:
    """The folders of the official parts below `root`; {"train": root} where there are none.

    Raises:
        UserError: two folders of one part, or parts without train.
    """
    found: dict[str, list[Path]] = {}
    others = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if part := PARTS.get(folder.name.lower()):
            found.setdefault(part, []).append(folder)
        elif not folder.name.startswith((".", "__")):
            others.append(folder.name)
    for folders in found.values():
        if len(folders) > 1 and "train" in found:
            named = " and ".join(folder.name for folder in folders)
            raise UserError(f"{root} holds both {named}: keep one of them.")
    if "train" in found:
        if others:
            log.warning("%s: %s beside train left out", root, ", ".join(others[:5]))
        return {part: found[part][0] for part in ("train", "validation", "test") if part in found}
    if len(found) > 1 and not others and labelled:
        named = ", ".join(folders[0].name for folders in found.values())
        raise UserError(
            f"{root} holds {named} but no train folder: rename the one to train on to train, or "
            "give data.labels=none to use all of it."
        )
    return {"train": root}


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names with their numbers in the order of numbers.

    >>> in_order(["10", "9", "class 11", "class 2"])
    ('9', '10', 'class 2', 'class 11')
    """

    def key(name: str) -> tuple[list[tuple[int, int, str]], bytes]:
        words = re.split(r"(\d+)", name)
        order = [(0, int(w), "") if w.isdecimal() else (1, 0, w) for w in words if w]
        return order, name.encode(errors="surrogateescape")

    return tuple(sorted(names, key=key))


def usual_size(files: Sequence[Path]) -> int:
    """The median of the shorter sides of some files, at most 64: a size in pixels for all."""
    sides = []
    for file in files[:: max(1, len(files) // SAMPLE)]:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # whoever decodes it will say so
    return min(SIZE, max(8, sorted(sides)[len(sides) // 2])) if sides else SIZE


def read_labels(
    file: Path, root: Path, names: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Labels, and parts where a column gives them, of the images `names`: name -> word.

    Args:
        file: a csv with a header: a column of files (relative to `root`, or just their names, with
            or without ending), one of labels, and if you like one of parts (train, val, test).
        root: the folder of images.
        names: the image files below it.

    Raises:
        UserError: no such file or columns, two answers for one image, or images without a label.
    """
    places = [place for place in (file.expanduser(), root / file) if place.is_file()]
    if not places:
        raise UserError(f"data.labels={file} is not a file (auto, none, or a csv of labels).")
    try:
        with places[0].open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.labels={file} cannot be read as csv: {error}.") from error
    head = [word.strip().lower() for word in lines[0]] if lines else []
    known = FILE, LABEL, PART
    columns = [next((head.index(word) for word in words if word in head), None) for words in known]
    if None in columns[:2]:
        raise UserError(
            f"data.labels={file} has the columns {', '.join(head) or 'none'}; expected a header "
            f"with one of {', '.join(FILE)} and one of {', '.join(LABEL)}."
        )
    place, labels, parts, missing = _lookup(names), dict[str, str](), dict[str, str](), 0
    for number, line in enumerate(lines[1:], 2):
        cells = [line[c].strip() if c is not None and c < len(line) else "" for c in columns]
        entry, label, part = cells
        name = place.get(entry.replace("\\", "/").removeprefix("./"))
        if not entry or name is None:
            missing += bool(entry)
            continue
        if labels.get(name, label) != label:
            raise UserError(f"data.labels={file}, line {number}: {name} has two labels.")
        labels[name] = label
        if part:
            if part.lower() not in PARTS:
                raise UserError(
                    f"data.labels={file}, line {number}: part {part!r}; expected train, val, test."
                )
            parts[name] = PARTS[part.lower()]
    bare = [name for name in names if not labels.get(name)]
    if bare:
        raise UserError(
            f"data.labels={file} has no label for {len(bare):,} of {len(names):,} images "
            f"({', '.join(bare[:3])}): add them, or move those images elsewhere."
        )
    if missing:
        log.warning("data.labels=%s: %d rows name no image below %s", file, missing, root)
    return labels, parts


def _lookup(names: Sequence[str]) -> Mapping[str, str]:
    """Image by relative name, and by file name or stem where that is unique."""
    short: dict[str, str | None] = {}
    for name in names:
        file = name.rpartition("/")[2]
        for word in {file, file.rpartition(".")[0], name.rpartition(".")[0]}:
            short[word] = None if word in short else name
    return {word: name for word, name in short.items() if name} | {name: name for name in names}
