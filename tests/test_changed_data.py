"""Splits follow content and names of the images used; a run meets no other images unnoticed."""

import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import judged

from pnp import files
from pnp.data import DataModule
from pnp.data.files import contents
from pnp.data.folder import image_names
from pnp.data.splits import carve
from pnp.errors import UserError
from pnp.runs import directory, reopen


@pytest.fixture
def folder(tmp_path):
    """24 different pictures in two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        file = tmp_path / "pictures" / "ab"[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 8, 3), np.uint8)).save(file)
    return tmp_path / "pictures"


def of(folder, **options):
    return DataModule("image_folder", root=str(folder), **{"size": 8, "batch_size": 4, **options})


def pixels(data):
    return {
        name: {image.numpy().tobytes() for image in split.batch(torch.arange(len(split)))}
        for name, split in data.splits.items()
    }


def test_every_way_of_reading_deals_the_same_splits_and_the_same_record(folder, tmp_path):
    (folder / "a" / "07.png").write_bytes(b"no image")
    skip = {"on_corrupt": "skip"}
    ways = (
        {},
        {"resident": False},
        {"cache": True, "cache_dir": str(tmp_path / "c")},
        {"cache": True, "cache_dir": str(tmp_path / "c"), "resident": False},
    )
    whole = [of(folder, **skip, **way) for way in ways]
    assert all(pixels(data) == pixels(whole[0]) for data in whole)
    records = [{k: v["content"] for k, v in d.split_record().items()} for d in whole]
    assert all(record == records[0] for record in records)
    (folder / "a" / "07.png").unlink()
    assert pixels(of(folder)) == pixels(whole[0])


def test_repeats_stay_in_one_split_and_without_any_the_deal_is_as_before(folder):
    before = pixels(of(folder, test=4, calibration=4, validation=4))
    for i in range(0, 24, 4):  # under another name and class, and as links
        shutil.copy(folder / "a" / f"{i:02}.png", folder / "b" / f"copy{i}.png")
        (folder / "b" / f"link{i}.png").symlink_to(folder / "a" / f"{i:02}.png")
    after = pixels(of(folder, test=6, calibration=6, validation=6))
    names = list(after)
    assert sum(map(len, after.values())) == 24 == sum(map(len, before.values()))
    assert not any(after[a] & after[b] for a in names for b in names if a < b)
    plain = carve(24, {"test": 6}, "train", 0)
    same = carve(24, {"test": 6}, "train", 0, equal=torch.arange(24).flip(0))
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def test_judged_images_that_were_learnt_from_are_said(folder, caplog):
    for part in ("train", "test"):
        shutil.copytree(folder, folder.parent / "parts" / part)
    with caplog.at_level(logging.WARNING):
        of(folder.parent / "parts", calibration=8).setup("fit")
    assert "of test are byte for byte among those of train" in caplog.text


def test_a_link_shows_no_picture_twice(folder, tmp_path):
    names = image_names(folder)
    shutil.copytree(folder / "b", tmp_path / "elsewhere")
    (folder / "a" / "again").symlink_to(".")
    (folder / "b" / "up").symlink_to("../..")
    (folder / "latest").symlink_to("b")
    assert image_names(folder) == names
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    (folder / "d").symlink_to(tmp_path / "elsewhere")
    assert {name.split("/")[0] for name in image_names(folder)} == {"a", "b", "c"}


def test_a_file_changed_in_place_has_another_hash(tmp_path):
    for size in (10, 10**6):
        file = tmp_path / str(size)
        content = bytearray(np.random.default_rng(0).bytes(size))
        file.write_bytes(content)
        before = contents([file])
        os.utime(file, (1, 1))
        assert torch.equal(contents([file]), before)
        content[size // 2] ^= 1
        file.write_bytes(content)
        assert not torch.equal(contents([file]), before)


def test_pictures_are_upright_and_transparency_is_white(tmp_path):
    tall = np.zeros((40, 40, 3), np.uint8)
    tall[:20] = 255
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(tall).save(tmp_path / "0.jpg", exif=tag, quality=95)
    for hidden, name in ((0, "1"), (200, "2")):
        clear = np.full((40, 40, 4), hidden, np.uint8)
        clear[:, :20, 3], clear[:, 20:] = 0, 255
        Image.fromarray(clear).save(tmp_path / f"{name}.png")
    from pnp.decider.images import Reader

    turned = Reader(3, 8).decode(tmp_path / "0.jpg")
    assert turned[:, :, 5:].min() > 250
    assert turned[:, :, :3].max() < 5
    assert all((Reader(3, 8).decode(tmp_path / f"{n}.png") == 255).all() for n in "12")


@pytest.fixture
def trained(compose, folder, tmp_path):
    """A run on the folder, not evaluated."""
    from pnp.cli.train import train

    options = ("data=image_folder", f"data.root={folder}", "data.size=8", "data.batch_size=8")
    config = compose(
        *options, "model.width=4", "model.depth=2", "model.projector.hidden=8",
        "model.projector.out=8", "logger=csv", "trainer.max_steps=2", "evaluation.test=false",
        "evaluation.band=null", f"run_dir={tmp_path / 'run'}", "trainer.accelerator=cpu",
        "trainer.precision=32-true", tiny=False,
    )  # fmt: skip
    train(config)
    return tmp_path / "run", config


def test_added_or_changed_pictures_are_refused_wherever_a_run_is_opened(
    trained, folder, tmp_path, compose
):
    from omegaconf import open_dict

    from pnp.cli.train import train

    run, config = trained
    last, record = run / "checkpoints" / "last.ckpt", (run / "splits.json").read_bytes()
    reopen.open_run(last)
    first = (folder / "a" / "00.png").read_bytes()
    for change in ("added", "changed"):
        if change == "added":
            shutil.copy(folder / "a" / "00.png", folder / "a" / "new.png")
        else:
            (folder / "a" / "new.png").unlink()
            Image.new("RGB", (9, 8), (9, 9, 9)).save(folder / "a" / "00.png")
        for key in ("run", "ckpt"):
            place = {"run": run, "ckpt": shutil.copy(last, tmp_path / "moved.ckpt")}[key]
            with pytest.raises(UserError, match=r"are not those that .* was trained on: "):
                judged(f"{key}={place}", f"run_dir={tmp_path / 'out'}")
        with open_dict(config):
            config.resume, config.evaluation.k = str(run), 3
        with pytest.raises(UserError, match="are not those that"):
            train(config)
        assert (run / "splits.json").read_bytes() == record
    (folder / "a" / "00.png").write_bytes(first)
    reopen.open_run(last)
    checkpoint = directory.load_checkpoint(last)
    assert {"train", "validation", "calibration", "test"} == set(checkpoint["splits"])


def test_a_finished_run_is_not_taken_as_done_when_its_images_have_changed(folder, tmp_path):
    (tmp_path / "run").mkdir()
    files.write_json(tmp_path / "run" / "splits.json", of(folder).split_record())
    config = {"data": {"_target_": "pnp.data.DataModule", "dataset": "image_folder",
                       "root": str(folder), "size": 8, "batch_size": 4}}  # fmt: skip
    directory.check_images(tmp_path / "run", config)
    (folder / "a" / "new.png").write_bytes((folder / "b" / "01.png").read_bytes())
    with pytest.raises(UserError, match="not those that"):
        directory.check_images(tmp_path / "run", config)
