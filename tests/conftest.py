"""Every test: one thread, shapes checked, deterministic."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("MPLBACKEND", "agg")

import beartype
from jaxtyping import install_import_hook

# Must run before anything imports pnp: annotations such as Float[Tensor, "v n d"] become checks.
# An int is welcome where a float is expected, as everywhere in Python.
beartype.tower = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
install_import_hook("pnp", "beartype.tower").install()

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _deterministic():
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
