"""Sweeps: a job is what its config says, one process does it, and none is done twice."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import yaml

from pnp import locks
from pnp.errors import UserError
from pnp.runs import arguments, directory, jobs, launch, processes
from pnp.runs.config import plain
from pnp.signals import Interrupted

CONF = launch.conf_dir()


def config(compose, *overrides, **options):
    return plain(compose(*overrides, **options))


def claim(cfg):
    return jobs.claim(directory.run_directory(cfg), plain(cfg))


def claimed(cfg):
    """A job that nobody works on any more."""
    job = claim(cfg)
    job.lock.release()
    return job


@pytest.mark.parametrize(
    "override",
    ["run_dir=elsewhere", "resume=auto", "data.resident=false", "method.log_every=7",
     "callbacks.checkpoints.every_n_steps=5", "evaluation.cache=false"],
)  # fmt: skip
def test_what_changes_no_number_is_the_same_job(compose, override):
    assert jobs.identity(config(compose, override)) == jobs.identity(config(compose))


@pytest.mark.parametrize(
    "override",
    ["seed=1", "optim.lr=0.1", "objective=no_repulsion", "evaluation.k=6", "data.seed=2",
     "callbacks.monitor.k=3", "trainer.max_epochs=4"],
)  # fmt: skip
def test_what_may_change_a_number_is_another_job(compose, override):
    assert jobs.identity(config(compose, override)) != jobs.identity(config(compose))


def test_another_folder_of_pictures_is_another_job(compose):
    a, b = (config(compose, "data=image_folder", f"data.root={root}", tiny=False) for root in "ab")
    assert jobs.identity(a) != jobs.identity(b)


def finish(job):
    (job.folder / "metrics.json").write_text('{"validation/knn/teacher": 0.5}')
    job.lock.release()


def test_a_job_is_found_by_its_config_not_by_its_path(compose, tmp_path):
    first = claim(compose(f"run_dir={tmp_path / 'a'}"))
    finish(first)
    again = claim(compose(f"run_dir={tmp_path / 'b'}", "resume=auto"))
    assert again.metrics == {"validation/knn/teacher": 0.5}
    assert again.folder == tmp_path / "a"
    assert not (tmp_path / "b").exists()


def test_a_job_that_was_killed_before_its_report_is_not_finished(compose, tmp_path):
    finish(claim(compose()))
    (tmp_path / "run" / "metrics.partial.json").write_text("{}")
    job = claimed(compose("resume=auto"))
    assert job.metrics is None


def test_a_changed_job_of_a_sweep_runs_anew_beside_the_old_one(compose, tmp_path, monkeypatch):
    monkeypatch.setattr("pnp.runs.directory.is_multirun", lambda: True)
    finish(claim(compose(f"run_dir={tmp_path / 'a'}")))
    changed = claimed(compose(f"run_dir={tmp_path / 'a'}", "evaluation.k=6"))
    assert changed.metrics is None
    assert changed.folder.name.startswith("a_")
    assert (tmp_path / "a" / "metrics.json").exists()


def test_an_interrupted_job_of_a_sweep_goes_on_without_being_asked(compose, tmp_path, monkeypatch):
    monkeypatch.setattr("pnp.runs.directory.is_multirun", lambda: True)
    job = claim(compose(f"run_dir={tmp_path / 'a'}"))
    (job.folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(Interrupted), job:
        raise Interrupted
    again = claimed(compose(f"run_dir={tmp_path / 'a'}"))
    assert again.checkpoint == tmp_path / "a" / "checkpoints" / "last.ckpt"
    anew = claimed(compose(f"run_dir={tmp_path / 'a'}", "resume=false"))
    assert anew.checkpoint is None
    assert not again.checkpoint.exists()


def test_a_new_run_in_an_old_folder_finds_nothing_of_the_old_one(compose, tmp_path):
    finish(claim(compose()))
    (tmp_path / "run" / "alarms.json").write_text("[]")
    claimed(compose("optim.lr=0.1"))
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "alarms.json").exists()


def test_resume_auto_does_not_overwrite_a_run_of_another_config(compose, tmp_path):
    finish(claim(compose()))
    with pytest.raises(UserError, match=r"optim\.lr: auto -> 0\.1"):
        claim(compose("optim.lr=0.1", "resume=auto"))
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_failed_job_leaves_its_error_and_a_repeat_removes_it(compose, tmp_path):
    with pytest.raises(UserError), claim(compose()):
        raise UserError("too little of it")
    assert (tmp_path / "run" / "error.txt").read_text() == "too little of it"
    claimed(compose("resume=auto"))
    assert not (tmp_path / "run" / "error.txt").exists()


def test_a_job_that_is_being_done_is_refused(compose, tmp_path):
    job = claim(compose())
    for other in (f"run_dir={tmp_path / 'run'}", f"run_dir={tmp_path / 'other'}"):
        with pytest.raises(jobs.Busy, match=f"pid {os.getpid()}"):
            claim(compose(other, "resume=auto"))
    job.lock.release()


def test_of_many_that_want_a_job_one_gets_it(compose, tmp_path):
    cfgs = [compose(f"run_dir={tmp_path / f'try{i}'}", "resume=auto") for i in range(8)]
    won, refused = [], []

    def want(cfg):
        try:
            won.append(claim(cfg))
        except jobs.Busy:
            refused.append(cfg)

    threads = [threading.Thread(target=want, args=(cfg,)) for cfg in cfgs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    assert [p.parent.name for p in tmp_path.glob("*/lock")] == [won[0].folder.name]
    won[0].lock.release()


# A holder on another node, as `filelock` writes it.
ELSEWHERE = "filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=0a\nduration={}\n"


def hold_elsewhere(compose, monkeypatch, **slurm):
    """Begin a job and leave it locked by a process of another machine."""
    for key, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    job = claimed(compose())
    lock = job.folder / "lock"
    lock.write_text(ELSEWHERE.format(locks.LEASE))
    return lock


def test_a_lock_on_another_machine_holds_while_it_is_renewed(compose, monkeypatch):
    hold_elsewhere(compose, monkeypatch)
    with pytest.raises(jobs.Busy, match="pid 1 on elsewhere"):
        claim(compose("resume=auto"))


def test_a_lock_that_nobody_renews_is_taken_over(compose, monkeypatch):
    monkeypatch.setattr(locks, "LEASE", 0.4)
    monkeypatch.setattr(locks, "BEAT", 0.1)
    lock = hold_elsewhere(compose, monkeypatch)
    os.utime(lock, (0, 0))
    job = claim(compose("resume=auto"))
    assert job.lock.owner.pid == os.getpid()
    job.lock.release()


@pytest.mark.parametrize(("requeues", "taken"), [("0", False), ("1", True)])
def test_a_requeued_slurm_job_takes_the_lock_of_its_earlier_life_on_another_node(
    compose, monkeypatch, requeues, taken
):
    hold_elsewhere(compose, monkeypatch, JOB_ID="77", JOB_NAME="bash")
    monkeypatch.setenv("SLURM_RESTART_COUNT", requeues)
    if taken:
        claimed(compose("resume=auto"))
    else:
        with pytest.raises(jobs.Busy):
            claim(compose("resume=auto"))


def test_another_slurm_job_is_no_earlier_life(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert processes.is_earlier_life(["78", 0])
    assert not processes.is_earlier_life(["77", 0])
    assert not processes.is_earlier_life([None, 0])
    assert not processes.is_earlier_life(None)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    script = """if True:
        import pathlib, sys
        from pnp import locks
        lock = locks.lease(pathlib.Path(sys.argv[1]))
        print(locks.acquire(lock), flush=True)
        input()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "None\n"
    lock = locks.lease(tmp_path / "lock")
    assert locks.acquire(lock) == f"pid {process.pid} on {lock.owner.hostname}"
    process.kill()
    process.communicate()
    assert locks.acquire(lock) is None
    lock.release()
    assert not (tmp_path / "lock").exists()


def test_the_lock_of_version_0_1_is_taken_over_when_it_is_old(compose, tmp_path):
    lock = tmp_path / "run" / "lock"
    lock.parent.mkdir()
    lock.write_text('{"pid": 1, "host": "elsewhere", "started": "5", "slurm": null}')
    os.utime(lock, (0, 0))
    claimed(compose())


def program(text, folder, *words):
    """The command of a program in this folder."""
    file = folder / "program.py"
    file.write_text(textwrap.dedent(text))
    return [sys.executable, str(file), *words]


# A sweep of nothing: what happens around the work is the same as for a training.
PROGRAM = """
    import os, sys
    from pathlib import Path
    from pnp.runs.launch import launch
    from pnp.errors import UserError

    def run(cfg):
        from hydra.core.hydra_config import HydraConfig
        if cfg.seed == 1:
            raise UserError("seed 1 is unlucky")
        if cfg.seed == 2:
            return {}["nothing"]
        import torch
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / "threads").write_text(str(torch.get_num_threads()))

    if __name__ == "__main__":
        launch("train", run)
"""


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_failures_are_listed_at_the_end_whatever_launcher_ran_the_jobs(tmp_path, launcher):
    words = ["seed=0,1,2,3", "-m", "scale=sphere", f"hydra/launcher={launcher}"]  # a flag anywhere
    words += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        program(PROGRAM, tmp_path, *words),
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    end = " ".join(done.stderr.split())
    assert done.returncode == 1, done.stderr
    assert "2 of the jobs failed: seed=1: seed 1 is unlucky seed=2: KeyError: 'nothing'" in end
    threads = {f.parent.name: int(f.read_text()) for f in tmp_path.glob("runs/sweep/*/threads")}
    assert threads.keys() == {"seed=0", "seed=3"}  # what varies
    if launcher == "joblib":  # the jobs share the cores
        assert set(threads.values()) == {max(1, len(os.sched_getaffinity(0)) // 2)}
    assert not (tmp_path / "runs" / "sweep" / ".jobs").exists()


JOBLIB = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")

WAITING = """
    import os, signal, sys, time
    from pathlib import Path
    from pnp.runs.launch import launch
    from pnp.signals import Listener

    def run(cfg):
        if cfg.scale == "absolute":
            os.kill(os.getpid(), signal.SIGKILL)
        with Listener():
            Path(f"began{cfg.seed}").touch()
            time.sleep(100)

    if __name__ == "__main__":
        launch("train", run)
"""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_joblibs_jobs_stop_cleanly_and_no_other_starts(tmp_path, signum, status):
    process = subprocess.Popen(
        program(WAITING, tmp_path, *JOBLIB, "seed=0,1,2"),
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("began*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signum)  # as a terminal and SLURM do
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in errors
    assert "failed" not in errors
    assert sorted(p.name for p in tmp_path.glob("began*")) == ["began0", "began1"]


def test_a_job_that_dies_without_a_word_is_listed(tmp_path):
    done = subprocess.run(
        program(WAITING, tmp_path, *JOBLIB, "scale=absolute", "seed=0,1"),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    # Both jobs begin at once; joblib stops the other when the first one is gone.
    assert re.search(r"seed=[01]: ended without a message; killed, or out of memory", done.stderr)
    assert "did you mean" not in done.stderr


PRESETS = {"ablation": 7 * 2 * 3, "seeds": 5, "weights": 5 * 4, "critical_scale": 3 * 3 * 3 * 3}


def test_every_preset_has_a_test():
    assert {file.stem for file in (CONF / "sweep").glob("*.yaml")} == PRESETS.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_over_keys_that_exist(compose, preset):
    params = yaml.safe_load((CONF / "sweep" / f"{preset}.yaml").read_text())["hydra"]["sweeper"]
    jobs_of_it = 1
    for key, values in params["params"].items():
        choices = str(values).split(",")
        jobs_of_it *= len(choices)
        for value in choices:
            compose(f"sweep={preset}", f"{key}={value}", tiny=False)
    assert jobs_of_it == PRESETS[preset]


def test_the_wandb_sweep_gives_overrides_that_hydra_takes(compose):
    sweep = yaml.safe_load((CONF.parent / "docs" / "wandb_sweep.yaml").read_text())
    assert sweep["metric"]["name"].startswith("probe/")
    first = {
        k: v["values"][0] if "values" in v else v["min"] for k, v in sweep["parameters"].items()
    }
    words = [w for w in sweep["command"] if "=" in w] + [f"{k}={v}" for k, v in first.items()]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    assert compose(*words, tiny=False).optim.lr == 1e-4


def test_a_job_name_is_a_folder_name():
    assert jobs.run_name("") == "default"
    long = [jobs.run_name("x" * 300 + end) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(name) < 255 and "/" not in name for name in long)


def test_a_sweep_over_paths_and_long_values_has_one_folder_per_job(tmp_path):
    words = ["-m", f"run_dir=/a/b,/a/{'c' * 300}"]
    subprocess.run(program(PROGRAM, tmp_path, *words), cwd=tmp_path, check=True)
    assert len(list(Path(tmp_path, "runs", "sweep").glob("*/threads"))) == 2


def test_folders_of_a_sweep_are_named_by_what_varies_alone():
    given = ["-m", "~callbacks.monitor", "trainer.max_epochs=1", "seed=0,1"]
    words = arguments.named_by_what_varies(given)
    assert words[:-1] == given
    left_out = "['resume','logger','sweep','callbacks.monitor','trainer.max_epochs']"
    assert words[-1] == f"hydra.job.config.override_dirname.exclude_keys={left_out}"
    assert arguments.named_by_what_varies(["seed=0", "~callbacks.monitor"]) == [
        "seed=0", "~callbacks.monitor",
    ]  # fmt: skip
