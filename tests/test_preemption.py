"""A run that is killed or told to stop loses nothing that was saved, and goes on bit for bit."""

import csv
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pnp.callbacks.checkpoints import Checkpoints
from pnp.cli.train import train
from pnp.signals import Interrupted, Listener

# Starts runs of the command line quickly: imports once, then forks for each.
STARTER = """
import json, os, sys, traceback
import lightning, pnp.evaluation.evaluate, pnp.method, pnp.report, pnp.callbacks.progress
import pnp.callbacks.guard, pnp.callbacks.checkpoints, pnp.callbacks.monitor
import pnp.objectives, pnp.optim, pnp.views, pnp.data, pnp.evaluation.concept_bands
from pnp.cli.train import main
print("ready", flush=True)
while line := sys.stdin.readline():
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ.update(job["env"])
        os.chdir(job["cwd"])
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.argv = ["pnp-train", *job["overrides"]]
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
            status = 99
        sys.stdout.flush()
        os._exit(status)
    print(pid, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Runs:
    """Starts and awaits runs in `folder`, one at a time."""

    def __init__(self, starter: subprocess.Popen, folder: Path, command: Callable) -> None:
        self.starter, self.folder, self.command = starter, folder, command
        self.log = folder / "log.txt"

    def start(self, *overrides: str, **env: str) -> int:
        words = self.command("callbacks.checkpoints.every_n_steps=1", *overrides)[3:]
        job = {"overrides": words, "env": env, "cwd": str(self.folder), "log": str(self.log)}
        print(json.dumps(job), file=self.starter.stdin, flush=True)
        return int(self.starter.stdout.readline())

    def wait(self) -> int:
        print("wait", file=self.starter.stdin, flush=True)
        return int(self.starter.stdout.readline())

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="module")
def starter():
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


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


@pytest.mark.parametrize("kills", [pytest.param(n, marks=pytest.mark.slow) for n in (2, 10)])
def test_a_run_killed_at_random_moments_ends_as_an_unbroken_one(runs, tmp_path, kills):
    draws = random.Random(kills)
    runs.start("hydra.run.dir=whole/run")  # not beside the others: it would be found
    began = time.monotonic()
    assert runs.wait() == 0, runs.said()
    seconds = time.monotonic() - began
    killed, broken = 0, []
    while killed < kills or not broken or not (broken[-1] / "metrics.json").exists():
        if not broken or (broken[-1] / "metrics.json").exists():
            broken.append(tmp_path / f"broken{len(broken)}" / "run")
        pid = runs.start(f"hydra.run.dir={broken[-1]}", "resume=auto")
        if killed < kills:
            time.sleep(draws.uniform(0.1, 0.9) * seconds)
            os.kill(pid, signal.SIGKILL)  # ended already: a zombie until we wait
        status = runs.wait()
        assert status in (0, -signal.SIGKILL), runs.said()
        killed += status != 0
        # Killed between its last file and its end, a process leaves a lock that nobody holds.
        assert status or not (broken[-1] / "lock").exists()
    for run in broken:
        assert_equal(tmp_path / "whole" / "run", run)
        assert not list(run.rglob("*.part"))


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)]
)
def test_a_signal_saves_the_step_and_gives_its_status(runs, tmp_path, signum, status):
    pid = runs.start("hydra.run.dir=run", "trainer.max_epochs=400")
    wait_for(tmp_path / "run" / "metrics.csv")
    os.kill(pid, signum)
    assert runs.wait() == status
    assert "the state is saved" in runs.said()
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


def test_the_listener_gives_the_signals_back():
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)
    with Listener():
        assert signal.getsignal(signal.SIGUSR1) != before[0]
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)) == before
