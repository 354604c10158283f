"""Several processes of one run: one directory, one voice, and no one left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pnp.errors import UserError
from pnp.runs import jobs, processes

DDP = ("trainer=ddp", "trainer.devices=2")


def children(pid):
    out = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in out.stdout.split()]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stream:  # noqa: PTH123
        return stream.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_two_processes_leave_one_run_directory_and_speak_once(tmp_path, command):
    run = subprocess.run(
        command(*DDP, "trainer.max_epochs=1", "evaluation.test=false"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "runs").glob("[!.]*"))) == 1
    assert run.stdout.count("P¬P SSL") == run.stdout.count("epoch   1") == 1
    assert "step 2/2" in run.stdout  # 64 images, 2 × 16 a step
    assert "lr 0.0005 at batch 32" in run.stdout


@pytest.mark.slow
def test_torchrun_processes_agree_on_one_run_directory(tmp_path, command):
    train = command(*DDP, "trainer.max_epochs=1", "evaluation.test=false")[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    run = subprocess.run(
        [*launcher, "--master-port=29617", *train],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "runs").glob("[!.]*"))) == 1
    assert run.stdout.count("epoch   1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_is_killed_the_other_ends_within_a_minute_and_says_why(
    tmp_path, command, victim
):
    log = tmp_path / "log"
    with log.open("w") as stream:
        main = subprocess.Popen(
            command(*DDP, "trainer.max_epochs=100000", f"run_dir={tmp_path / 'run'}"),
            stdout=stream,
            stderr=stream,
        )
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "run" / "metrics.csv").exists():
                assert time.monotonic() < deadline
                time.sleep(0.5)
            (other,) = children(main.pid)
            os.kill(main.pid if victim == 0 else other, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while (main.poll() is None) or alive(other):
                assert time.monotonic() < deadline
                time.sleep(0.5)
        finally:
            main.kill()
    # The first to notice: a collective of the survivor, its watch over rank 0, or Lightning.
    said = ("another process of this run", "is gone", "terminated with code -9")
    text = " ".join(log.read_text().split())
    assert any(words in text for words in said)
    assert "Traceback" not in text


def test_processes_of_a_slurm_step_take_the_directory_of_rank_0(tmp_path, monkeypatch):
    for key, value in {
        "SLURM_JOB_ID": "17",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NAME": "train",
    }.items():
        monkeypatch.setenv(key, value)
    mine, theirs = tmp_path / "12-00-00", tmp_path / "12-00-01"
    theirs.mkdir()
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(UserError, match="rank 1 waited 0 s for rank 0"):
        processes.agreed(theirs, patience=0.1)
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert processes.agreed(mine) == mine
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert jobs.claim(theirs, {"resume": False}).folder == mine
    assert not theirs.exists()


def test_a_step_of_another_job_does_not_take_an_old_directory(tmp_path, monkeypatch):
    (tmp_path / ".run-16-0-0").write_text(str(tmp_path / "old"))
    for key, value in {"JOB_ID": "17", "NTASKS": "2", "PROCID": "1", "JOB_NAME": "x"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    with pytest.raises(UserError, match="waited"):
        processes.agreed(tmp_path / "new", patience=0.1)


@pytest.mark.parametrize(
    ("trainer", "multirun", "world", "message"),
    [
        ({"devices": 2, "num_nodes": 1}, True, 1, "inside a multirun"),
        ({"devices": 1, "num_nodes": 1}, False, 2, "2 processes were started.*expects 1"),
        ({"devices": 2, "num_nodes": 2}, False, 2, "expects 4"),
    ],
)
def test_what_would_hang_is_refused(monkeypatch, trainer, multirun, world, message):
    monkeypatch.setattr(processes, "started_outside", lambda: (0, world))
    with pytest.raises(UserError, match=message):
        processes.check(trainer, multirun)
    processes.check({"devices": 2, "num_nodes": world // 2 or 1}, multirun=False)
