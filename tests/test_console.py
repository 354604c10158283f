"""Names and signs of any kind are printed, written and drawn."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pnp import console, files
from pnp.data.names import Names
from pnp.evaluation.figures import draw_pca, draw_sheet, short

ODD = (
    "$",
    "a$\\notacommand{",
    "$$$",
    "50 %",
    "two\nlines",
    "caf\udce9",
    "\x07bell",
    "名前 é",
    "_^",
)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_any_terminal_gets_plain_letters_for_what_it_lacks(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    console.fall_back()
    print("P¬P σ√D ≡ caf\udce9 名 ━⠋", flush=True)
    said = stream.buffer.getvalue().decode(encoding)
    assert said.replace("¬", "n").startswith("PnP sigmasqrtD ==")
    assert said.endswith("caf\\udce9 \\u540d -*\n")


@pytest.mark.parametrize("module", ["train", "decide", "report", "tune"])
def test_help_is_printed_in_an_ascii_locale(module):
    locale = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-m", f"pnp.cli.{module}", "--help"],
        env={**os.environ, **locale, "PYTHONCOERCECLOCALE": "0"}, capture_output=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert b"pnp-" in result.stdout


def test_files_take_names_that_are_no_text_and_json_gives_them_back(tmp_path):
    files.write_json(tmp_path / "a.json", list(ODD))
    assert files.read_json(tmp_path / "a.json", list) == list(ODD)
    files.write_text(tmp_path / "error.txt", "no image: caf\udce9")
    assert files.read_text(tmp_path / "error.txt") == "no image: caf\\udce9"


def test_names_keep_bytes_whatever_the_locale_makes_of_them():
    accents = "caf\udcc3\udca9"  # "café" as an ASCII locale reads it
    assert list(Names([accents, *ODD])) == [accents, *ODD]


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
def test_every_name_is_drawn_as_it_is_written(tmp_path):
    assert short("$x$") == r"\$x\$"
    plane, labels = torch.rand(len(ODD), 2), torch.arange(len(ODD))
    draw_pca(tmp_path / "a.png", plane, torch.ones(2) / 2, labels, ODD, "test")
    draw_sheet(tmp_path / "b.png", [(short(name), np.zeros((1, 4, 4, 3)), []) for name in ODD])
    assert (tmp_path / "a.png").stat().st_size > 0 < (tmp_path / "b.png").stat().st_size
