"""On a real SLURM: ranks, arrays, submitit, and a time limit that costs nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY
from test_preemption import assert_equal

HERE = Path(__file__).parent / "slurm"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TRAIN = (sys.executable, "-m", "pnp.cli.train", *TINY)


def call(*words, cwd, **env):
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=os.environ | env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of a cluster of two nodes; skips with the reason where there is none."""
    folder = tmp_path_factory.mktemp("slurm")
    before = dict(os.environ)
    started = subprocess.run(
        ["bash", HERE / "start.sh", folder], capture_output=True, text=True, check=False
    )
    try:
        if started.returncode:
            pytest.skip(started.stderr.strip() or f"start.sh ended with {started.returncode}")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        os.environ["OMP_NUM_THREADS"] = "1"
        yield
    finally:
        if not started.returncode:
            subprocess.run(["scancel", "--me"], check=False, capture_output=True)
            time.sleep(2)
        subprocess.run(["bash", HERE / "stop.sh", folder], check=False)
        os.environ.clear()
        os.environ.update(before)


def wait_for(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)
    return result


def state(job):
    """State, and number of requeues, of a job or of one task of an array."""
    words = dict(
        word.split("=", 1) for word in call("scontrol", "show", "job", job, cwd="/").split()
        if "=" in word
    )  # fmt: skip
    return words["JobState"], int(words["Restarts"])


def script(folder, *options, words):
    """An sbatch script as docs/sweeps.md has it."""
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "srun " + " ".join(words)]
    (folder / "job.sh").write_text("\n".join(lines) + "\n")
    return call("sbatch", "--parsable", "job.sh", cwd=folder).strip()


@pytest.mark.parametrize(
    ("tasks", "trainer"),
    [(["--ntasks-per-node=2", "-N1"], ["trainer.devices=2"]),
     (["--ntasks-per-node=1", "-N2"], ["trainer.devices=1", "trainer.num_nodes=2"])],
    ids=["one node", "two nodes"],
)  # fmt: skip
def test_two_tasks_of_a_job_are_two_ranks_of_one_run(slurm, tmp_path, tasks, trainer):
    said = call(
        "srun", *tasks, "--job-name=train", *TRAIN, "trainer=ddp", *trainer,
        "trainer.max_epochs=1", cwd=tmp_path, MASTER_ADDR="127.0.0.1",
    )  # fmt: skip
    assert said.count("P¬P SSL") == 1
    assert "lr 0.0005 at batch 32" in said  # 2 × 16
    assert "step 2/2" in said
    assert len(list(tmp_path.glob("runs/*/metrics.json"))) == 1


def test_an_array_task_at_its_time_limit_is_requeued_and_ends_as_unbroken(slurm, tmp_path):
    long = [*TRAIN, "trainer.max_epochs=150", "~callbacks.monitor"]
    words = [f"'{word}'" for word in long] + ["seed=$SLURM_ARRAY_TASK_ID"]
    job = script(
        tmp_path, "--array=0-1", "--ntasks=1", "--requeue", "--signal=USR1@600", "--time=60",
        "--open-mode=append", "--output=%a.txt", "--job-name=train",
        words=[*words, "hydra.run.dir=runs/s$SLURM_ARRAY_TASK_ID"],
    )  # fmt: skip
    run = tmp_path / "runs" / "s1"
    wait_for(lambda: (run / "metrics.csv").exists())
    call("scontrol", "update", f"JobId={job}_1", "TimeLimit=9", cwd="/")  # the signal is due
    wait_for(lambda: state(f"{job}_1")[1] == 1)
    assert "the state is saved" in (tmp_path / "1.txt").read_text()
    assert not (run / "metrics.json").exists()
    call("scontrol", "update", f"JobId={job}_1", "TimeLimit=60", "StartTime=now", cwd="/")
    for task in (0, 1):
        wait_for(lambda task=task: state(f"{job}_{task}")[0] == "COMPLETED")
    assert "resumed at step" in (tmp_path / "1.txt").read_text()
    assert "resumed at step" not in (tmp_path / "0.txt").read_text()
    whole = tmp_path / "whole" / "s1"
    call("srun", "--job-name=train", *long, "seed=1", f"hydra.run.dir={whole}", cwd=tmp_path)
    assert_equal(whole, run)


def test_submitits_jobs_are_requeued_and_end_as_unbroken(slurm, tmp_path):
    sweep = [*TRAIN, "-m", "trainer.max_epochs=150", "~callbacks.monitor", "seed=0,1"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60",
                "hydra.launcher.mem_gb=null", "hydra.launcher.partition=main"]  # fmt: skip
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen([*sweep, *launcher], cwd=tmp_path, stdout=stream, stderr=stream)
    run = tmp_path / "runs" / "sweep" / "seed=1"
    wait_for(lambda: (run / "metrics.csv").exists() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    (job,) = {p.name.split("_")[0] for p in tmp_path.glob("runs/sweep/.submitit/[0-9]*_*")}
    call("scancel", f"--signal={signal.Signals.SIGUSR2.name[3:]}", f"{job}_1", cwd="/")
    wait_for(lambda: state(f"{job}_1")[1] == 1)
    call("scontrol", "update", f"JobId={job}_1", "StartTime=now", cwd="/")
    assert process.wait(900) == 0, log.read_text()
    call(*sweep, "hydra.sweep.dir=whole", cwd=tmp_path)
    for seed in (0, 1):
        assert_equal(tmp_path / "whole" / f"seed={seed}", tmp_path / f"runs/sweep/seed={seed}")
