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
install_import_hook("pnp", "beartype.tower")

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _deterministic():
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ.pop("PNP_RUN_DIR", None)  # a run of this process leaves it to the ranks it starts


# The final evaluation takes most of a tiny run's time: BRIEF leaves probes on all labels, and FULL
# is the default again, for claims about the rest.
BRIEF = ("evaluation.fractions=[]", "evaluation.references=[]", "evaluation.band=null")
FULL = (
    "evaluation.fractions=[0.01,0.1]",
    "evaluation.references=[pixels,random]",
    "evaluation.band={max_fp:0.01,max_fn:0.01,delta:0.1,method:exact,budget:joint}",
)
# A run of seconds: 12 steps of 16 small images.
TINY = (
    "logger=csv",
    "data.n_train=64",
    "data.validation=40",
    "data.calibration=40",
    "data.test=40",
    "data.batch_size=16",
    "model.width=4",
    "model.depth=2",
    "model.projector.hidden=16",
    "model.projector.out=8",
    "method.log_every=1",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "evaluation.k=5",
    *BRIEF,
)


def composed(*overrides):
    """`conf/train.yaml` with overrides."""
    from pnp.runs.config import compose

    return compose("train", overrides)


@pytest.fixture
def compose(tmp_path):
    """Compose `conf/train.yaml` with overrides; runs go below tmp_path unless run_dir is given."""

    def _compose(*overrides, tiny=True):
        base = (*TINY, f"run_dir={tmp_path / 'run'}") if tiny else ()
        return composed(*base, *overrides)

    return _compose


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Directory and metrics of a tiny run, trained once for all tests of a file that ask for it."""
    from pnp.cli.train import train

    runs = {}

    def _trained(*overrides):
        if overrides not in runs:
            run = tmp_path_factory.mktemp("trained") / "run"
            runs[overrides] = run, train(composed(*TINY, f"run_dir={run}", *overrides))
        return runs[overrides]

    return _trained


@pytest.fixture
def command():
    """The command line of a tiny run."""
    import sys

    return lambda *overrides: [sys.executable, "-m", "pnp.cli.train", *TINY, *overrides]
