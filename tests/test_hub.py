"""`data=hf`: tiny data sets made here, read offline from every local form."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from pnp.cli.train import train
from pnp.data import DataModule, hub
from pnp.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3)).astype(np.uint8)
NAMES = ["cat", "dog"]


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


def rows(first=0, last=40):
    features = {"picture": datasets.Image(), "species": datasets.ClassLabel(names=NAMES)}
    images = [Image.fromarray(image) for image in PIXELS[first:last]]
    content = {"picture": images, "species": [i % 2 for i in range(first, last)]}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


@pytest.mark.parametrize("form", ["save_to_disk", "parquet", "folder of parquet", "class folders"])
def test_every_local_form_gives_the_same_images_and_classes(tmp_path, form):
    place = tmp_path / "data"
    if form == "save_to_disk":
        parts = {"train": rows(0, 30), "test": rows(30, 40)}
        datasets.DatasetDict(parts).save_to_disk(place)
    elif form == "parquet":
        place = tmp_path / "all.parquet"
        rows().to_parquet(place)
    elif form == "folder of parquet":
        place.mkdir()
        rows(0, 30).to_parquet(place / "train.parquet")
        rows(30, 40).to_parquet(place / "test.parquet")
    else:
        for i, image in enumerate(PIXELS):
            file = place / "train" / NAMES[i % 2] / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    found = hub.parts(str(place))
    order = [*range(0, 40, 2), *range(1, 40, 2)] if form == "class folders" else range(40)
    images = torch.cat([part.images for part in found.values()])
    labels = torch.cat([part.labels for part in found.values()])
    assert torch.equal(images, torch.from_numpy(PIXELS[list(order)]).movedim(3, 1))
    assert labels.tolist() == [i % 2 for i in order]
    assert found["train"].classes == ("cat", "dog")


def test_bytes_and_words_in_a_plain_parquet_file_are_images_and_classes(tmp_path):
    import pandas as pd

    def png(image):
        stream = io.BytesIO()
        Image.fromarray(image[..., 0]).save(stream, "PNG")
        return stream.getvalue()

    frame = pd.DataFrame({"raw": [png(image) for image in PIXELS], "label": NAMES * 20})
    frame.to_parquet(tmp_path / "plain.parquet")
    found = hub.parts(str(tmp_path / "plain.parquet"), image="raw", size=8)["train"]
    assert found.images.shape == (40, 1, 8, 8)
    assert found.classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"no column of images among raw, label: give data\.image"):
        hub.parts(str(tmp_path / "plain.parquet"))
    with pytest.raises(UserError, match=r"data\.labels=lable: .* Did you mean label\?"):
        hub.parts(str(tmp_path / "plain.parquet"), image="raw", label="lable")


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_validation_part_is_one_under_every_usual_name(tmp_path, name):
    parts = {"train": rows(0, 30), name: rows(30, 36), "test": rows(36, 40)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "data")
    found = hub.parts(str(tmp_path / "data"))
    assert {k: len(v) for k, v in found.items()} == {"train": 30, "validation": 6, "test": 4}


def test_labels_that_are_not_published_leave_their_part_out_and_none_ignores_all(tmp_path):
    hidden = rows(30, 40).remove_columns("species").add_column("species", [-1] * 10)
    parts = {"train": rows(0, 30), "test": hidden.cast(rows().features)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "data")
    data = DataModule("hf", name=str(tmp_path / "data"))
    assert sum(map(len, data.splits.values())) == 30
    data = DataModule("hf", name=str(tmp_path / "data"), labels="none")
    assert sum(map(len, data.splits.values())) == 40
    assert data.classes == ()


def test_a_run_trains_on_it_and_what_is_not_there_is_said(compose, tmp_path):
    rows().to_parquet(tmp_path / "all.parquet")
    tiny = ("logger=csv", "model.width=4", "model.depth=2", "trainer.max_steps=2")
    brief = ("evaluation.fractions=[]", "evaluation.references=[]", "evaluation.band=null")
    words = ("data=hf", f"run_dir={tmp_path / 'run'}", *tiny, *brief)
    cfg = compose(*words, f"data.name={tmp_path / 'all.parquet'}", tiny=False)
    assert "test/knn/student" in train(cfg)
    with pytest.raises(UserError, match=r"data\.name=no/where cannot be loaded"):
        train(compose(*words, "data.name=no/where", tiny=False))
