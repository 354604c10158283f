"""Whatever is wrong with images, labels or a decider: refused in words, or counted and named."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_decider import (
    COUNT,
    SIZE,
    answers_of,
    command,
    pictures,
    refit,
    write_decider,
    write_labels,
)

import pnp
from pnp.decider.folder import FACTS, TENSORS
from pnp.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_decider(tmp_path_factory.mktemp("made"))


# ---- folders of images ---------------------------------------------------------------------------

ODD = ("empty", "cut", "text", "grey", "alpha", "palette", "wide", "tiny", "deep", "twin", "good")


def odd_file(rng, folder, i, others):
    kind = str(rng.choice(ODD))
    name = f"{kind}{i}{rng.choice(['.png', '.PNG', '.bmp', '.gif', '.webp'])}"
    file = folder / str(rng.choice(["", "sub dir", "ü"])) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("no image")
    elif kind == "twin":
        shutil.copy(others[int(rng.integers(len(others)))], file)
    else:
        size = {"wide": (40, 3), "tiny": (1, 1)}.get(kind, (SIZE, SIZE))
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        mode = {"grey": "L", "alpha": "RGBA", "palette": "P", "deep": "I;16"}.get(kind)
        picture = Image.fromarray(pixels)
        if kind == "deep":
            file = file.with_suffix(".png")
        picture = Image.new(mode, size) if kind == "deep" else picture.convert(mode or "RGB")
        try:
            picture.save(file)
        except OSError:  # a format that has no such mode
            picture.convert("RGB").save(file)
        if kind == "cut":
            file.write_bytes(file.read_bytes()[: int(rng.integers(1, 60))])
    return file


@pytest.mark.parametrize("seed", range(4))
def test_whatever_lies_in_a_folder_nothing_is_lost_and_nothing_crashes(made, tmp_path, seed):
    rng = np.random.default_rng(seed)
    images = tmp_path / "images"
    rows = pictures(images, count=60, seed=seed)
    others = sorted(images.iterdir())
    odd = [odd_file(rng, images, i, others) for i in range(25)]
    names = [file.relative_to(images).as_posix() for file in odd]
    rows += [(name, rng.choice(["P", "notP", "0", "1", ""])) for name in names]
    rng.shuffle(rows)
    labels = write_labels(tmp_path / "l.csv", rows[: int(rng.integers(3, len(rows)))])
    try:
        out = refit(made, tmp_path, labels=labels, images=images, max_fp=0.3, max_fn=0.3)
    except UserError:  # in words; any other error fails the test
        out = made / "decider"
    failed = command("apply", f"decider={out}", f"images={images}", f"out={tmp_path}")
    table = answers_of(tmp_path)
    assert set(table) == {p.relative_to(images).as_posix() for p in images.rglob("*.*")}
    assert failed == sum(row["answer"] == "" for row in table.values())
    for row in table.values():
        assert (row["answer"] == "") == bool(row["note"])
        assert row["answer"] == "" or np.isfinite(float(row["score"]))


# ---- labels --------------------------------------------------------------------------------------


def odd_rows(rng, rows):
    """Rows that are wrong in one way or another, and the sentence or error that tells each."""
    name, y = rows[int(rng.integers(len(rows)))]
    return [
        [(f"gone{rng.integers(99)}.png", "1")],  # no such file
        [(name, str(y))],  # twice
        [(f" ./{name}", ("no", "yes")[y])],  # in other words
        [(name, "")],  # none yet
        [(name, str(1 - y))],  # contradicts
        [(name, str(rng.choice(["maybe", "2", "-1", "nan", "\x00", "½"])))],
        [(name,)],  # a cell too few
        [(name, str(y), "calibration", "more")],  # too many
        [("", str(y))],
        [("../images/" + name, str(y))],
        [(name, str(y), str(rng.choice(["exam", "head", "HEAD"])))],
    ]


@pytest.mark.parametrize("seed", range(12))
def test_every_label_is_used_or_counted_or_refused_with_its_line(made, tmp_path, seed):
    rng = np.random.default_rng(seed)
    with (made / "labels.csv").open(newline="") as stream:
        rows = [(file, int(y)) for file, y in list(csv.reader(stream))[1:]]
    rng.shuffle(rows)
    kinds = rng.choice(11, int(rng.integers(1, 4)))
    kept = rows[int(rng.integers(0, 60)) :]
    lines = [*kept, *(row for kind in kinds for row in odd_rows(rng, kept)[kind])]
    labels = write_labels(tmp_path / "l.csv", lines, ("file", "label", "part")[: 2 + seed % 2])
    if seed % 4 == 3:  # not written by a program
        text = labels.read_bytes()
        cut = int(rng.integers(len(text) // 2, len(text)))
        labels.write_bytes(text[:cut] + bytes(rng.integers(0, 256, 3, dtype=np.uint8)))
    out, refused = made / "decider", ""
    try:
        out = refit(made, tmp_path, labels=labels, max_fp=0.3, max_fn=0.3)
    except UserError as error:
        refused = str(error)
    if refused:
        assert "labels=" in refused or "part" in refused
        assert not (tmp_path / "decider").exists()
        return
    facts = json.loads((out / FACTS).read_text())
    used = sum(part["images"] for part in facts["parts"].values())
    notes = "\n".join(facts["notes"])
    unlabelled = COUNT - used
    assert (f"images without a label: {unlabelled:,}" in notes) == (unlabelled > 0)
    assert "gone" not in notes or "labels for files that do not exist" in notes


@pytest.mark.parametrize(
    ("header", "text", "message"),
    [
        ("", "", "has the columns ; expected a header with file and label"),
        ("file;label", "000.png;1", "has the columns file;label"),
        ("file,label,label", "000.png,1,0", "has the column label twice"),
        ("file,label", '"000.png,1\n' + "x" * 140_000, "Is it a csv, with all quotes closed"),
        ("file,label", "\udcff.png,1", "cannot read labels=.*it is not UTF-8"),
    ],
)
def test_a_file_that_is_no_table_of_labels_is_refused(made, tmp_path, header, text, message):
    labels = tmp_path / "l.csv"
    labels.write_bytes(f"{header}\n{text}".encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        refit(made, tmp_path, labels=labels)


def test_folders_without_a_picture_are_refused_by_every_subcommand(made, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no")
    rows = write_labels(tmp_path / "l.csv", [("a.png", 1)])
    for name, message in (
        ("empty", "no images below it"),
        ("text", r"no images below it \(1 other files\)"),
        ("broken", "a.png|no labelled image can be read"),
        ("nowhere", "there is no such folder"),
    ):
        where = (f"images={tmp_path / name}", f"out={tmp_path / 'out'}")
        for word, more in (("apply", ()), ("label", ()), ("check", (f"labels={rows}",))):
            with pytest.raises(UserError, match=message):
                command(word, f"decider={made / 'decider'}", *where, *more)
        with pytest.raises(UserError, match=message):
            refit(made, tmp_path, labels=rows, images=tmp_path / name)
    assert not (tmp_path / "out").exists()


# ---- deciders ------------------------------------------------------------------------------------


def leaves(tree, path=()):
    """Paths of all entries of nested dicts and lists."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def edit(rng, file):
    """Change or drop an entry of a JSON file."""
    facts = json.loads(file.read_text())
    paths = list(leaves(facts))
    *way, last = paths[int(rng.integers(len(paths)))]
    place = facts
    for key in way:
        place = place[key]
    odd = [None, -1, float("nan"), "", "x", [], {}, True, 1e308]
    if rng.random() < 0.3:
        del place[last]
    else:
        place[last] = odd[int(rng.integers(len(odd)))]
    file.write_text(json.dumps(facts))


def retouch(rng, file):
    """Change a tensor: its values, its shape, its name, or its type."""
    tensors = load_file(file)
    names = sorted(tensors)
    name = names[int(rng.integers(len(names)))]
    value = tensors.pop(name)
    changes = (
        lambda: {name: value + 1},
        lambda: {name: torch.full_like(value, torch.nan if value.is_floating_point() else 3)},
        lambda: {name: torch.cat([value.flatten(), value.flatten()])},
        lambda: {f"{name}_": value},
        dict,
    )
    save_file(tensors | changes[int(rng.integers(len(changes)))](), file)


def damage(rng, folder):
    """Do something to one file of a folder."""
    file = sorted(folder.iterdir())[int(rng.integers(len(list(folder.iterdir()))))]
    content = file.read_bytes()
    kind = int(rng.integers(5))
    if kind == 0:
        file.write_bytes(content[: int(rng.integers(len(content)))])
    elif kind == 1:
        at = int(rng.integers(len(content)))
        flipped = bytes([content[at] ^ 1 << int(rng.integers(8))])
        file.write_bytes(content[:at] + flipped + content[at + 1 :])
    elif kind == 2:
        file.unlink()
    elif file.suffix == ".json":
        edit(rng, file)
    elif file.suffix == ".safetensors":
        retouch(rng, file)
    else:
        file.write_bytes(rng.bytes(200))
    return file.name


@pytest.mark.parametrize("seed", range(4))
def test_a_decider_damaged_anywhere_is_refused_or_answers_as_it_did(made, tmp_path, seed):
    rng = np.random.default_rng(seed)
    pixels = pnp.load_decider(made / "decider").reader().batch(made / "images")[:20]
    before = pnp.load_decider(made / "decider")(pixels)
    refused = 0
    for turn in range(40):
        copy = Path(shutil.copytree(made / "decider", tmp_path / str(turn)))
        name = damage(rng, copy)
        try:
            answers = pnp.load_decider(copy)(pixels)
        except UserError:
            refused += 1
            continue
        assert (answers.guarantee, answers.words) == (before.guarantee, before.words)
        np.testing.assert_array_equal(answers.scores, before.scores)
        same = json.loads((copy / FACTS).read_text()) == json.loads(
            (made / "decider" / FACTS).read_text()
        )
        assert name == "README.md" or same
    assert refused > 20


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"t_lo": "1", "t_hi": "-1"}, "t_lo is above t_hi"),
        ({"t_lo": "nan"}, "t_lo=nan"),
        ({"t_hi": "high"}, "could not convert"),
        ({"crossed": "false"}, "crossed"),
        ({"crossed": True}, "crossed=True"),
        ({"t_lo": None}, "damaged"),
    ],
)
def test_thresholds_that_cannot_be_are_refused_though_nothing_says_they_were_edited(
    made, tmp_path, thresholds, message
):
    copy = Path(shutil.copytree(made / "decider", tmp_path / "copy"))
    facts = json.loads((copy / FACTS).read_text())
    facts["thresholds"] |= thresholds
    (copy / FACTS).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="was changed since it was written"):
        pnp.load_decider(copy)
    del facts["digest"]
    (copy / FACTS).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=message):
        pnp.load_decider(copy)


def test_a_decider_written_before_there_was_a_digest_loads(made, tmp_path):
    copy = Path(shutil.copytree(made / "decider", tmp_path / "copy"))
    facts = json.loads((copy / FACTS).read_text())
    del facts["digest"], facts["files"]["config.json"]
    assert set(facts["files"]) == set(TENSORS)
    (copy / FACTS).write_text(json.dumps(facts))
    pnp.load_decider(copy)
