"""Every loader on tiny files in the true layout, and what it says when they are wrong."""

import gzip
import hashlib
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import idx, write_fashion_mnist

from pnp.data import datasets, files, folder
from pnp.errors import UserError


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Four idx files as published, and no others on this machine or the net."""
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "nowhere")
    write_fashion_mnist(tmp_path, train=12, test=6)
    return tmp_path


def refuse(*_, **__):
    raise OSError("no internet")


def test_fashion_mnist_reads_the_published_files(fashion):
    parts = datasets.fashion_mnist(fashion)
    expected = np.random.default_rng(0).integers(0, 256, (12, 28, 28)).astype(np.uint8)
    assert np.array_equal(parts["train"].images[:, 0].numpy(), expected)
    assert parts["test"].labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert parts["train"].classes[9] == "Ankle boot"


def test_fashion_mnist_reads_torchvisions_layout_and_plain_files(fashion, tmp_path):
    raw = tmp_path / "other" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in fashion.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    there, here = datasets.fashion_mnist(tmp_path / "other"), datasets.fashion_mnist(fashion)
    assert there["train"].digest() == here["train"].digest()


def test_fashion_mnist_falls_back_to_debians_folder(fashion, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN", fashion)
    assert len(datasets.fashion_mnist(tmp_path / "empty")["test"]) == 6


def test_fashion_mnist_that_is_nowhere_names_the_three_ways(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", refuse)
    with pytest.raises(
        UserError, match=r"data\.root=FOLDER; or `apt install.*or run with internet"
    ):
        datasets.fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(idx(np.zeros((6, 28, 28)))[:-1]), "cut off or padded"),
        (gzip.compress(idx(np.zeros(6))), "starts with 00000801, expected 00000803"),
        (gzip.compress(idx(np.zeros((6, 28, 28))))[:-9], "damaged"),
        (b"not gzip", "damaged"),
        (gzip.compress(idx(np.zeros((5, 28, 28)))), "5 images but 6 labels"),
    ],
    # Names from the bytes would hold gzip's time stamp: two test processes then differ.
    ids=["short", "header", "truncated", "plain", "count"],
)
def test_a_damaged_idx_file_is_named(fashion, content, message):
    (fashion / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        datasets.fashion_mnist(fashion)


def test_missing_labels_and_labels_out_of_range_are_named(fashion):
    labels = fashion / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.full(12, 10))))
    with pytest.raises(UserError, match="label 10"):
        datasets.fashion_mnist(fashion)
    labels.unlink()
    with pytest.raises(UserError, match="train-labels"):
        datasets.fashion_mnist(fashion)


def write_pickle(path, content) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def tiny_cifar(root, kind, monkeypatch) -> np.ndarray:
    """CIFAR's pickles with 2 images each; returns the training pixels (n, 3, 32, 32)."""
    base, fine = root / kind.base_folder, kind.__name__ == "CIFAR100"
    base.mkdir()
    rng, pixels, lists = np.random.default_rng(0), [], {}
    for which in ("train_list", "test_list"):
        lists[which] = []
        for name, _ in getattr(kind, which):
            data = rng.integers(0, 256, (2, 3072)).astype(np.uint8)
            labels = {"fine_labels" if fine else "labels": [3, 7]}
            lists[which].append([name, write_pickle(base / name, {"data": data, **labels})])
            pixels += [data.reshape(2, 3, 32, 32)] if which == "train_list" else []
    names = {kind.meta["key"]: [f"class {i}" for i in range(100 if fine else 10)]}
    meta = {**kind.meta, "md5": write_pickle(base / kind.meta["filename"], names)}
    for name, value in (*lists.items(), ("meta", meta)):
        monkeypatch.setattr(kind, name, value)
    return np.concatenate(pixels)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_reads_torchvisions_layout(tmp_path, monkeypatch, name):
    import torchvision

    pixels = tiny_cifar(tmp_path, getattr(torchvision.datasets, name), monkeypatch)
    parts = getattr(datasets, name.lower())(tmp_path)
    assert np.array_equal(parts["train"].images.numpy(), pixels)
    assert parts["test"].labels.tolist() == [3, 7]
    assert parts["train"].classes[7] == "class 7"


def test_stl10_reads_torchvisions_layout_with_its_unlabeled_images(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    base = tmp_path / STL10.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)
    for which in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(STL10, which):
            n = 3 if "unlabeled" in name else 2
            content = np.array([1, 10]) if "_y" in name else rng.integers(0, 256, n * 3 * 96 * 96)
            (base / name).write_bytes(content.astype(np.uint8).tobytes())
            sums.append([name, hashlib.md5((base / name).read_bytes()).hexdigest()])
        monkeypatch.setattr(STL10, which, sums)
    (base / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)))

    parts = datasets.stl10(tmp_path, unlabeled=True)
    sizes = {name: len(part) for name, part in parts.items()}
    assert sizes == {"train": 2, "test": 2, "unlabeled": 3}
    assert parts["train"].labels.tolist() == [0, 9]
    assert parts["unlabeled"].labels is None
    # The files hold columns first.
    first = np.fromfile(base / "train_X.bin", np.uint8)[: 3 * 96 * 96].reshape(3, 96, 96)
    assert np.array_equal(parts["train"].images[0].numpy(), first.transpose(0, 2, 1))
    assert set(datasets.stl10(tmp_path)) == {"train", "test"}


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "STL10"])
def test_a_failing_download_names_the_folder_and_the_remedy(tmp_path, monkeypatch, name):
    import torchvision

    monkeypatch.setattr(getattr(torchvision.datasets, name), "download", refuse)
    with pytest.raises(UserError, match=rf"{name}.*{tmp_path}.*no internet.*data\.root=FOLDER"):
        getattr(datasets, name.lower())(tmp_path)


def paint(path, colour=(10, 200, 30), size=(8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_class_folders_below_train_and_test(tmp_path):
    for part in ("train", "val", "test"):
        for name in ("b", "a"):
            paint(tmp_path / part / name / "x.png")
    parts = folder.parts(tmp_path, 8)
    assert list(parts) == ["train", "validation", "test"]
    assert parts["test"].classes == ("a", "b")
    assert list(parts["test"].images.names) == ["test/a/x.png", "test/b/x.png"]
    assert parts["test"].labels.tolist() == [0, 1]


def test_class_folders_at_the_root_and_none_when_labels_are_off(tmp_path):
    for name in ("b", "a"):
        paint(tmp_path / name / "deep" / "x.png")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    paint(tmp_path / ".hidden" / "x.png")
    (part,) = folder.parts(tmp_path, 8).values()
    assert part.classes == ("a", "b")
    assert part.labels.tolist() == [0, 1]
    (bare,) = folder.parts(tmp_path, 8, labelled=False).values()
    assert (bare.labels, bare.classes, len(bare)) == (None, (), 2)


@pytest.mark.parametrize(
    "names", [["x.png", "y.png"], ["one/x.png", "one/y.png"], ["a/x.png", "y.png"]]
)
def test_images_anywhere_have_no_labels(tmp_path, names):
    for name in names:
        paint(tmp_path / name)
    (part,) = folder.parts(tmp_path, 8).values()
    assert (part.labels, part.classes, len(part)) == (None, (), 2)


def test_missing_and_empty_folders_name_the_layouts(tmp_path):
    with pytest.raises(UserError, match=r"data\.root is not set.*ROOT/train/CLASS"):
        folder.parts(None, 8)
    with pytest.raises(UserError, match=r"nothere is not a folder.*ROOT/train/CLASS"):
        folder.parts(tmp_path / "nothere", 8)
    with pytest.raises(UserError, match=r"No images in .*ROOT/train/CLASS"):
        folder.parts(tmp_path, 8)


def test_parts_that_disagree_about_the_classes_are_refused(tmp_path):
    for name in ("train/a/x.png", "train/b/x.png", "test/c/x.png"):
        paint(tmp_path / name)
    with pytest.raises(UserError, match="has c"):
        folder.parts(tmp_path, 8)
    (tmp_path / "test/c/x.png").rename(tmp_path / "test/x.png")
    with pytest.raises(UserError, match="no class folders"):
        folder.parts(tmp_path, 8)


def test_a_wide_image_is_resized_by_its_shorter_side_and_cropped_in_the_centre(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (10, 200, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.new("L", (40, 20), 7).save(tmp_path / "grey.png")
    images = folder.parts(tmp_path, 5)["train"].images
    grey, wide = images.batch(torch.tensor([0, 1]))
    assert grey.unique().tolist() == [7]
    assert wide[:, 2, 2].tolist() == [10, 200, 30]
    # Resize, then crop, as torchvision's transforms do.
    with Image.open(tmp_path / "wide.png") as image:
        whole = np.asarray(image.resize((15, 5), Image.Resampling.BICUBIC)).astype(int)
    expected = torch.from_numpy(whole[:, 5:10]).permute(2, 0, 1)
    assert (wide.long() - expected).abs().max() <= 1


def test_a_large_jpeg_is_close_to_its_full_resize(tmp_path):
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), (600, 600), mode="bicubic")
    pixels = (smooth[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    got = folder.parts(tmp_path, 32)["train"].images.batch(torch.tensor([0]))[0]
    with Image.open(tmp_path / "large.jpg") as image:
        full = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    error = (got.float() - torch.from_numpy(full.copy()).permute(2, 0, 1).float()).abs()
    assert error.mean() < 1
    assert error.max() < 6


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png.*8 bits"):
        folder.parts(tmp_path, 8)["train"].images.batch(torch.tensor([0]))


@pytest.mark.parametrize(("side", "threads"), [(8, 1), (64, 2)])
def test_several_threads_decode_files_that_are_worth_it(tmp_path, monkeypatch, side, threads):
    draws = np.random.default_rng(0)
    for i in range(8):
        noise = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    seen, together = set(), threading.Barrier(threads)

    def decode(path):
        seen.add(threading.get_ident())
        together.wait(timeout=20)  # as many threads as expected are at work at once
        return np.zeros((3, 4, 4), np.uint8)

    monkeypatch.setattr(files, "cores", lambda: 2)
    files.decode_each(sorted(tmp_path.glob("*.png")), decode)
    assert len(seen) == threads
