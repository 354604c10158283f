"""`pnp-embed`: the encoder's features of every readable image, in a table, and who is alike."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_decider import MODEL, encoder, pictures

from pnp.cli.embed import embed
from pnp.errors import UserError
from pnp.export.folder import save
from pnp.runs.config import compose as config_of


@pytest.fixture
def made(tmp_path):
    """An export and a folder of 12 images, of which one cannot be read and two are the same."""
    save(encoder(), tmp_path / "export", MODEL, {"network": "student"}, "card")
    pictures(tmp_path / "images", 12)
    (tmp_path / "images" / "003.png").write_bytes(b"no image")
    twin = (tmp_path / "images" / "000.png").read_bytes()
    (tmp_path / "images" / "twin.png").write_bytes(twin)
    return tmp_path


def command(*overrides):
    return embed(config_of("embed", map(str, overrides)))


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_a_table_has_the_features_of_every_readable_image_and_names_the_others(made, kind):
    out = made / "out" / f"features.{kind}"
    command(f"encoder={made / 'export'}", f"images={made / 'images'}", f"out={out}")
    if kind == "npy":
        found, names = np.load(out), pd.read_csv(out.with_suffix(".files.csv"))["file"]
    else:
        frame = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
        found, names = frame.iloc[:, 1:].to_numpy(np.float32), frame["file"]
    assert names.tolist() == [f"{i:03}.png" for i in range(12) if i != 3] + ["twin.png"]
    files = [np.asarray(Image.open(made / "images" / name)) for name in names]
    pixels = torch.from_numpy(np.stack(files)).movedim(3, 1)
    with torch.no_grad():
        expected = encoder()(pixels)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    unreadable = pd.read_csv(out.with_suffix(".unreadable.csv"))
    assert unreadable["file"].tolist() == ["003.png"]
    assert unreadable["reason"].str.len().min() > 0


def test_the_page_shows_beside_an_image_its_nearest_first(made):
    out = made / "features.csv"
    words = (f"encoder={made / 'export'}", f"images={made / 'images'}", f"out={out}")
    command(*words, "neighbours=3")
    page = out.with_suffix(".html").read_text()
    names = re.findall(r'<span title="([^"]+)">', page)
    assert (len(names), names[:2]) == (12 * 4, ["000.png", "twin.png"])
    assert "http" not in page.replace("http-equiv", "")
    command(*words, "queries=0")


def test_what_cannot_be_embedded_is_said_before_anything_is_computed(made):
    with pytest.raises(UserError, match=r"ends in \.csv, \.npy, \.parquet"):
        command(f"encoder={made / 'export'}", f"images={made}", "out=features.txt")
    with pytest.raises(UserError, match="images= is not set"):
        command(f"encoder={made / 'export'}")
    with pytest.raises(UserError, match="exactly one of run=DIR, ckpt=FILE, encoder=FOLDER"):
        command(f"images={made}")
