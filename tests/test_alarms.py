"""Collapse alarms and the main network: silent on healthy runs of any size, loud on collapse."""

import json

import lightning as L
import pytest
import torch
from torch.nn.functional import normalize

from pnp import geometry
from pnp.callbacks.collapse import Sighting, collapse_kind, is_alarming
from pnp.callbacks.monitor import Monitor
from pnp.cli.train import train
from pnp.networks import EMATeacher
from pnp.results import Row, better, logged_best, main_network
from pnp.runs import reopen


def alarms(epochs, images, dims=64):
    """Measurements at which an embedding sequence rings: one `(N, D)` per epoch of 10 steps."""
    before, rung = None, []
    for number, z in enumerate(epochs, 1):
        measures = geometry.describe(z)
        now = Sighting(collapse_kind(measures, images, dims), measures["mean_cosine"], 10 * number)
        if is_alarming(before, now, 10 * len(epochs)):
            rung.append(number)
        before = now
    return rung


def cone(images, share, dims=64):
    """Unit vectors with mean cosine near `share`²; 0 is spread, 1 a point."""
    draws = normalize(torch.randn(images, dims), dim=1)
    return normalize(
        share * draws.new_ones(dims) / dims**0.5 + (1 - share**2) ** 0.5 * draws, dim=1
    )


@pytest.mark.parametrize("images", [4, 12, 36, 400])
def test_a_network_that_leaves_its_first_cone_raises_nothing_whatever_the_number_of_images(images):
    assert not alarms([cone(images, max(0.2, 0.95 - 0.15 * epoch)) for epoch in range(10)], images)
    assert not alarms([cone(images, 0.0)] * 10, images)


@pytest.mark.parametrize("images", [12, 36, 400])
@pytest.mark.parametrize("share", [0.8, 0.99])
def test_a_cone_that_stays_or_narrows_rings_at_every_size(images, share):
    torch.manual_seed(1)
    assert alarms([cone(images, share) for _ in range(10)], images)
    narrowing = [cone(images, min(share, 0.1 * epoch)) for epoch in range(12)]
    assert alarms(narrowing, images)


@pytest.mark.parametrize("images", [40, 150])
def test_few_axes_ring(images):
    flat = torch.zeros(images, 64)
    flat[:, 0] = torch.randn(images)
    assert alarms([flat] * 4, images)


def test_the_mean_cosine_of_few_spread_images_is_not_biased_as_the_norm_of_their_mean_is():
    torch.manual_seed(0)
    cosines, norms = zip(
        *(
            (geometry.mean_cosine(z), geometry.mean_norm(z))
            for z in (cone(6, 0) for _ in range(99))
        ),
        strict=True,
    )
    assert abs(sum(cosines) / 99) < 0.02
    assert sum(norms) / 99 > 0.3


def probe(owner, metric, value, split="validation"):
    return Row("", split, "probe", owner, "", metric, value)


def test_the_main_network_is_the_better_one_on_validation_never_on_test():
    rows = [probe("student", "knn", 0.9), probe("teacher", "knn", 0.8)]
    rows += [probe("teacher", "knn", 0.99, "test"), probe("pixels", "knn", 0.95)]
    assert main_network(rows) == {
        "network": "student", "by": "validation/knn", "student": 0.9, "teacher": 0.8
    }  # fmt: skip
    assert better({"student": 0.5, "teacher": 0.5}) == "teacher"
    views = [probe("student", "views", 0.4), probe("teacher", "views", 0.7)]
    assert (main_network(views) or {})["network"] == "teacher"
    assert main_network([]) is None
    assert logged_best({"probe/student/knn": 0.5}, "probe/main/knn") == ("student", 0.5)
    assert logged_best({"probe/student/knn": 0.5}, "probe/teacher/knn") is None


def test_matching_of_views_is_certain_for_equal_views_and_chance_for_a_point():
    z = torch.randn(50, 8)
    assert geometry.matched(z, 3 * z) == 1
    assert geometry.matched(torch.ones(50, 8), torch.ones(50, 8)) == pytest.approx(0.02)


@pytest.mark.parametrize("momentum", ["auto", 0.7, 0.9])
def test_a_lagging_teacher_is_told_to_take_the_auto_momentum_only_where_it_has_not(
    capsys, momentum
):
    monitor = object.__new__(Monitor)
    monitor.seen = {"student": Sighting(None, 0.1, 5), "teacher": Sighting("complete", 0.9, 5)}
    module = L.LightningModule()
    module.teacher, module.total_steps = EMATeacher(torch.nn.Linear(1, 1), momentum), 10
    monitor.on_train_end(L.Trainer(logger=False, enable_checkpointing=False), module)
    printed = capsys.readouterr().out
    assert "10 steps are few for its momentum. Train longer" in printed
    assert ("momentum=auto" in printed) == (momentum == 0.9)


def test_a_lagging_teacher_is_no_collapse_and_the_better_network_is_exported_and_pictured(
    compose, tmp_path, capsys
):
    words = ("data.labels=none", "method.momentum=1.0", "trainer.max_epochs=8", "optim.lr=0.02")
    metrics = train(compose(*words, "optim.warmup_epochs=0"))
    run, printed = tmp_path / "run", capsys.readouterr().out
    assert not (run / "alarms.json").exists(), (run / "alarms.json").read_text()
    facts = json.loads((run / "run.json").read_text())
    name, other = facts["main"]["network"], {"student": "teacher", "teacher": "student"}
    assert facts["main"]["by"] == "validation/views"
    assert facts["main"][name] == metrics[f"validation/views/{name}"] >= facts["main"][other[name]]
    assert f"main network, better on validation: {name}" in printed
    assert (run / "checkpoints" / "best.ckpt").exists()
    file = run / "checkpoints" / "last.ckpt"
    opened = reopen.open_run(file)
    for recorded in other:
        (run / "run.json").write_text(json.dumps({"main": {"network": recorded}}))
        assert reopen.encoder(opened, None)[2] == recorded
    # Version 0.1 recorded none.
    (run / "run.json").unlink()
    opened.checkpoint.pop("main")
    assert reopen.main_network(opened) == "teacher"
