"""Splits: disjoint, stable, recorded; pre-training sees what it may; bad options end in words."""

import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from pnp.data import DATASETS, DataModule, FolderImages, ImageSet
from pnp.data.imageset import concatenate, resize
from pnp.data.splits import amount, carve, permutation
from pnp.errors import UserError

CONF = Path(__file__).parents[1] / "conf" / "data"


def small(**options) -> DataModule:
    return DataModule("ambiguous", **{"n_train": 40, "batch_size": 8, **options})


@pytest.fixture
def pictures(tmp_path):
    """24 images in two classes, each of its own grey."""
    for i in range(24):
        path = tmp_path / ("even", "odd")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 6), (i * 10,) * 3).save(path)
    return tmp_path


def of_folder(root, **options) -> DataModule:
    return DataModule(
        "image_folder", root=str(root), **{"size": 6, "batch_size": 4, "test": 4, **options}
    )


def greys(split: ImageSet) -> list[int]:
    return split.batch(torch.arange(len(split)))[:, 0, 0, 0].tolist()


def test_splits_of_one_list_are_disjoint_and_complete(pictures):
    splits = of_folder(pictures, validation=3, calibration=5).splits
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 12,
        "validation": 3,
        "calibration": 5,
        "test": 4,
    }
    assert sorted(g for split in splits.values() for g in greys(split)) == list(range(0, 240, 10))
    for split in splits.values():
        assert [g // 10 % 2 for g in greys(split)] == split.labels.tolist()


def test_splits_depend_on_the_seed_alone(pictures):
    def digests(**options):
        torch.manual_seed(options.pop("global_seed", 0))
        return {k: v["digest"] for k, v in of_folder(pictures, **options).split_record().items()}

    first = digests()
    assert first == digests(global_seed=7, batch_size=2, order_seed=5, pretrain_on=["validation"])
    assert first.keys() == digests(seed=1).keys()
    assert all(first[name] != digest for name, digest in digests(seed=1).items())


def test_the_permutation_never_changes():
    assert permutation(8, 0, "order", 1).tolist() == [4, 5, 1, 3, 6, 2, 7, 0]
    assert sorted(permutation(100, 3).tolist()) == list(range(100))


def test_an_official_test_part_is_halved_and_train_gives_the_validation(pictures):
    (pictures / "train").mkdir()
    for name in ("even", "odd"):
        (pictures / name).rename(pictures / "train" / name)
        (pictures / "test" / name).mkdir(parents=True)
    for path in sorted((pictures / "train").rglob("*.png"))[::3]:
        path.rename(pictures / "test" / path.parent.name / path.name)
    data = of_folder(pictures, test=None, validation=0.25)
    assert {k: len(v) for k, v in data.splits.items()} == {
        "train": 12,
        "validation": 4,
        "calibration": 4,
        "test": 4,
    }
    together = sorted(greys(data.splits["calibration"]) + greys(data.splits["test"]))
    assert together == sorted(greys(concatenate([data.splits["calibration"], data.splits["test"]])))
    assert not set(together) & set(greys(data.splits["train"]) + greys(data.splits["validation"]))
    with pytest.raises(UserError, match=r"Remove data\.test"):
        _ = of_folder(pictures, test=3).splits


def test_ambiguous_splits_are_drawn_separately_and_know_eta():
    data = small(validation=5, calibration=7, test=9)
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 40, "validation": 5, "calibration": 7, "test": 9}
    digests = [split.digest() for split in data.splits.values()]
    assert len(set(digests)) == 4
    assert digests == [
        s["digest"] for s in small(validation=5, calibration=7, test=9).split_record().values()
    ]
    assert data.splits["test"].eta.shape == (9,)
    assert data.split_record()["train"]["role"] == "pre-training, fitting probes"


def test_the_union_keeps_the_pixels_once_and_the_labels_if_all_have_them():
    data = small(pretrain_on=["train", "validation"])
    before = {name: split.digest() for name, split in data.splits.items()}
    whole = data.pretrain
    assert whole.name == "train+validation"
    assert len(whole) == len(whole.labels) == 44
    assert data.splits["train"].images.data_ptr() == whole.images.data_ptr()
    assert {name: split.digest() for name, split in data.splits.items()} == before
    bare = concatenate([data.splits["train"], data.splits["test"].without_labels()])
    assert (bare.labels, bare.classes) == (None, ())


def test_without_labels_everything_else_works(pictures):
    for data in (small(labels="none"), of_folder(pictures, labels="none")):
        assert data.classes == ()
        for split in (*data.splits.values(), data.pretrain):
            assert split.labels is split.eta is split.concept is split.latent is None
        assert next(iter(data.train_dataloader())).labels is None
        assert data.split_record()["train"]["count"] == len(data.splits["train"])


def test_mean_and_std_are_those_of_the_training_pixels():
    data = small()
    pixels = data.splits["train"].images.double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-9)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-9)
    assert (data.channels, data.size) == (3, 32)


def test_constant_images_have_a_standard_deviation_to_divide_by(tmp_path):
    for i in range(8):
        Image.new("RGB", (6, 6)).save(tmp_path / f"{i}.png")
    assert of_folder(tmp_path, validation=1, calibration=1, test=1).std == pytest.approx(
        [1 / 255] * 3
    )


def test_resident_and_streamed_folders_hold_the_same(pictures):
    memory, stream = of_folder(pictures), of_folder(pictures, resident=False, num_workers=0)
    tight = of_folder(pictures, resident_limit_gb=1e-6)
    assert isinstance(stream.pretrain.images, FolderImages)
    assert isinstance(tight.pretrain.images, FolderImages)
    assert isinstance(memory.pretrain.images, torch.Tensor)
    for a, b in zip(memory.train_dataloader(), stream.train_dataloader(), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert stream.mean == pytest.approx(memory.mean)
    assert memory.steps_per_epoch == len(memory.train_dataloader())


def test_file_digests_notice_a_changed_file(pictures):
    before = of_folder(pictures, resident=False).split_record()
    name = of_folder(pictures, resident=False).splits["train"].images.paths()[0]
    name.write_bytes(name.read_bytes() + b" ")
    after = of_folder(pictures, resident=False).split_record()
    assert after["train"]["digest"] != before["train"]["digest"]
    assert after["test"] == before["test"]


@pytest.mark.parametrize("resident", [True, False])
def test_a_corrupt_image_stops_the_run_unless_skipped_counted_and_named(pictures, resident, caplog):
    whole = of_folder(pictures, resident=False).splits["train"].images
    bad = whole.paths()[2]
    bad.write_bytes(bad.read_bytes()[:45])
    with pytest.raises(UserError, match=rf"{bad.name}.*data\.on_corrupt=skip"):
        _ = of_folder(pictures, resident=resident).mean

    with caplog.at_level(logging.WARNING):
        data = of_folder(pictures, resident=resident, on_corrupt="skip", num_workers=0)
        train = data.splits["train"]
    assert len(train) == len(whole) - 1
    assert [g // 10 % 2 for g in greys(train)] == train.labels.tolist()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "skipped 1 of" in message
    assert bad.name in message


def test_nothing_but_corrupt_images_is_an_error(pictures):
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of"):
        _ = of_folder(pictures, on_corrupt="skip").splits


def test_max_images_takes_a_subset_of_train_only(pictures):
    whole, some = of_folder(pictures), of_folder(pictures, max_images=6)
    assert len(some.splits["train"]) == 6
    assert set(greys(some.splits["train"])) < set(greys(whole.splits["train"]))
    assert set(some.splits["train"].labels.tolist()) == {0, 1}
    for name in ("validation", "calibration", "test"):
        assert some.splits[name].digest() == whole.splits[name].digest()
    assert torch.equal(
        small(max_images=9).splits["train"].images, small().splits["train"].images[:9]
    )


def test_resizing_is_antialiased_and_keeps_the_mean():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    assert resize(images, 28) is images
    half = resize(images, 14)
    assert half.shape == (3, 1, 14, 14)
    assert half.double().mean() == pytest.approx(images.double().mean(), abs=2)
    assert half.double().std() < images.double().std() / 1.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "non"}, "data.labels=non is unknown.*Did you mean none"),
        ({"resident": "yes"}, "data.resident=yes"),
        ({"on_corrupt": "ignore"}, "data.on_corrupt"),
        ({"batch_size": 1}, "data.batch_size=1: .*at least 2"),
        ({"size": 0}, "data.size=0"),
        ({"seed": -1}, "data.seed=-1"),
        ({"max_images": 0}, "data.max_images=0"),
        ({"concept_k": -1.0}, "data.concept_k=-1"),
        ({"pretrain_on": []}, "pretrain_on is empty"),
        ({"pretrain_on": ["trian"]}, "Did you mean train"),
        ({"pretrain_on": ["train", "test"]}, "no unseen image"),
        ({"pretrain_on": ["unlabeled"]}, "unlabeled is unknown"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean fashion_mnist"):
        DataModule("fashion_minst")


def test_amounts_and_splits_that_do_not_fit_are_refused_with_numbers():
    for value in (0, -1, 1.0, 1.5, "5", True, None):
        with pytest.raises(UserError, match=r"data\.test="):
            amount("data.test", value, 10)
    with pytest.raises(UserError, match="asks for 10 of 10"):
        amount("data.test", 10, 10)
    with pytest.raises(UserError, match="a=3, b=2 leave nothing of 5 images for c"):
        carve(5, {"a": 3, "b": 2}, "c", 0)


def test_every_data_config_builds_its_data_module():
    from hydra.utils import instantiate

    assert {path.stem for path in CONF.glob("*.yaml")} == set(DATASETS)
    for path in CONF.glob("*.yaml"):
        node = OmegaConf.load(path)
        config = OmegaConf.create({"seed": 3, "data": node.get("data", node)})
        data = instantiate(config.data)
        assert (data.dataset, data.order_seed, data.seed) == (path.stem, 3, 0)
