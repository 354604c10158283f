"""The doctor passes what is right, and each check is seen to fail on a broken copy."""

import subprocess
import sys

import pytest
from conftest import TINY
from torch import nn

from pnp.cli.doctor import examine
from pnp.data.loader import Loader
from pnp.errors import UserError
from pnp.method import SelfSupervised
from pnp.objectives import PNP
from pnp.runs import checks, timing
from pnp.runs.config import plain
from pnp.runs.parts import parts
from pnp.views import color, resample


class Ungathered(nn.Module):
    """What most frameworks do: repulsion among the images of one process."""

    def forward(self, student, teacher, epoch=0.0):
        return {"loss": (student[0] @ student[0].T).square().mean()}


@pytest.fixture
def module(compose):
    return parts(plain(compose()))[1]


@pytest.mark.slow
def test_the_command_passes_on_a_sound_configuration_and_says_where_the_time_goes():
    run = subprocess.run(
        [sys.executable, "-m", "pnp.cli.doctor", *TINY],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("passed") == 5
    for part in ("data", "views", "student", "teacher", "objective", "backward", "optimizer"):
        assert f"│ {part}" in run.stdout
    assert "images per second" in run.stdout


def test_the_doctor_refuses_what_training_refuses(compose):
    with pytest.raises(UserError, match="scale=absolute has no effect"):
        examine(compose("method=dino", "scale=absolute"))


def test_an_objective_that_is_not_gathered_fails_over_ranks():
    check = checks.same_over_ranks(Ungathered, views=2, dims=6)
    assert not check.passed
    assert check.error > 0.01


def test_a_slice_of_the_wrong_piece_fails_the_micro_batches(module, monkeypatch):
    assert checks.same_in_pieces(module, 3, 32).passed
    embed = SelfSupervised.embed_piece

    def shifted(self, batch_idx, images, draws, piece=0, *, targets=True):
        if not targets:  # the second pass sees other images than the first
            images = images.flip(0)
        return embed(self, batch_idx, images, draws, piece, targets=targets)

    monkeypatch.setattr(SelfSupervised, "embed_piece", shifted)
    assert not checks.same_in_pieces(module, 3, 32).passed


def test_a_loader_that_forgets_its_position_fails_the_resumption(compose, tmp_path, monkeypatch):
    config = plain(compose("trainer.max_epochs=1"))
    config.pop("hydra", None)
    config["choices"] = {}
    assert checks.resumes(config, tmp_path).passed
    monkeypatch.setattr(Loader, "load_state_dict", lambda *_: None)
    broken = checks.resumes(config, tmp_path)
    assert not broken.passed
    assert "differs" in broken.note


@pytest.mark.parametrize("broken", ["hue", "mirror"])
def test_views_that_are_off_fail_against_torchvision(monkeypatch, broken):
    assert checks.views_like_torchvision(3, 16).passed
    assert checks.views_like_torchvision(1, 16).passed
    hue, weights = color.turn_hue, resample.resize_weights
    if broken == "hue":
        monkeypatch.setattr(color, "turn_hue", lambda x, turns: hue(x, turns + 0.01))
    else:
        monkeypatch.setattr(
            resample, "resize_weights", lambda *a, mirror=None, **kw: weights(*a, **kw)
        )
    assert not checks.views_like_torchvision(3, 16).passed


def test_a_term_that_is_not_finite_is_named(compose, tmp_path, monkeypatch):
    config = plain(compose("views.local=1"))
    check, times = timing.finite_and_timed(config, tmp_path)
    assert check.passed
    assert all(spent > 0 for spent in times.values())
    original = PNP.forward

    def poisoned(self, *args, **keywords):
        out = original(self, *args, **keywords)
        return out | {"variance": out["variance"] * float("nan")}

    monkeypatch.setattr(PNP, "forward", poisoned)
    check, _ = timing.finite_and_timed(config, tmp_path)
    assert not check.passed
    assert "step 0: variance" in check.note
