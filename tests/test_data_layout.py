"""Folders as people lay them out: what is understood, and what is said about it."""

import numpy as np
import pytest
from PIL import Image

from pnp.data import DataModule, folder
from pnp.data.describe import describe
from pnp.errors import UserError


def write(root, names, mode="RGB", size=12):
    rng = np.random.default_rng(0)
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size, size) if mode == "L" else (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(file)


def some(place, count=4):
    return [f"{place}/{i}.png" for i in range(count)]


@pytest.mark.parametrize("spelling", [
    ("train", "valid", "test"), ("Training", "Validation", "Testing"), ("Train", "val", "Test"),
])  # fmt: skip
def test_parts_are_known_by_every_usual_spelling(tmp_path, spelling):
    for part in spelling:
        write(tmp_path, some(f"{part}/a") + some(f"{part}/b"))
    parts = folder.parts(tmp_path, 8)
    assert set(parts) == {"train", "validation", "test"}
    assert parts["train"].classes == ("a", "b")


def test_parts_without_train_are_no_classes_and_two_spellings_of_one_part_are_refused(tmp_path):
    write(tmp_path, some("val/a") + some("test/a"))
    with pytest.raises(UserError, match="holds test, val but no train"):
        folder.parts(tmp_path, 8)
    assert len(folder.parts(tmp_path, 8, labelled=False)["train"]) == 8
    write(tmp_path, some("train/a") + some("valid/a"))
    with pytest.raises(UserError, match="holds both val and valid"):
        folder.parts(tmp_path, 8)


def test_a_folder_around_the_folders_is_gone_into_and_said(tmp_path, caplog):
    write(tmp_path / "data" / "data", some("cat") + some("dog"))
    (tmp_path / "data" / "README.txt").write_text("pets")
    part = folder.parts(tmp_path, 8)["train"]
    assert part.classes == ("cat", "dog")
    assert part.images.names[0] == "data/data/cat/0.png"
    assert "its folders are read in" in caplog.text
    write(tmp_path / "data" / "data", some("train/cat") + some("train/dog"))
    assert len(folder.parts(tmp_path, 8)["train"]) == 8
    write(tmp_path / "one", some("album/only"))
    assert folder.parts(tmp_path / "one", 8)["train"].classes == ()
    assert folder.parts(tmp_path, 8, labelled=False)["train"].classes == ()


def test_a_stray_image_does_not_unmake_classes_and_many_do(tmp_path, caplog):
    write(tmp_path, [*some("cat", 6), *some("dog", 6), "cover.png"])
    part = folder.parts(tmp_path, 8)["train"]
    assert (part.classes, len(part)) == (("cat", "dog"), 12)
    assert "1 beside the class folders left out (cover.png); data.labels=none" in caplog.text
    assert len(folder.parts(tmp_path, 8, labelled=False)["train"]) == 13
    write(tmp_path, ["back.png"])
    assert (part := folder.parts(tmp_path, 8)["train"]).classes == ()
    assert len(part) == 14


def test_a_class_may_be_called_test(tmp_path):
    write(tmp_path, some("test") + some("control"))
    assert folder.parts(tmp_path, 8)["train"].classes == ("control", "test")


def test_numbers_in_class_names_sort_as_numbers(tmp_path):
    write(tmp_path, [f"{name}/0.png" for name in ("10", "9", "class 2", "class 11")])
    assert folder.parts(tmp_path, 8)["train"].classes == ("9", "10", "class 2", "class 11")


def csv(tmp_path, *lines):
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "labels.csv"


def test_a_csv_brings_labels_by_path_name_or_stem_and_parts(tmp_path):
    write(tmp_path / "p", ["x/a.png", "x/b.png", "c.png", "d.png"])
    file = csv(tmp_path, "Filename,Label", "x/a.png,cat", "b.png,dog", "c,cat", "./d.png,dog")
    train = folder.parts(tmp_path / "p", 8, labels=file)["train"]
    words = {
        name: train.classes[y] for name, y in zip(train.images.names, train.labels, strict=True)
    }
    assert words == {"c.png": "cat", "d.png": "dog", "x/a.png": "cat", "x/b.png": "dog"}
    file = csv(tmp_path, "image,class,split", "a,1,train", "b,2,Test", "c,10,train", "d,2,valid")
    parts = folder.parts(tmp_path / "p", 8, labels=file)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 2, "test": 1, "validation": 1
    }  # fmt: skip
    assert parts["train"].classes == ("1", "2", "10")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b"], "has the columns a, b; expected a header"),
        (["file,label", "0.png,x"], r"no label for 3 of 4 images \(x/1.png, x/2.png, x/3.png\)"),
        (["file,label", "0.png,x", "x/0.png,y"], "line 3: x/0.png has two labels"),
        (["file,label,part", "0.png,x,dev"], "part 'dev'; expected train"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_named(tmp_path, lines, message):
    write(tmp_path, some("x"))
    with pytest.raises(UserError, match=message):
        folder.parts(tmp_path, 8, labels=csv(tmp_path, *lines))
    with pytest.raises(UserError, match="is not a file"):
        folder.parts(tmp_path, 8, labels="nowhere.csv")


@pytest.mark.parametrize(("side", "size"), [(28, 28), (200, 64), (4, 8)])
def test_the_size_is_that_of_the_files_but_at_most_64(tmp_path, side, size):
    write(tmp_path, some("a", 20), size=side)
    assert DataModule("image_folder", root=str(tmp_path)).size == size


def test_grey_files_keep_one_channel_and_one_coloured_file_keeps_three(tmp_path):
    write(tmp_path, some("a", 20), mode="L")
    grey = DataModule("image_folder", root=str(tmp_path), channels="auto")
    assert (grey.channels, len(grey.mean)) == (1, 1)
    assert DataModule("image_folder", root=str(tmp_path)).channels == 3
    write(tmp_path, ["a/colour.png"])
    assert DataModule("image_folder", root=str(tmp_path), channels="auto").channels == 3


def words(tmp_path, **options):
    return describe(DataModule("image_folder", root=str(tmp_path), size=8, **options))


def test_the_description_names_classes_counts_and_splits(tmp_path):
    write(tmp_path, some("cat", 20) + some("dog", 20))
    (line,) = words(tmp_path)
    assert line == (
        "40 images 3×8×8 · 2 classes (cat, dog; 20 each) · "
        "train 28, validation 4, calibration 4, test 4"
    )


def test_years_as_classes_are_said_and_can_be_left_out(tmp_path):
    write(tmp_path, some("2024", 20) + some("2025", 20))
    line, hint = words(tmp_path)
    assert "2 classes (2024, 2025; 20 each)" in line
    assert "look like dates: data.labels=none" in hint
    (line,) = words(tmp_path, labels="none")
    assert "no classes" in line


def test_rare_classes_are_named_and_one_folder_is_no_class(tmp_path):
    write(tmp_path, some("a", 40) + some("b", 1) + some("c", 3))
    line, *hints = words(tmp_path)
    assert "3 classes (a, b, c; 1 to 40 images each)" in line
    assert any("2 of 3 classes have fewer than 10 images (b 1, c 3)" in hint for hint in hints)
    write(tmp_path / "one", some("only", 20))
    line, hint = words(tmp_path / "one")
    assert "no classes" in line
    assert "data.labels=FILE.csv" in hint
