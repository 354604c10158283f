"""Trackers beside the csv: they get what it gets, and the final numbers."""

import csv
import sys
from types import SimpleNamespace

import pytest

from pnp.cli.train import train
from pnp.errors import UserError
from pnp.loggers import trackers


def test_tensorboard_has_the_rows_of_the_csv_and_the_final_numbers(compose, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = train(compose("logger=tensorboard", "trainer.max_epochs=1"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["loss/total"]]
    logged = events.Scalars("loss/total")
    assert [event.step for event in logged] == [int(row["step"]) for row in rows]
    expected = [float(row["loss/total"]) for row in rows]
    assert [event.value for event in logged] == pytest.approx(expected)
    final = events.Scalars("test/knn/student")[-1].value
    assert final == pytest.approx(metrics["test/knn/student"])


def test_trackio_gets_configuration_rows_and_an_end(monkeypatch, tmp_path):
    calls = []

    def init(**options):
        calls.append(options)
        log = lambda values, step: calls.append((step, values))  # noqa: E731
        return SimpleNamespace(log=log, finish=lambda: calls.append("end"))

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    logger = trackers.tracker(tmp_path / "run", {"optim": {"lr": 1}}, "trackio", project="mine")
    logger.log_metrics({"loss": 2.0}, 3)
    trackers.end(logger, {"test/knn/student": 0.5}, 4)
    first = {"project": "mine", "name": "run", "config": {"optim.lr": 1}, "resume": "allow"}
    assert calls == [first, (3, {"loss": 2.0}), (4, {"test/knn/student": 0.5}), "end"]


@pytest.mark.parametrize("kind", trackers.KINDS)
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(compose, monkeypatch, kind):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"logger={kind} needs .*pip install 'pnp-ssl\[{kind}\]'"):
        train(compose(f"logger={kind}"))
