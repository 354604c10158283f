"""The search of `pnp-tune`: an Optuna study whose trials are run directories."""

import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp import locks
from pnp.errors import UserError, choice, number, whole
from pnp.results import logged_best
from pnp.runs.config import mapping, plain, quoted, words
from pnp.runs.directory import check_images
from pnp.runs.launch import compose
from pnp.runs.processes import is_earlier_life, slurm_life
from pnp.runs.space import override, read_space, suggest
from pnp.signals import Interrupted

if TYPE_CHECKING:
    import optuna

# A search may not see the test split; a value on the command line wins.
BLIND = {"evaluation.test": "false", "data.pretrain_on": "[train]"}


class Pruned(BaseException):
    """The trial lags behind the others. Not an `Exception`: the run has not failed."""


class Failed(Exception):
    """The training of a trial failed; the search goes on."""


def search(
    settings: Mapping[str, Any], given: Sequence[str], train: Callable[..., dict[str, float]]
) -> int:
    """Run trials until there are enough, then print the result; 1 if no trial was finished.

    Args:
        settings: `conf/tune.yaml`.
        given: overrides of `pnp-train` for every trial.
        train: (config, callbacks) -> metrics, for each trial.

    Raises:
        UserError: settings that cannot work, or a study of other settings under this name.
        pnp.signals.Interrupted: stopped by a signal; the trial is queued again.
    """
    keys = {word.lstrip("+").partition("=")[0] for word in given}
    fixed = [*(f"{key}={value}" for key, value in BLIND.items() if key not in keys), *given]
    settings = dict(settings)
    check(settings)
    present = compose("train", fixed)
    space = read_space(settings["space"], fixed)
    folder = Path(settings["dir"]) / settings["name"]
    study = open_study(folder, settings, space, given)
    if not any(key.startswith("data") for key in space):
        for begun in sorted(folder.glob("trial_*/splits.json"))[:1]:
            now = plain(compose("train", fixed, as_job=True))
            check_images(begun.parent, now, instead="begin another search with tune.name=NAME")
    adopt(study, folder)
    worker = f"worker-{secrets.token_hex(4)}.lock"

    def objective(trial: "optuna.Trial") -> float:
        trial.set_user_attr("worker", [worker, slurm_life()])
        study.sampler = sampler(study, trial, settings["seed"])
        drawn = suggest(trial, space, present)
        print(f"trial {trial.number}: {' '.join(drawn)}", flush=True)
        place = [f"run_dir={quoted(folder / f'trial_{trial.number:04}')}", "resume=auto"]
        cfg = compose("train", [*fixed, *drawn, *place], as_job=True)
        return run_trial(study, trial, settings, lambda callbacks: train(cfg, callbacks))

    def stop_when_done(study: "optuna.Study", trial: Any) -> None:
        failures = ["error" in t.user_attrs for t in study.trials[-3:]]
        hopeless = len(failures) == 3 and all(failures) and not finished_trials(study)
        if hopeless or counted(study, running=True) >= settings["n_trials"]:
            study.stop()

    if counted(study, running=True) < settings["n_trials"]:
        with locks.lease(folder / worker):
            study.optimize(
                objective,
                timeout=settings["timeout"] or None,
                catch=Failed,
                callbacks=[stop_when_done],
            )
    return conclude(study, folder, given)


def check(settings: dict[str, Any]) -> None:
    """Refuse settings that would search on test, or not at all; names become text.

    Raises:
        UserError: names the key.
    """
    words(settings, "dir", "name", where="tune.")
    for key in ("dir", "name"):
        if not settings[key] or "?" in settings[key]:
            raise UserError(f"tune.{key}={settings[key]}: give a folder, without question marks.")
    metric, prune = str(settings["metric"]), settings["prune"]
    if not metric.startswith("validation/"):
        raise UserError(
            f"tune.metric={metric}: a search looks at validation only, or the test split is used "
            "up. Give a validation/… metric, for instance validation/knn/main."
        )
    choice("tune.direction", settings["direction"], ("maximize", "minimize"))
    whole("tune.n_trials", settings["n_trials"])
    whole("tune.seed", settings["seed"], 0, 2**31)
    if settings["timeout"] is not None:
        number("tune.timeout", settings["timeout"], 0)
    if prune is None:
        return
    prune = mapping("tune.prune", prune)
    for key in ("startup_trials", "warmup_epochs"):
        whole(f"tune.prune.{key}", prune.get(key), 0)
    if not str(prune.get("when")).startswith(("probe/", "geometry/", "loss/")):
        raise UserError(
            f"tune.prune.when={prune.get('when')}: give a metric that is logged each epoch, for "
            "instance probe/main/knn."
        )


def open_study(
    folder: Path, settings: Mapping[str, Any], space: Mapping[str, Any], given: Sequence[str]
) -> "optuna.Study":
    """The study in `folder/study.db`, new or as it was left.

    Raises:
        UserError: Optuna is missing, or the study was begun with other settings.
    """
    try:
        import optuna
        from sqlalchemy.pool import NullPool
    except ImportError as error:
        raise UserError("pnp-tune needs Optuna: pip install 'pnp-ssl[sweeps]'.") from error

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}. Set tune.dir=PATH.") from error
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if prune := settings["prune"]:
        pruner = optuna.pruners.MedianPruner(prune["startup_trials"], prune["warmup_epochs"])
    place = str(folder / "study.db").replace("{", "{{").replace("}", "}}")  # Optuna's template
    # No pool: a connection is closed after its use, not when the garbage collector finds it.
    storage = optuna.storages.RDBStorage(f"sqlite:///{place}", {"poolclass": NullPool})
    study = optuna.create_study(
        storage=storage,
        study_name="pnp",
        direction=settings["direction"],
        pruner=pruner,
        load_if_exists=True,
    )
    asked = {"metric": settings["metric"], "direction": settings["direction"],
             "space": dict(space), "given": list(given)}  # fmt: skip
    old = study.user_attrs.get("asked", asked)
    if old != asked:
        changed = [f"{key}: {old[key]} -> {asked[key]}" for key in asked if old[key] != asked[key]]
        raise UserError(
            f"the study in {folder} was begun with other settings (there -> now):\n  "
            + "\n  ".join(changed)
            + "\nGive the same, or a new tune.name."
        )
    study.set_user_attr("asked", asked)
    return study


def sampler(study: "optuna.Study", trial: "optuna.Trial", seed: int) -> Any:
    """The sampler of one trial, of its own seed: its number without those that were interrupted.

    So a search that is stopped and goes on draws the points that an unbroken one draws.
    """
    import optuna

    again = sum(t.state.name == "FAIL" and "error" not in t.user_attrs
                for t in study.trials[: trial.number])  # fmt: skip
    return optuna.samplers.TPESampler(seed=seed + trial.number - again)


def adopt(study: "optuna.Study", folder: Path) -> None:
    """Queue the trials of dead processes again; each resumes in its old run directory."""
    import optuna

    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        worker, life = trial.user_attrs.get("worker", (None, None))
        if worker is None:  # its process has just asked for it, or is of an earlier version
            age = datetime.now() - (trial.datetime_start or datetime.now())
            dead = age.total_seconds() > 60
        elif not (dead := is_earlier_life(life)):
            lock = locks.lease(folder / worker)
            dead = locks.acquire(lock) is None
            lock.release()
        if dead:
            queue_again(study, trial)


def queue_again(study: "optuna.Study", trial: Any) -> None:
    """End a trial that was interrupted; another one with its values continues its run."""
    import optuna

    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={"continues": trial.number})


def run_trial(
    study: "optuna.Study",
    trial: "optuna.Trial",
    settings: Mapping[str, Any],
    train: Callable[[list[Any]], dict[str, float]],
) -> float:
    """Train one trial and give its metric.

    Raises:
        optuna.TrialPruned: the trial is below the median of the others.
        Failed: the training failed; the trial keeps the message.
        UserError: a finished trial has no such metric.
        Interrupted: stopped by a signal; the trial is queued again.
    """
    import optuna

    metric, prune = settings["metric"], settings["prune"]
    try:
        metrics = train([] if prune is None else [_pruning(study, trial, prune["when"])])
    except Pruned:
        print(f"trial {trial.number} is stopped: below the median of the others", flush=True)
        raise optuna.TrialPruned from None
    except (Interrupted, KeyboardInterrupt) as stop:
        queue_again(study, trial)
        raise stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT) from stop
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        trial.set_user_attr("error", text)
        print(f"trial {trial.number} failed: {text}", file=sys.stderr)
        raise Failed(text) from error
    found = logged_best(metrics, metric)
    if found is None:
        present = sorted(key for key in metrics if key.startswith("validation/"))
        raise UserError(
            f"tune.metric={metric} is not in metrics.json. There: {', '.join(present)}."
        )
    choose = max if settings["direction"] == "maximize" else min
    best = choose([found[1], *(t.value for t in finished_trials(study))])
    count = f"{counted(study) + 1}/{settings['n_trials']}"
    print(f"trial {trial.number}: {found[1]:.4f}  best {best:.4f}  {count}", flush=True)
    return found[1]


def _pruning(study: "optuna.Study", trial: "optuna.Trial", when: str) -> Any:
    """A callback that reports each epoch to the study and stops the run when the pruner says so."""
    import lightning

    class Pruning(lightning.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if (before := trial.user_attrs.get("continues")) is not None:
                for epoch, value in study.trials[before].intermediate_values.items():
                    if epoch < trainer.current_epoch:
                        trial.report(value, epoch)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            found = logged_best(trainer.callback_metrics, when)
            if found is not None:
                trial.report(found[1], trainer.current_epoch)
                if trial.should_prune():
                    raise Pruned

    return Pruning()


def counted(study: "optuna.Study", *, running: bool = False) -> int:
    """Number of trials, without those that were interrupted and queued again."""
    names = {"COMPLETE", "PRUNED", *(["RUNNING"] if running else [])}
    return sum(
        t.state.name in names or (t.state.name == "FAIL" and "error" in t.user_attrs)
        for t in study.trials
    )


def finished_trials(study: "optuna.Study") -> list[Any]:
    """Finished trials, the best one first."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    done = [t for t in study.trials if t.state.name == "COMPLETE"]
    return sorted(done, key=lambda t: sign * t.value)  # pyright: ignore[reportOperatorIssue]


def conclude(study: "optuna.Study", folder: Path, given: Sequence[str]) -> int:
    """Print the table, the failures, the report's place and the best overrides as a command."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pnp.report.compare import compare_runs

    for trial in study.trials:
        if "error" in trial.user_attrs:
            print(f"trial {trial.number} failed: {trial.user_attrs['error']}", file=sys.stderr)
    done = finished_trials(study)
    if not done:
        print("no trial was finished", file=sys.stderr)
        return 1
    table = Table("trial", study.user_attrs["asked"]["metric"], "overrides")
    for trial in done[:10]:
        short = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in trial.params.items()}
        point = " ".join(override(*item) for item in short.items())
        table.add_row(str(trial.number), f"{trial.value:.4f}", Text(point))
    Console().print(table)
    pruned = sum(t.state.name == "PRUNED" for t in study.trials)
    page = compare_runs([folder])[0]
    print(f"{len(done)} trials finished, {pruned} stopped early; report: {page}")
    best = [override(key, value) for key, value in done[0].params.items()]
    command = [f"'{w}'" if set(w) & set(" []{}$,") else w for w in ("pnp-train", *given, *best)]
    print("the best on validation; run it with other seeds before you believe it:")
    print("  " + " ".join(command))
    return 0
