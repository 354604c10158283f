"""Files from strangers: no code runs, no path escapes, no bomb is unpacked."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pnp import weights
from pnp.data import DataModule
from pnp.decider.images import Reader
from pnp.errors import UserError
from pnp.export import encoder
from pnp.report.single import write_report
from pnp.runs.config import build
from pnp.runs.directory import load_checkpoint, saved_config


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "pnp.files.write_text",
        "pnp.callbacks.checkpoints.copyfile",
        "pnp.signals.subprocess.run",
        "pnp.files.Path",
        "pnp.distributed.dist",
        "pnp..os.system",
        "pnp",
        ["os.system"],
        None,
    ],
)
def test_a_config_builds_classes_of_this_package_only(target, tmp_path):
    with pytest.raises(UserError, match=r"not allowed|does not exist|is missing"):
        build({"_target_": target, "path": tmp_path / "x", "text": "x"}, "data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["last.ckpt", "weights.pt", "weights.safetensors", "x.npy"])
def test_pickled_code_in_checkpoints_and_weights_does_not_run(tmp_path, name):
    file, touched = tmp_path / name, tmp_path / "touched"
    torch.save({"state_dict": Code(touched), "config": {}, "global_step": 1}, file)
    for read in (load_checkpoint, lambda f: weights.read(f, "state_dict")):
        with pytest.raises(UserError):
            read(file)
    assert not touched.exists()


def test_yaml_tags_in_a_config_do_not_run(tmp_path):
    touched = tmp_path / "touched"
    text = f"a: !!python/object/apply:os.system ['touch {touched}']"
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="not valid YAML"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="not valid YAML"):
        saved_config(tmp_path)
    assert not touched.exists()


def chunk(kind, content):
    body = kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def bomb(file: Path, side: int) -> None:
    """A PNG of a few kB whose header promises side × side pixels."""
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = zlib.compress(bytes(10**6))
    png = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + png)


def test_headers_of_billions_of_pixels_are_refused_by_a_limit(tmp_path):
    bomb(tmp_path / "bomb.png", 60_000)
    with pytest.raises(Image.DecompressionBombError):
        Reader(3, 8).decode(tmp_path / "bomb.png")
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match=r"bomb\.png.*on_corrupt=skip"):
        DataModule("image_folder", root=str(tmp_path), size=8).setup("fit")
    data = DataModule("image_folder", root=str(tmp_path), size=8, on_corrupt="skip")
    assert sum(map(len, data.splits.values())) == 12


def test_an_export_names_no_file_outside_and_builds_no_other_code(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    config = '{"format": "pnp-export", "format_version": 1, "input": {"channels": 3, "size": 8, '
    config += '"mean": [0], "std": [1]}, "backbone": {"name": "../../etc/passwd"}}'
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="is unknown"):
        encoder.load(tmp_path)


@pytest.mark.slow
def test_the_lock_has_no_known_vulnerability():
    pytest.importorskip("pip_audit", reason="pip-audit is not installed")
    lock = Path(__file__).parents[1] / "requirements.lock"
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ConnectionError" in done.stderr or "Max retries" in done.stderr:
        pytest.skip("pip-audit needs its vulnerability service, which cannot be reached from here")
    assert done.returncode == 0, done.stdout + done.stderr
