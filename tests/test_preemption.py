"""A run that is killed or told to stop loses nothing that was saved, and goes on bit for bit."""

import csv
import json
import os
import random
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import kills
import pytest
import torch

from pnp.callbacks.checkpoints import Checkpoints
from pnp.cli.train import train
from pnp.signals import Interrupted, Listener


class Runs:
    """Starts and awaits runs in `folder`, one at a time."""

    def __init__(self, starter: kills.Starter, folder: Path, command: Callable) -> None:
        self.starter, self.folder, self.command = starter, folder, command
        self.log = folder / "log.txt"

    def start(self, *overrides: str, **env: str) -> int:
        words = self.command("callbacks.checkpoints.every_n_steps=1", *overrides)[3:]
        return self.starter.start("train", words, self.folder, **env)

    def wait(self) -> int:
        return self.starter.wait()

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="module")
def starter():
    process = kills.Starter()
    yield process
    process.close()


@pytest.fixture
def runs(starter, tmp_path, command):
    return Runs(starter, tmp_path, command)


def end(run: Path) -> tuple:
    """All that a run leaves in numbers."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return state["state_dict"], rows, json.loads((run / "metrics.json").read_text())


def assert_equal(a: Path, b: Path) -> None:
    (first, rows, metrics), (second, other_rows, other_metrics) = end(a), end(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert rows == other_rows
    assert metrics == other_metrics


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert file.exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scene", kills.SCENES)
def test_what_is_killed_at_random_moments_ends_as_unbroken(starter, tmp_path, scene):
    kills.play(kills.SCENES[scene], 3, random.Random(scene), starter, tmp_path / "scene")


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)]
)
def test_a_signal_saves_the_step_and_gives_its_status(runs, tmp_path, signum, status):
    pid = runs.start("hydra.run.dir=run", "trainer.max_epochs=400")
    wait_for(tmp_path / "run" / "metrics.csv")
    os.kill(pid, signum)
    assert runs.wait() == status
    assert "the state is saved" in runs.said()
    assert "resume=auto" in runs.said()
    assert "Traceback" not in runs.said()
    assert not (tmp_path / "run" / "lock").exists()
    assert not (tmp_path / "run" / "error.txt").exists()
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < 1600


def test_a_slurm_job_is_requeued_and_goes_on_by_itself(runs, tmp_path):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    env = {"PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    env |= {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "pnp"}  # as srun starts it
    env |= {f"SLURM_{name}": "0" for name in ("PROCID", "LOCALID", "NODEID")}
    options = ("hydra.run.dir=runs/${now:%H%M%S%f}", "trainer.max_epochs=40")
    pid = runs.start(*options, **env)
    while not list(tmp_path.glob("runs/*/metrics.csv")):
        time.sleep(0.01)
    os.kill(pid, signal.SIGUSR1)
    assert runs.wait() == 138, runs.said()
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    runs.start(*options, **env, SLURM_RESTART_COUNT="1")
    assert runs.wait() == 0, runs.said()
    assert "resumed at step" in runs.said()
    assert len(list(tmp_path.glob("runs/*/"))) == 1


def test_a_signal_during_the_evaluation_keeps_the_training(compose, tmp_path, monkeypatch):
    from pnp.evaluation import evaluate

    whole, steps = evaluate.evaluate_networks, []

    def told_to_stop(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(*args)

    monkeypatch.setattr(evaluate, "evaluate_networks", told_to_stop)
    with pytest.raises(Interrupted):
        train(compose())
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.setattr(evaluate, "evaluate_networks", whole)
    monkeypatch.setattr(Checkpoints, "on_train_batch_end", lambda *args: steps.append(args))
    assert "test/knn/teacher" in train(compose("resume=auto"))
    assert steps == []


def test_outside_of_a_step_a_signal_is_obeyed_at_once():
    with pytest.raises(Interrupted) as stop, Listener():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.status == 143


def test_inside_a_step_a_signal_waits_and_only_a_second_ctrl_c_does_not():
    with Listener() as listener:
        listener.deferred = True
        os.kill(os.getpid(), signal.SIGINT)
        assert listener.seen == signal.SIGINT
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_listener_gives_the_signals_back_and_forgets():
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)
    with Listener() as left:
        assert signal.getsignal(signal.SIGUSR1) != before[0]
        left.deferred = True
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.seen == 0  # what trains next in this process is not asked to stop
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)) == before
