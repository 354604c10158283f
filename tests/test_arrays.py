"""Arrays of every usual shape and kind give the same images; a package of one's own takes part."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import pnp
from pnp import plugins
from pnp.backbones import backbone
from pnp.cli.train import train
from pnp.data import DataModule, arrays
from pnp.data.loader import Batch, as_batch
from pnp.errors import UserError
from pnp.runs.config import build

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, 9, 9)).astype(np.uint8)
LAST = PIXELS.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        LAST,
        torch.from_numpy(PIXELS),
        PIXELS.astype(np.float32) / 255,
        PIXELS.astype(np.float64),
        PIXELS.astype(np.int64),
        PIXELS.astype(np.uint16) * 257,
        [Image.fromarray(image) for image in LAST],
        TensorDataset(torch.from_numpy(PIXELS), torch.arange(12)),
        list(PIXELS),
    ],
)
def test_every_form_of_an_array_gives_the_same_pixels(images):
    assert torch.equal(arrays.parts(images)["train"].images, torch.from_numpy(PIXELS))


@pytest.mark.parametrize(
    "shape", [(5, 8, 8), (5, 8, 8, 1), (5, 1, 8, 8), (5, 8, 11), (5, 1, 11, 8)]
)
def test_grey_images_have_one_channel_and_lose_the_ends_of_their_longer_sides(shape):
    assert arrays.parts(np.zeros(shape, np.uint8))["train"].images.shape == (5, 1, 8, 8)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_deep_images_are_scaled_by_the_bits_that_all_parts_need_and_it_is_said(bits, caplog):
    most = 2**bits - 1
    deep = (PIXELS.astype(np.float64) * most / 255).round().astype(np.uint16)
    dark = deep // 8  # alone it would need fewer bits
    data = DataModule.from_arrays(deep, test=dark)
    assert np.abs(data.arrays["train"].images.numpy().astype(int) - PIXELS).max() <= 1
    assert int(data.arrays["test"].images.max()) == 32
    assert [r.message for r in caplog.records] == [
        f"images are taken as {bits} bits deep: no value is above {most:,}. data.bits=16 takes "
        "them as 16 bits."
    ]
    whole = DataModule.from_arrays(deep, bits=16).arrays["train"].images
    assert int(whole.max()) == round(most / 257)
    with pytest.raises(UserError, match="at most 8 bits"):
        DataModule.from_arrays(deep, bits=8)


def test_deep_pil_images_keep_their_order_of_brightness():
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    found = arrays.parts([Image.fromarray(ramp)] * 3)["train"].images[0, 0]
    assert torch.equal(found, torch.from_numpy((ramp / 4095 * 255).round().astype(np.uint8)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 8), np.uint8), r"shape \(5, 8\); expected \(N, H, W\)"),
        (np.full((5, 8, 8), -1.0), "range from -1 to -1"),
        (np.full((5, 8, 8), 300.0), "range from 300 to 300"),
        (np.zeros((5, 2, 7, 9), np.uint8), "which axis holds the channels"),
    ],
)
def test_what_is_no_images_is_named(images, message):
    with pytest.raises(UserError, match=message):
        arrays.parts(images)


def test_labels_may_be_words_columns_or_numbers_with_names_and_are_checked():
    def of(labels, **options):
        return arrays.parts(PIXELS, labels, **options)["train"]

    words = of(["b", "a"] * 6)
    assert words.classes == ("a", "b")
    assert words.labels.tolist()[:2] == [1, 0]
    assert of(np.arange(12)[:, None] % 3).classes == ("0", "1", "2")
    assert of([2, 10] * 6).classes == ("2", "10")
    assert of([0, 1] * 6, classes=["cat", "dog", "owl"]).classes == ("cat", "dog", "owl")
    for labels, message in (
        ([0] * 11, "12 images but 11 labels"),
        (np.full(12, 0.5), "one class per image"),
    ):
        with pytest.raises(UserError, match=message):
            of(labels)
    with pytest.raises(UserError, match="expected the numbers 0 to 0"):
        of([0, 1] * 6, classes=["cat"])


def test_files_of_arrays_bring_their_parts_and_the_names_of_others(tmp_path):
    np.save(tmp_path / "x.npy", LAST)
    np.save(tmp_path / "y.npy", np.arange(12) % 2)
    data = DataModule("array", images=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"))
    assert (data.channels, data.size, data.classes) == (3, 9, ("0", "1"))
    parts = {"x_train": LAST, "y_train": np.arange(12), "x_test": LAST, "y_test": np.arange(12)}
    np.savez(tmp_path / "keras.npz", **parts)
    assert set(arrays.parts(tmp_path / "keras.npz")) == {"train", "test"}
    for validation in ("val", "validation"):
        names = ("train", validation, "test")
        medical = {f"{name}_images": LAST for name in names}
        medical |= {f"{name}_labels": np.arange(12)[:, None] for name in names}
        np.savez(tmp_path / "medical.npz", **medical)
        splits = DataModule("array", images=str(tmp_path / "medical.npz")).splits
        assert [len(splits[name]) for name in ("train", "validation", "calibration", "test")] == [
            12, 12, 6, 6
        ]  # fmt: skip
    np.savez(tmp_path / "odd.npz", weights=LAST)
    for name, message in (("odd.npz", "holds weights; expected"), ("no.npy", "cannot be read")):
        with pytest.raises(UserError, match=message):
            arrays.parts(tmp_path / name)


def test_any_number_of_channels_trains_and_a_run_of_arrays_opens_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 5, 16, 16)).astype(np.uint8)
    labels = np.array(["left", "right"] * 30)
    data = DataModule.from_arrays(images, labels, validation=10, batch_size=16)
    tiny = ("model.width=4", "model.depth=2", "evaluation.k=5", "evaluation.band=null")
    run = pnp.train(data, *tiny, "trainer.max_steps=2", "evaluation.fractions=[]", run_dir="A b's")
    assert run.results == json.loads((tmp_path / "A b's" / "metrics.json").read_text())
    again = pnp.open_run("A b's")
    assert again.data.classes == ("left", "right")
    assert len(again.splits["validation"]) == 10
    assert again.network(again.splits["test"].images).shape == (6, again.network.dim)
    with pytest.raises(UserError, match="is not a run directory"):
        pnp.open_run(tmp_path)
    with pytest.raises(UserError, match=r"is no folder, no \.npy"):
        pnp.train("cifar11")


def test_evaluate_is_the_tables_protocol_on_arrays():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = (rng.random((200, 8, 8)) * 0.5 + 0.4 * y[:, None, None]).astype(np.float32)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    results = pnp.evaluate(net, (x[:120], y[:120]), (x[120:], y[120:]))
    assert results["test/linear/network"] == 1.0
    assert results["test/linear/network/ci_low"] > 0.9
    assert "reference/pixels/knn" in results
    with pytest.raises(UserError, match="has no labels"):
        pnp.evaluate(net, (x, None))


def test_a_loader_may_give_images_pairs_or_batches_in_uint8_or_floats():
    images, labels = torch.from_numpy(PIXELS), torch.arange(12)
    for batch in (images, (images, labels), [images / 255, labels], Batch(images, labels)):
        assert torch.equal(as_batch(batch).images, images)
    loaded = next(iter(DataLoader(TensorDataset(images, labels), batch_size=4)))
    assert as_batch(loaded).labels.tolist() == [0, 1, 2, 3]
    for odd, message in (("x", "gives str"), (images / 100, "expected \\[0, 1\\]")):
        with pytest.raises(UserError, match=message):
            as_batch(odd)


OWN = """
from torch import nn

from pnp.objectives import PNP


class Tiny(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, 4, 3, 4), nn.Flatten())

    def forward(self, images):
        return self.layers(images)


class Own(PNP):
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's in the working directory, not allowed yet."""
    (tmp_path / "own_package.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_allowed", set())
    monkeypatch.delitem(sys.modules, "own_package", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_package_of_ones_own_needs_leave_and_then_trains_exports_and_loads(
    package, compose, tmp_path, monkeypatch
):
    name = "model.name='own_package:Tiny'"
    with pytest.raises(UserError, match=r"plugins=\[own_package\]"):
        train(compose(name))
    with pytest.raises(UserError, match="not allowed"):
        build({"_target_": "own_package.Own"}, "objective")
    train(compose(name, "plugins=[own_package]", "trainer.max_epochs=1"))
    assert backbone("own_package:Tiny", in_channels=3, image_size=16).dim == 64
    with pytest.raises(UserError, match="does not exist"):
        backbone("own_package:Huge")
    run = pnp.open_run(tmp_path / "run")
    net, images = run.network, run.splits["test"].images
    size = images.shape[-1]
    pnp.save(
        net.backbone, "NET", backbone="own_package:Tiny", channels=3, size=size,
        mean=net.mean.flatten().tolist(), std=net.std.flatten().tolist(),
    )  # fmt: skip
    torch.testing.assert_close(pnp.load("NET")(images), net(images))
    # A checkpoint and an export name the package, and that alone allows nothing.
    monkeypatch.setattr(plugins, "_allowed", set())
    with pytest.raises(UserError, match="not allowed"):
        pnp.load("NET")
    with pytest.raises(UserError, match="not allowed"):
        _ = pnp.open_run(tmp_path / "run").networks
    monkeypatch.setenv("PNP_PLUGINS", "other, own_package")
    assert pnp.load("NET").dim == net.dim
