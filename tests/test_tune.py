"""The search: on validation only, resumable, every trial a run directory."""

import shlex
from types import SimpleNamespace

import optuna
import pytest
from sqlalchemy.pool import NullPool

from pnp import locks
from pnp.cli import tune
from pnp.errors import UserError
from pnp.runs import processes, search
from pnp.runs.launch import compose
from pnp.signals import Interrupted

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "objective": ["full", "no_repulsion"],
}


@pytest.fixture
def settings(tmp_path):
    return compose("tune", [f"dir={tmp_path}", "name=study", "n_trials=3"]) | {"space": SPACE}


@pytest.fixture
def trained(monkeypatch):
    """Instead of training: the learning rate is the metric, told each of three epochs."""
    calls = []

    def train(cfg, watchers=()):
        calls.append(cfg)
        trainer = SimpleNamespace(callback_metrics={}, current_epoch=0)
        for watcher in watchers:
            watcher.on_train_start(trainer, None)
        for trainer.current_epoch in range(3):
            trainer.callback_metrics["probe/teacher/knn"] = cfg.optim.lr
            for watcher in watchers:
                watcher.on_train_epoch_end(trainer, None)
        return {"validation/knn/teacher": cfg.optim.lr}

    monkeypatch.setattr("pnp.cli.train.train", train)
    monkeypatch.setattr("pnp.report.compare.compare_runs", lambda dirs: ["report.html"])
    return calls


def run_search(settings, given):
    import pnp.cli.train

    return search.search(settings, given, pnp.cli.train.train)


def study_of(settings):
    file = f"sqlite:///{settings['dir']}/study/study.db"
    storage = optuna.storages.RDBStorage(file, {"poolclass": NullPool})  # leaves nothing open
    return optuna.load_study(study_name="pnp", storage=storage)


@pytest.mark.parametrize("metric", ["test/knn/teacher", "band/mean/teacher/width", "reference/x"])
def test_a_metric_of_the_test_split_is_refused(settings, metric):
    with pytest.raises(UserError, match="looks at validation only"):
        run_search(settings | {"metric": metric}, [])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (None, "give a mapping"),
        ({"optim.lrr": [1]}, "optim.lrr"),
        ({"optim.lr": 3}, "expected {low"),
        ({"optim.lr": {"low": 2, "high": 1}}, "low < high"),
        ({"optim.lr": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"optim.lr": {"low": 0, "high": 1, "logg": True}}, "logg is unknown"),
        ("nowhere.yaml", "cannot read tune.space=nowhere.yaml"),
        ({"optim.lr": [{"a": 1}]}, "choices are numbers or words"),
        ({"optim.lr": {"low": float("nan"), "high": 1}}, "expected numbers"),
        ({"optim.lr": {"low": 0.1, "high": 1, "log": 3}}, "log=3: give true or false"),
        ({"optim.lr": {"low": 0.1, "high": 1, "step": 0}}, "step=0: give a number above 0"),
        ({"optim.lr": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}, "and no log"),
        ({"run_dir": ["a"]}, "run_dir cannot be searched"),
        ({1: [1, 2]}, "1 cannot be searched"),
    ],
)
def test_a_space_that_cannot_work_is_a_message(settings, space, message):
    with pytest.raises(UserError, match=message):
        run_search(settings | {"space": space}, [])


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"dir": None}, "tune.dir=None: give a folder"),
        ({"name": {"a": 1}}, "tune.name={'a': 1}: give one name or path"),
        ({"name": "what?"}, "without question marks"),
        ({"seed": -1}, "tune.seed=-1"),
        ({"prune": 3}, "tune.prune=3: expected a section"),
        (
            {"prune": {"when": "probe/main/knn", "startup_trials": "x"}},
            "tune.prune.startup_trials=x",
        ),
    ],
)
def test_settings_that_cannot_work_are_a_message(settings, odd, message):
    with pytest.raises(UserError, match=message):
        run_search(settings | odd, [])


def test_a_folder_may_hold_braces_and_a_step_fractions(settings, trained):
    space = {"optim.lr": {"low": 0.5, "high": 2, "step": 0.5, "log": None}}
    assert run_search(settings | {"name": "{a} o'b", "space": space}, []) == 0
    assert "{a} o'b/trial_0000" in trained[0].run_dir
    assert {cfg.optim.lr % 0.5 for cfg in trained} == {0}


def test_trials_do_not_look_at_test_unless_told_to(settings, trained):
    run_search(settings | {"n_trials": 1}, [])
    assert trained[0].evaluation.test is False
    assert trained[0].data.pretrain_on == ["train"]
    told = settings | {"n_trials": 1, "name": "told"}
    run_search(told, ["data.pretrain_on=[train,validation]"])
    assert trained[1].data.pretrain_on == ["train", "validation"]


def test_the_same_command_goes_on_and_draws_other_points(settings, trained, capsys):
    assert run_search(settings, ["seed=4"]) == 0
    assert run_search(settings, ["seed=4"]) == 0
    assert len(trained) == 3
    assert run_search(settings | {"n_trials": 5}, ["seed=4"]) == 0
    assert len(trained) == 5
    assert len({cfg.optim.lr for cfg in trained}) == 5
    assert all(1e-4 <= cfg.optim.lr <= 1e-2 for cfg in trained)
    best = max(trained, key=lambda cfg: cfg.optim.lr)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:2] == ["pnp-train", "seed=4"]
    again = compose("train", words[1:])
    assert again["optim"]["lr"] == best.optim.lr
    assert again["objective"]["weights"] == best.objective.weights


def test_a_study_of_other_settings_is_not_mixed_up(settings, trained):
    run_search(settings | {"n_trials": 1}, [])
    with pytest.raises(UserError, match=r"given: \[\] -> \['seed=1'\]"):
        run_search(settings, ["seed=1"])


def test_a_trial_below_the_median_is_stopped_and_counted(settings, trained):
    space = {"optim.lr": [0.004, 0.001]}
    prune = {"when": "probe/teacher/knn", "startup_trials": 1, "warmup_epochs": 1}
    seed = 2  # the larger one comes first
    run_search(settings | {"space": space, "n_trials": 12, "prune": prune, "seed": seed}, [])
    trials = study_of(settings).trials
    assert len(trials) == 12
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert pruned
    assert all(t.params["optim.lr"] == 0.001 for t in pruned)
    assert all(list(t.intermediate_values) == [0, 1] for t in pruned)  # epoch 0 is warm-up


def test_an_interrupted_trial_is_done_again_with_the_same_values(settings, trained, monkeypatch):
    import pnp.cli.train as module

    whole = module.train

    def interrupted(cfg, watchers=()):
        raise Interrupted

    monkeypatch.setattr("pnp.cli.train.train", interrupted)
    with pytest.raises(Interrupted):
        run_search(settings, [])
    monkeypatch.setattr("pnp.cli.train.train", whole)
    run_search(settings, [])
    first, second, *_ = study_of(settings).trials
    assert first.params == second.params
    assert second.user_attrs["continues"] == 0
    assert len(trained) == 3
    broken = [cfg.optim.lr for cfg in trained]
    run_search(settings | {"name": "unbroken"}, [])
    assert [cfg.optim.lr for cfg in trained[3:]] == broken


def test_the_trial_of_a_killed_process_is_done_again_and_that_of_a_living_one_not(
    settings, trained, tmp_path
):
    study = search.open_study(tmp_path / "study", settings, SPACE, [])
    life = processes.slurm_life()
    for worker in ("worker-dead.lock", "worker-alive.lock"):
        trial = study.ask()
        trial.set_user_attr("worker", [worker, life])
        search.suggest(trial, SPACE, compose("train", []))
    with locks.lease(tmp_path / "study" / "worker-alive.lock"):
        run_search(settings, [])
    dead, living, again, *_ = study_of(settings).trials
    assert [t.state.name for t in (dead, living, again)] == ["FAIL", "RUNNING", "COMPLETE"]
    assert again.params == dead.params


def test_failures_are_listed_and_three_without_a_success_end_the_search(
    settings, monkeypatch, capsys
):
    def train(cfg, watchers=()):
        raise UserError("the loss is not finite")

    monkeypatch.setattr("pnp.cli.train.train", train)
    assert run_search(settings | {"n_trials": 9}, []) == 1
    assert capsys.readouterr().err.count("the loss is not finite") == 6  # when it fails, and last
    assert len(study_of(settings).trials) == 3


def test_whole_numbers_stay_whole(settings, trained):
    space = {"data.batch_size": {"low": 8, "high": 64}, "objective.margin": {"low": 0, "high": 1}}
    run_search(settings | {"space": space, "n_trials": 2}, [])
    assert all(isinstance(cfg.data.batch_size, int) for cfg in trained)
    assert all(isinstance(cfg.objective.margin, float) for cfg in trained)


def test_a_search_by_the_command_line_leaves_runs_a_report_and_a_command(
    command, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [*command("trainer.max_epochs=1")[3:], "tune.n_trials=2", "tune.name=first"]
    tune.main([*words, "tune.space={optim.lr: {low: 1e-4, high: 1e-2, log: true}}"])
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "tune" / "first"
    assert [p.name for p in sorted(folder.glob("trial_*"))] == ["trial_0000", "trial_0001"]
    assert "validation/knn/teacher" in (folder / "trial_0000" / "metrics.json").read_text()
    assert "test/" not in (folder / "trial_0000" / "metrics.json").read_text()
    assert (folder / "report.html").exists()
    assert "pnp-train logger=csv" in out.splitlines()[-1]
    assert "optim.lr=" in out.splitlines()[-1]


def test_a_mistake_on_the_command_line_is_a_message(capsys):
    with pytest.raises(SystemExit) as stop:
        tune.main(["tune.space={optim.lr: [0.1]}", "trainer.max_stepz=3"])
    assert stop.value.code == 2
    assert "did you mean trainer.max_steps" in " ".join(capsys.readouterr().err.split())
