"""Defaults from the data in hand: `auto` in the config."""

import csv
import json
import math

import pytest

from pnp import auto
from pnp.cli.train import train
from pnp.errors import UserError
from pnp.optim import Optim


def test_the_embedded_default_keeps_the_values_it_was_tuned_with():
    steps = 30_000 // auto.batch_size(30_000) * auto.epochs(117)
    assert steps == 702
    assert (auto.learning_rate(steps), auto.momentum(steps)) == (4e-3, 0.96)


@pytest.mark.parametrize("images", [20, 120, 364, 2_500, 6_000, 60_000])
def test_any_set_gets_hundreds_of_steps_and_a_batch_that_fits(images):
    batch = auto.batch_size(images)
    steps = images // batch * auto.epochs(images // batch)
    assert batch <= images
    assert steps >= min(700, 200 * (images // batch))


@pytest.mark.parametrize("steps", [126, 700, 10_000])
def test_the_teacher_has_left_its_start_by_a_tenth_of_the_run(steps):
    start, weight = auto.momentum(steps), 1.0
    for step in range(steps // 10):
        weight *= 1 - (1 - start) * (1 + math.cos(math.pi * step / steps)) / 2
    assert weight < 0.08


def test_auto_is_for_the_optimizer_it_was_tuned_with():
    with pytest.raises(UserError, match=r"optim\.lr=auto is for adamw and muon"):
        Optim(name="sgd", lr="auto")


def test_a_run_records_what_auto_became(compose, tmp_path):
    few = ("data.batch_size=auto", "data.n_train=200", "trainer.max_epochs=1")
    train(compose(*few, "evaluation.test=false"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    momentum = auto.momentum(200 // 16)
    assert record["auto"] == {
        "data.batch_size": 16, "optim.lr": 4e-3, "method.momentum": momentum,
        "method.concat_views": False,
    }  # fmt: skip


def test_a_limit_on_batches_shortens_the_schedule(compose, tmp_path):
    train(compose("+trainer.limit_train_batches=2", "optim.lr=0.01", "evaluation.test=false"))
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        rates = [float(row["optim/lr"]) for row in csv.DictReader(stream) if row["optim/lr"]]
    assert len(rates) == 2 * 3
    assert rates[-1] < 0.2 * max(rates)
