"""A folder in one memory-mapped array: the same images, made once, whole or not at all."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pnp.data import DataModule, cache, files, folder
from pnp.errors import UserError


def paint(root, count, suffix="png"):
    draws = np.random.default_rng(0)
    for i in range(count):
        path = root / ("train" if i % 4 else "test") / f"c{i % 3}" / f"{i:03}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 8)


@pytest.fixture
def pictures(tmp_path, small_chunks):
    paint(tmp_path / "pics", 40)
    return tmp_path / "pics"


def data(root, **options):
    options = {"root": str(root), "size": 8, "batch_size": 4, "cache": True} | options
    return DataModule("image_folder", **options)


@pytest.mark.parametrize("resident", [True, False])
def test_every_split_and_batch_is_that_of_the_files(pictures, resident):
    plain = data(pictures, cache=False, resident=resident)
    fast = data(pictures, resident=resident)
    assert list(plain.splits) == list(fast.splits)
    for name, expected in plain.splits.items():
        got = fast.splits[name]
        everything = torch.arange(len(expected))
        assert torch.equal(got.batch(everything), expected.batch(everything))
        assert torch.equal(got.labels, expected.labels)
    for one, two in zip(plain.train_dataloader(), fast.train_dataloader(), strict=True):
        assert torch.equal(one.images, two.images)


def test_the_array_is_made_once_and_a_changed_folder_gets_another(pictures, monkeypatch):
    made = []
    make = cache._make
    monkeypatch.setattr(cache, "_make", lambda *a: made.append(1) or make(*a))
    for _ in range(2):
        folder.parts(pictures, 8, cache=pictures / ".pnp-cache")
    assert len(made) == 1
    Image.new("RGB", (9, 9)).save(pictures / "train" / "c0" / "new.png")
    folder.parts(pictures, 8, cache=pictures / ".pnp-cache")
    folder.parts(pictures, 6, cache=pictures / ".pnp-cache")
    assert len(made) == 3


def test_a_stopped_conversion_goes_on_where_it_was(pictures, monkeypatch):
    decoded = []
    decode = files.FolderImages.decode

    def stopping(self, path):
        decoded.append(path)
        if len(decoded) == 20:
            raise KeyboardInterrupt
        return decode(self, path)

    monkeypatch.setattr(files.FolderImages, "decode", stopping)
    monkeypatch.setattr(files, "cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        folder.parts(pictures, 8, cache=pictures / "c")
    assert not list((pictures / "c").glob("*.u8"))
    with next((pictures / "c").glob("*.journal")).open("a") as log:
        log.write('{"crc": 12')  # a line that was cut off
    got = folder.parts(pictures, 8, cache=pictures / "c")
    assert len(decoded) == 20 + 40 - 16  # two chunks of 8 were done
    for name, expected in folder.parts(pictures, 8).items():
        everything = torch.arange(len(expected))
        assert torch.equal(got[name].batch(everything), expected.batch(everything))


def test_conversion_asks_for_every_path_once(pictures, monkeypatch):
    asked, paths = [], files.FolderImages.paths

    def counting(self, *cut):
        found = paths(self, *cut)
        asked.extend(found)
        return found

    monkeypatch.setattr(files.FolderImages, "paths", counting)
    folder.parts(pictures, 8, cache=pictures / "c")
    assert len(asked) == len(set(asked)) == 40


def test_a_name_that_is_no_text_is_converted_like_any_other(pictures):
    odd = os.fsdecode(os.fsencode(pictures) + b"/train/c0/\xff.png")
    Image.new("RGB", (9, 9), (1, 2, 3)).save(odd)
    train = folder.parts(pictures, 8, cache=pictures / "c")["train"]
    (number,) = (i for i, name in enumerate(train.images.names) if "\udcff" in name)
    (pixels,) = train.batch(torch.tensor([number]))
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]
    assert len(folder.parts(pictures, 8)["train"].digest()) == 16


@pytest.mark.parametrize(
    ("options", "count", "expected"),
    [
        ({}, 16, 0),  # an array on a CPU: reading it is no work for a worker
        ({"cache": False}, 2, 0),  # no core to spare
        ({"cache": False}, 3, 2),
        ({"num_workers": 1}, 2, 1),
    ],
)
def test_workers_decode_only_where_training_can_spare_the_cores(
    pictures, monkeypatch, options, count, expected
):
    monkeypatch.setattr("pnp.data.datamodule.cores", lambda: count)
    loader = data(pictures, resident=False, **options).train_dataloader()
    assert loader._stream.num_workers == expected


def test_workers_are_as_many_as_shared_memory_holds_batches_for(pictures, monkeypatch):
    monkeypatch.setattr("pnp.data.datamodule.cores", lambda: 9)
    monkeypatch.setattr("pnp.data.datamodule.shared_memory", lambda: 5.5 * 4 * 3 * 8 * 8)

    def workers(**options):
        module = data(pictures, batch_size=4, resident=False, cache=False, **options)
        return module.train_dataloader()._stream.num_workers

    assert workers() == workers(num_workers=2) == 2  # two batches each and one in use
    with pytest.raises(UserError, match=r"/dev/shm has 0.0 MiB free.*data.num_workers=0"):
        workers(num_workers=3)
    monkeypatch.setattr("pnp.data.datamodule.shared_memory", lambda: 0)
    assert workers() == workers(num_workers=0) == 0


def test_a_damaged_array_is_refused_and_named(pictures):
    folder.parts(pictures, 8, cache=pictures / "c")
    (array,) = (pictures / "c").glob("*.u8")
    content = bytearray(array.read_bytes())
    content[100] ^= 1
    array.write_bytes(content)
    cache._opened.cache_clear()
    with pytest.raises(UserError, match=rf"{array.name} is damaged.*Delete {array.stem}"):
        folder.parts(pictures, 8, cache=pictures / "c")


def test_unreadable_files_stop_or_are_left_out_with_their_labels(pictures):
    bad = pictures / "train" / "c1" / "001.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(
        UserError, match=r"1 of 40 images cannot be read.*001\.png.*on_corrupt=skip"
    ):
        folder.parts(pictures, 8, cache=pictures / "c")
    parts = folder.parts(pictures, 8, cache=pictures / "c", skip_corrupt=True)
    plain = folder.parts(pictures, 8)["train"]
    keep = torch.tensor([i for i, n in enumerate(plain.images.names) if "001" not in n])
    assert torch.equal(parts["train"].labels, plain.labels[keep])
    everything = torch.arange(len(keep))
    assert torch.equal(parts["train"].batch(everything), plain.subset(keep).batch(everything))


def test_processes_that_convert_at_once_share_one_array(pictures):
    code = (
        "from pnp.data import cache, folder; cache.CHUNK = 8; import sys; "
        "p = folder.parts(sys.argv[1], 8, cache=sys.argv[1] + '/c'); print(p['train'].digest())"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(pictures)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    digests = {run.communicate(timeout=120)[0].split()[-1] for run in runs}
    assert len(digests) == 1
    (known,) = (pictures / "c").glob("*.json")
    assert json.loads(known.read_text())["shape"] == [40, 3, 8, 8]
    assert not list((pictures / "c").glob("*.part"))


def test_a_cache_that_cannot_be_written_names_the_key(pictures, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache_dir=FOLDER"):
        folder.parts(pictures, 8, cache=tmp_path / "file" / "c")


def test_training_and_validation_of_one_folder_can_be_pretrained_on_together(tmp_path):
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            for i in range(4):
                path = tmp_path / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    both = data(tmp_path, pretrain_on=["train", "validation"], resident=False, cache=False)
    assert both.pretrain.batch(torch.arange(16)).shape == (16, 3, 8, 8)
