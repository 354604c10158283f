"""Any folder of images: its parts, its class folders, or no classes at all."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pnp.console import printable
from pnp.data.cache import cached
from pnp.data.files import FolderImages, contents, readable
from pnp.data.imageset import ImageSet, concatenate
from pnp.data.layout import PARTS, in_order, part_folders, read_labels, usual_size
from pnp.data.names import Names
from pnp.data.votes import read_votes
from pnp.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LAYOUTS = (
    "ROOT/train/CLASS/*.jpg with ROOT/test/CLASS/*.jpg (and ROOT/val if you like), "
    "ROOT/CLASS/*.jpg, or images anywhere below ROOT (no labels)"
)


def parts(
    root: str | Path | None,
    size: int | None,
    *,
    labelled: bool = True,
    labels: str | Path | None = None,
    votes: str | Path | None = None,
    cache: str | Path | None = None,
    skip_corrupt: bool = False,
) -> dict[str, ImageSet]:
    """The images below `root`: {"train": all} or the official parts train, validation, test.

    The first folder below a part is the class, when every image lies in one and there are at least
    two; otherwise the images have no labels. Where fewer than a tenth lie beside class folders,
    they are left out. Hidden files and folders are left out.

    Args:
        root: the folder.
        size: side in pixels of the decoded squares; None takes the usual one of the files.
        labelled: False ignores class folders.
        labels: csv of labels, in place of class folders; see `pnp.data.layout.read_labels`.
        votes: csv with the answers of several annotators, see `pnp.data.votes`.
        cache: folder of memory-mapped arrays to read the images from; None decodes the files.
        skip_corrupt: leave unreadable files out.

    Raises:
        UserError: no folder, no images, parts that disagree about the classes or lack train, or
            votes that do not fit the images.
    """
    if root is None:
        raise UserError(f"data.root is not set: give data.root=ROOT. Expected: {LAYOUTS}.")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder. Expected: {LAYOUTS}.")
    by_folder = labelled and labels is None
    folders = part_folders(_unwrapped(root) if by_folder else root, labelled=by_folder)
    names = {part: image_names(path) for part, path in folders.items()}
    if by_folder:
        names = {part: _without_strays(folders[part], found) for part, found in names.items()}
    for part, found in names.items():
        if not found:
            raise UserError(f"No images in {folders[part]}. Expected: {LAYOUTS}.")
    # Names relative to one root, whatever the part: unions of parts stay readable.
    files = {part: _below(root, folders[part], found) for part, found in names.items()}
    words: dict[str, list[str]] = {}
    classes: tuple[str, ...] = ()
    if labels is not None:
        everything = [name for found in files.values() for name in found]
        word, given = read_labels(Path(labels), root, everything)
        if given and len(files) == 1:
            files = _given_parts(everything, given)
        words = {part: [word[name] for name in found] for part, found in files.items()}
        classes = in_order(set(word.values()))
    elif by_folder and (classes := _classes(names, folders)):
        words = {part: [_class(name) for name in found] for part, found in names.items()}
    number = {name: i for i, name in enumerate(classes)}
    if size is None:
        size = usual_size([root / name for name in files["train"]])
    sets = {}
    shown = tuple(map(printable, classes))
    for part, found in files.items():
        images = FolderImages(root, Names(found), size)
        labelling = torch.tensor([number[word] for word in words[part]]) if classes else None
        answers = None if votes is None else read_votes(votes, found, shown)
        sets[part] = ImageSet(
            name=part, images=images, labels=labelling, classes=shown, votes=answers
        )
    if cache is not None:
        return _from_cache(sets, Path(cache), skip_corrupt=skip_corrupt)
    for part, images in sets.items():
        if skip_corrupt:  # before anything is dealt: splits are those of the images that are used
            images = images.subset(readable(images.images, title=f"Reading {part}"))
        sets[part] = replace(images, content=contents(images.images.paths()))
    return sets


def _from_cache(
    sets: dict[str, ImageSet], folder: Path, *, skip_corrupt: bool
) -> dict[str, ImageSet]:
    """The same sets out of one array for all of them."""
    whole = concatenate(list(sets.values()))
    assert isinstance(whole.images, FolderImages)
    images, kept, content = cached(whole.images, folder, skip_corrupt=skip_corrupt)
    place = torch.full((len(whole),), -1)
    place[kept] = torch.arange(len(kept))
    found = {}
    pieces = place.split([len(part) for part in sets.values()])
    for (part, old), mine in zip(sets.items(), pieces, strict=True):
        read = (mine >= 0).nonzero().flatten()
        place_of = mine[read]
        found[part] = replace(
            old.subset(read), images=images.subset(place_of), content=content[place_of]
        )
    return found


def image_names(folder: Path) -> tuple[str, ...]:
    """Image files below a folder as sorted relative names with forward slashes."""
    found = []
    for below, files in walk(folder):
        # Strings, not paths: of a million files each costs.
        found += [
            below + name
            for name in files
            if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    return tuple(sorted(found, key=os.fsencode))  # the same in every locale


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below `folder` once, as a relative name that ends in a slash, with its files.

    Hidden folders are left out. A symbolic link to a folder is followed unless it is read anyway:
    one to a folder around the link, or beside it, would show every image twice.
    """
    root, seen = Path(os.path.realpath(folder)), set[str]()
    for place, subfolders, files in os.walk(folder, followlinks=True):
        where = Path(place).relative_to(folder)
        seen.add(os.path.realpath(place))
        below = "" if where == Path() else f"{where.as_posix()}/"
        yield below, files
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__")))
        for name in list(subfolders):
            link = Path(place, name)
            if link.is_symlink() and (real := _read_anyway(link, root, seen)) is not None:
                log.warning("%s: not followed, its images are read in %s", link, real)
                subfolders.remove(name)


def _read_anyway(link: Path, root: Path, seen: set[str]) -> Path | None:
    """The folder that a link leads to, if it is read without the link; else None."""
    real = Path(os.path.realpath(link))
    inside = real.is_relative_to(root)
    hidden = inside and any(p.startswith((".", "__")) for p in real.relative_to(root).parts)
    if (inside and not hidden) or root.is_relative_to(real) or str(real) in seen:
        return real
    seen.add(str(real))
    return None


def _below(root: Path, folder: Path, names: Sequence[str]) -> list[str]:
    below = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    return [below + name for name in names]


def _given_parts(names: Sequence[str], given: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by the part that a csv gives them; those without one are for training."""
    parts: dict[str, list[str]] = {"train": []}
    for name in names:
        parts.setdefault(given.get(name, "train"), []).append(name)
    if not parts["train"]:
        raise UserError("data.labels gives no image to train: mark some rows as train.")
    return parts


def _unwrapped(root: Path) -> Path:
    """The folder of classes or parts inside `root`, where an archive put it into others of its own.

    A folder is gone into while no image and no other folder lies beside it.
    """
    inner = root
    while True:
        inside = [path for path in inner.iterdir() if not path.name.startswith((".", "__"))]
        folders = [path for path in inside if path.is_dir()]
        if len(folders) > 1:
            if inner != root:
                log.warning("%s: its folders are read in %s", root, inner)
            return inner
        images = any(path.name.lower().endswith(SUFFIXES) for path in inside)
        if images or not folders or folders[0].is_symlink() or folders[0].name.lower() in PARTS:
            return root
        (inner,) = folders


def _without_strays(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The images in class folders, where fewer than a tenth lie beside these; else all."""
    inside = tuple(name for name in names if "/" in name)
    strays = [name for name in names if "/" not in name]
    if not strays or 10 * len(strays) >= len(names) or len({_class(name) for name in inside}) < 2:
        return names
    log.warning(
        "%s: %d beside the class folders left out (%s); data.labels=none takes every image",
        folder, len(strays), ", ".join(map(printable, strays[:3])),
    )  # fmt: skip
    return inside


def _class(name: str) -> str:
    return name.split("/", 1)[0]


def _classes(names: dict[str, tuple[str, ...]], folders: dict[str, Path]) -> tuple[str, ...]:
    """The classes of the training part; () when there are none."""
    found = {
        part: {_class(name) for name in files} if all("/" in name for name in files) else set()
        for part, files in names.items()
    }
    classes = found["train"] if len(found["train"]) > 1 else set()
    for part, here in found.items():
        if part != "train" and classes and not (here and here <= classes):
            odd = ", ".join(sorted(here - classes)[:3]) or "no class folders"
            raise UserError(
                f"{folders[part]} and {folders['train']} disagree about the classes: the first has "
                f"{odd}. Give both the same class folders, or use data.labels=none."
            )
    return in_order(classes)
