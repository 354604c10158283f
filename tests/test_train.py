"""Whole runs through `train(cfg)`: reproducible, resumable, stopped with a message when broken."""

import csv
import json
import shutil
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import FULL, TINY

from pnp.callbacks.checkpoints import Checkpoints, Interrupted
from pnp.cli.train import train
from pnp.errors import UserError
from pnp.objectives import PNP


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def stop_at(monkeypatch):
    """Ask for a stop after an optimizer step, as Ctrl-C does."""
    original = Checkpoints.on_train_batch_end

    def _stop_at(step):
        def patched(self, trainer, *args):
            self.stop_requested |= trainer.global_step == step
            original(self, trainer, *args)

        monkeypatch.setattr(Checkpoints, "on_train_batch_end", patched)

    return _stop_at


def test_a_run_leaves_everything_behind_and_measures_students_teachers_and_references(
    compose, tmp_path
):
    metrics = train(compose(*FULL))
    run = tmp_path / "run"
    files = ("config.yaml", "metrics.csv", "metrics.json", "report.html", "run.json", "splits.json")
    for name in files:
        assert (run / name).stat().st_size > 0, name
    for name in ("last", "best"):
        assert (run / "checkpoints" / f"{name}.ckpt").exists()
    assert json.loads((run / "metrics.json").read_text()) == metrics
    for probe in ("knn", "linear"):
        ours = (f"test/{probe}/{network}" for network in ("teacher", "student"))
        others = (f"reference/{name}/{probe}" for name in ("pixels", "random"))
        for key in (*ours, *others):
            assert metrics[f"{key}/ci_low"] <= metrics[key] <= metrics[f"{key}/ci_high"]
    logged = set(rows(run)[0])
    assert {"loss/total", "loss/repulsion", "optim/lr", "geometry/teacher/effective_rank"} <= logged
    assert {"probe/student/knn", "geometry/student/between_cosine"} <= logged
    assert not list(run.rglob("*.part"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(compose, tmp_path, trained):
    first, _ = trained("seed=0")
    again, other = tmp_path / "again", tmp_path / "other"
    train(compose(f"run_dir={again}", "seed=0"))
    train(compose(f"run_dir={other}", "seed=1"))
    assert same(first, again)
    assert (first / "metrics.csv").read_text() == (again / "metrics.csv").read_text()
    assert not same(first, other)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ("seed=0", 2),  # 4 steps an epoch: in the middle of the first
        ("seed=0", 4),
        ("seed=0", 6),
        ("trainer.accumulate_grad_batches=2", 1),  # 2 steps an epoch
        ("trainer.accumulate_grad_batches=2", 2),
        ("method.global_batch=32", 1),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(compose, tmp_path, trained, stop_at, options, step):
    (whole, expected), broken = trained(options), tmp_path / "broken"
    stop_at(step)
    with pytest.raises(Interrupted):
        train(compose(options, f"run_dir={broken}"))
    stop_at(-1)
    resumed = train(compose(options, f"run_dir={broken}", "resume=auto"))
    assert same(whole, broken)
    assert resumed == expected
    assert rows(whole) == rows(broken)


def test_resume_auto_finds_the_unfinished_run_beside_it_and_goes_on_counting_its_seconds(
    compose, tmp_path, stop_at
):
    stop_at(5)
    with pytest.raises(Interrupted):
        train(compose(f"run_dir={tmp_path / 'monday'}"))
    stop_at(-1)
    file = tmp_path / "monday" / "checkpoints" / "last.ckpt"
    state = torch.load(file, weights_only=True)
    assert state["callbacks"]["Timer"]["time_elapsed"]["train"] > 0
    state["callbacks"]["Timer"]["time_elapsed"]["train"] = 5000.0
    torch.save(state, file)
    train(compose(f"run_dir={tmp_path / 'tuesday'}", "resume=auto"))
    facts = json.loads((tmp_path / "monday" / "run.json").read_text())
    assert 5000 < facts["training_seconds"] < 5500
    assert not (tmp_path / "tuesday").exists()


def test_a_finished_run_is_not_repeated_by_resume_auto(compose, tmp_path, trained, capsys):
    done, first = trained("seed=0")
    shutil.copytree(done, tmp_path / "run")
    stamp = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    assert train(compose("resume=auto")) == first
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns == stamp


def test_a_checkpoint_of_another_config_names_the_keys_that_differ(compose, tmp_path, stop_at):
    stop_at(2)
    with pytest.raises(Interrupted):
        train(compose())
    with pytest.raises(UserError, match=r"optim\.lr: auto -> 0\.1"):
        train(compose(f"run_dir={tmp_path / 'new'}", f"resume={tmp_path / 'run'}", "optim.lr=0.1"))


def test_what_is_no_checkpoint_is_refused(compose, tmp_path):
    file = tmp_path / "some.ckpt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="not a checkpoint"):
        train(compose(f"resume={file}"))
    with pytest.raises(UserError, match="found no checkpoint"):
        train(compose(f"resume={tmp_path / 'nowhere'}"))


def test_the_teacher_moves_once_per_optimizer_step_not_per_micro_batch(compose, monkeypatch):
    from pnp.networks import EMATeacher

    steps = []
    original = EMATeacher.update

    def update(self, student, step, total):
        steps.append((step, total))
        return original(self, student, step, total)

    monkeypatch.setattr(EMATeacher, "update", update)
    train(compose("trainer.accumulate_grad_batches=2"))
    assert steps == [(step, 6) for step in range(6)]


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_a_healthy_checkpoint(
    compose, tmp_path, monkeypatch
):
    original = PNP.forward
    calls = []

    def poisoned(self, student, teacher, **keywords):
        out = original(self, student, teacher, **keywords)
        calls.append(0)
        if len(calls) > 6:
            out["covariance"] = out["covariance"] * float("nan")
            out["loss"] = out["loss"] * float("nan")
        return out

    monkeypatch.setattr(PNP, "forward", poisoned)
    with pytest.raises(UserError, match=r"step 7; first to go: covariance\..*last\.ckpt"):
        train(compose("~callbacks.gradients"))  # which calls the objective once more
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_data_without_labels_trains_and_reports_without_accuracy(compose, tmp_path):
    metrics = train(compose("data.labels=none"))
    assert not any("knn" in key or "linear" in key for key in metrics)
    assert "test/features/teacher/effective_rank" in metrics
    logged = {key for key in rows(tmp_path / "run")[0] if key.startswith("probe/")}
    assert logged == {"probe/student/views", "probe/teacher/views"}
    assert 0 <= metrics["test/views/teacher"] <= 1
    assert (tmp_path / "run" / "report.html").exists()


def test_test_images_are_not_looked_at_while_tuning(compose):
    metrics = train(compose("evaluation.test=false"))
    assert "validation/knn/teacher" in metrics
    assert not any(key.startswith(("test/", "reference/")) for key in metrics)


def test_collapse_raises_the_alarm_with_its_kind(compose, tmp_path):
    # At .02 the spread was still growing after 24 steps: the alarm of earlier versions was false.
    train(compose("objective=align_only", "trainer.max_epochs=6", "optim.lr=0.2"))
    alarms = json.loads((tmp_path / "run" / "alarms.json").read_text())
    assert alarms[-1]["kind"] in ("complete", "cone")
    assert "raise" in alarms[0]["message"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views.count=1", "at least 2"),
        ("data.batch_size=1", "batch"),
        ("data.batch_size=1000", "1,?000"),
        ("objective.weights.repulsion=-1", "repulsion=-1: give a finite number of at least 0"),
        ("+objective.weights.attraction=1", "unknown term 'attraction'"),
        ("optim.lr=fast", "optim.lr=fast: give a finite number above 0"),
        ("+optim.weight_decoy=1", r"Did you mean optim\.weight_decay"),
        ("model.name=resnet81", "Did you mean resnet18"),
        ("model.depth=9", "too small"),
        ("trainer.accelerator=gpu", "no CUDA GPU"),
        ("trainer.accelerator=quantum", "choose from auto, cpu, gpu"),
        ("trainer.max_epochs=1.5", "wrong type"),
        ("trainer.max_epochs=-7", "trainer.max_epochs=-7: give a whole number, at least -1"),
        ("evaluation.k=0", "evaluation.k=0: give a whole number, at least 1"),
        ("method._target_=os.system", "not allowed"),
        ("+trainer.limit_train_batches=0", "no batch is left to train on"),
        ("method._target_=pnp.method.SelfSupervise", "does not exist"),
    ],
)
def test_bad_input_is_a_message_not_a_traceback(compose, monkeypatch, override, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        train(compose(override))


def test_an_unwritable_run_directory_is_named(compose, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the run directory"):
        train(compose(f"run_dir={tmp_path / 'file' / 'run'}"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.max_stepz=3", "did you mean trainer.max_steps"),
        ("objective=no_repulsio", "did you mean objective=no_repulsion"),
        ("views.count=1", "at least 2"),
        ("hydra.run.dir=/proc/nothing", "cannot write to"),
        ("hydra.run.dir='/proc/a b'", "cannot write to"),
    ],
)
def test_the_command_line_explains_mistakes(tmp_path, monkeypatch, capfd, word, message):
    from pnp.cli.train import main
    from pnp.runs.launch import Task

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Task, "called", False)  # by the tests before
    monkeypatch.setattr(sys, "argv", ["pnp-train", *TINY, word])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    errors = capfd.readouterr().err
    assert message in " ".join(errors.split())
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(28, "No space left", "a/last.part"), 2, "write a/last.part: the disk is full"),
        (UserError("too little of it"), 2, "too little of it"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_full_disk_or_a_mistake_ends_in_a_message_and_a_status(
    tmp_path, monkeypatch, capsys, error, status, message
):
    from pnp.runs.launch import launch

    def run(cfg):
        raise error

    monkeypatch.setattr(sys, "argv", ["pnp-train", f"hydra.run.dir={tmp_path}"])
    with pytest.raises(SystemExit) as stopped:
        launch("train", run)
    assert stopped.value.code == status
    assert message in " ".join(capsys.readouterr().err.split())


class Sizes(L.Callback):
    """Norm and largest entry of the gradients that the optimizer has used."""

    def __init__(self):
        self.norms, self.largest = [], []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        grads = [p.grad.flatten() for p in pl_module.student.parameters() if p.grad is not None]
        if grads:
            self.norms.append(float(torch.cat(grads).norm()))
            self.largest.append(float(torch.cat(grads).abs().max()))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_in_mixed_precision_with_a_fused_optimizer(compose, algorithm):
    clip = ("trainer.gradient_clip_val=1e-3", f"+trainer.gradient_clip_algorithm={algorithm}")
    brief = ("trainer.max_epochs=1", "evaluation.test=false", "trainer.precision=bf16-mixed")
    train(compose(*clip, *brief), [sizes := Sizes()])
    values = sizes.norms if algorithm == "norm" else sizes.largest
    assert len(values) >= 3
    assert values == pytest.approx([1e-3] * len(values), rel=1e-3)
