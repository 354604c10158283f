"""Every test: one thread, shapes checked, deterministic."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("MPLBACKEND", "agg")

from jaxtyping import install_import_hook

# Must run before anything imports pnp: annotations such as Float[Tensor, "v n d"] become checks.
install_import_hook("pnp", "beartype.beartype").install()

import pytest


@pytest.fixture(autouse=True)
def _deterministic():
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
