"""`pnp-tune`: search over overrides of `pnp-train`, on validation, with Optuna."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError
from pnp.runs.launch import compose
from pnp.runs.space import override, read_space, suggest
from pnp.signals import Interrupted, requeue

if TYPE_CHECKING:
    import optuna

HELP = """\
pnp-tune: search over any keys of pnp-train, on validation; the same command goes on.

Examples
  pnp-tune tune.space='{optim.lr: {low: 1e-4, high: 1e-2, log: true}}'
  pnp-tune tune.space=space.yaml tune.name=shapes tune.n_trials=50 data=fashion_mnist
  pnp-tune tune.space='{objective: [full, no_repulsion], optim.lr: [0.001, 0.004]}' tune.prune=null

Each trial is a run directory in <tune.dir>/<tune.name>, judged on validation and trained on the
training split only (evaluation.test=false data.pretrain_on=[train]).

"""
# What a search may not see; a value on the command line wins.
BLIND = {"evaluation.test": "false", "data.pretrain_on": "[train]"}


class Pruned(BaseException):
    """The trial lags behind the others. Not an `Exception`: the run has not failed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Console script `pnp-tune`."""
    from pnp.runs import launch

    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(HELP + (launch.conf_dir() / "tune.yaml").read_text())
        return
    from hydra.errors import HydraException

    own = [word.removeprefix("tune.") for word in arguments if word.startswith("tune.")]
    given = [word for word in arguments if not word.startswith("tune.")]
    try:
        status = search(compose("tune", own), given)
    except UserError as error:
        launch.complain(str(error))
        sys.exit(2)
    except HydraException as error:
        launch.complain(str(error))
        launch.hint("train", given)
        sys.exit(2)
    except Interrupted as stop:
        print(f"{stop}; run the same command again to go on.", file=sys.stderr)
        requeue(stop.signum)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        sys.exit(130)
    if status:
        sys.exit(status)


def search(settings: Mapping[str, Any], given: Sequence[str]) -> int:
    """Run trials until there are enough, then say what was found; 1 if nothing was.

    Args:
        settings: `conf/tune.yaml`.
        given: overrides of `pnp-train` for every trial.

    Raises:
        UserError: settings that cannot work, or a study of other settings under this name.
    """
    deadline = time.monotonic() + (settings["timeout"] or float("inf"))
    fixed = [*(f"{k}={v}" for k, v in BLIND.items() if not _mentions(given, k)), *given]
    check(settings)
    present = compose("train", fixed)
    space = read_space(settings["space"], fixed)
    folder = Path(settings["dir"]) / str(settings["name"])
    study = open_study(folder, settings, space, given)
    adopt(study, folder)
    suggester = partial(suggest, space=space, present=present)
    failed = 0
    while counted(study, running=True) < settings["n_trials"] and time.monotonic() < deadline:
        ended = run_trial(study, folder, settings, suggester, fixed)
        failed = failed + 1 if ended == "FAIL" else 0
        if failed == 3 and not _complete(study):
            break
    return conclude(study, folder, given)


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings that would search on test, or not at all.

    Raises:
        UserError: names the key.
    """
    metric, prune = str(settings["metric"]), settings["prune"]
    if not metric.startswith("validation/"):
        raise UserError(
            f"tune.metric={metric}: a search looks at validation only, or the test split is used "
            "up. Give a validation/… metric, for instance validation/knn/teacher."
        )
    if settings["direction"] not in ("maximize", "minimize"):
        raise UserError(f"tune.direction={settings['direction']!r}: choose maximize or minimize.")
    for key, least in (("n_trials", 1), ("timeout", 0)):
        value = settings[key]
        if value is not None and (isinstance(value, str) or value < least):
            raise UserError(f"tune.{key}={value!r}: expected a number, at least {least}.")
    if prune is not None and not str(prune["when"]).startswith(("probe/", "geometry/", "loss/")):
        raise UserError(
            f"tune.prune.when={prune['when']}: give a metric that is logged each epoch, for "
            "instance probe/teacher/knn."
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
    except ImportError as error:
        raise UserError("pnp-tune needs Optuna: pip install 'pnp-ssl[sweeps]'.") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}. Set tune.dir=PATH.") from error
    prune = settings["prune"]
    pruner = optuna.pruners.NopPruner()
    if prune is not None:
        pruner = optuna.pruners.MedianPruner(prune["startup_trials"], prune["warmup_epochs"])
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="pnp",
        direction=settings["direction"],
        pruner=pruner,
        load_if_exists=True,
    )
    asked = {key: settings[key] for key in ("metric", "direction")}
    asked |= {"space": dict(space), "given": list(given)}
    old = study.user_attrs.get("asked", asked)
    if old != asked:
        changed = [f"{key}: {old[key]} -> {asked[key]}" for key in asked if old[key] != asked[key]]
        raise UserError(
            f"the study in {folder} was begun with other settings (there -> now):\n  "
            + "\n  ".join(changed)
            + "\nGive the same, or a new tune.name."
        )
    study.set_user_attr("asked", asked)
    # The trials so far move the seed: a study that goes on must not draw its first points again.
    study.sampler = optuna.samplers.TPESampler(seed=settings["seed"] + len(study.trials))
    return study


def adopt(study: "optuna.Study", folder: Path) -> None:
    """Queue the trials of dead processes again; each goes on in its old run directory."""
    import optuna

    from pnp.runs import jobs

    held = [jobs.Lock(file.parent).owner() for file in folder.glob("*/lock")]
    for old in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        owner, began = old.user_attrs.get("owner"), old.datetime_start or datetime.now()
        age = (datetime.now() - began).total_seconds()
        if owner is None:
            lives = age < 60  # between asking and signing
        else:
            working = f"pid {owner['pid']} on {owner['host']}" in held
            lives = working or jobs.alive(owner, age)
        if not lives:
            study.tell(old.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(old.params, user_attrs={"continues": old.number})


def run_trial(
    study: "optuna.Study",
    folder: Path,
    settings: Mapping[str, Any],
    suggester: Callable[["optuna.Trial"], list[str]],
    fixed: Sequence[str],
) -> str:
    """One trial from asking to telling; how it ended: COMPLETE, PRUNED or FAIL.

    Raises:
        UserError: a finished trial has no such metric.
        Interrupted: stopped by a signal; the trial is queued again.
    """
    import optuna

    from pnp.cli.train import train
    from pnp.runs import jobs

    state = optuna.trial.TrialState
    trial = study.ask()
    trial.set_user_attr("owner", jobs.this_process())
    words = suggester(trial)
    where = folder / f"trial_{trial.number:04}"
    print(f"trial {trial.number}: {' '.join(words)}", flush=True)
    prune = settings["prune"]
    watchers = [] if prune is None else [_watcher(study, trial, prune["when"])]
    metrics, error = {}, None
    try:
        overrides = [*fixed, *words, f"run_dir={where}", "resume=auto"]
        metrics = train(compose("train", overrides, as_job=True), watchers)
    except Pruned:
        study.tell(trial, state=state.PRUNED)
        print(f"trial {trial.number} is stopped: below the median of the others", flush=True)
        return "PRUNED"
    except (Interrupted, KeyboardInterrupt):
        study.tell(trial, state=state.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"continues": trial.number})
        raise
    except Exception as raised:
        error = (
            str(raised) if isinstance(raised, UserError) else f"{type(raised).__name__}: {raised}"
        )
    if error is None and settings["metric"] not in metrics:
        study.tell(trial, state=state.FAIL)
        known = sorted(key for key in metrics if key.startswith("validation/"))
        raise UserError(
            f"tune.metric={settings['metric']} is not in metrics.json. There: {', '.join(known)}."
        )
    if error is not None:
        trial.set_user_attr("error", error)
        study.tell(trial, state=state.FAIL)
        print(f"trial {trial.number} failed: {error}", file=sys.stderr)
        return "FAIL"
    study.tell(trial, metrics[settings["metric"]])
    done = f"{counted(study)}/{settings['n_trials']}"
    print(
        f"trial {trial.number}: {metrics[settings['metric']]:.4f}  best {study.best_value:.4f} "
        f"(trial {study.best_trial.number})  {done}",
        flush=True,
    )
    return "COMPLETE"


def _watcher(study: "optuna.Study", trial: "optuna.Trial", when: str) -> Any:
    """Tells the study how a run does each epoch, and stops it when the pruner says so."""
    import lightning

    class Pruning(lightning.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            before = trial.user_attrs.get("continues")
            earlier = {} if before is None else study.trials[before].intermediate_values
            for epoch, value in earlier.items():
                if epoch < trainer.current_epoch:
                    trial.report(value, epoch)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            value = trainer.callback_metrics.get(when)
            if value is not None:
                trial.report(float(value), trainer.current_epoch)
                if trial.should_prune():
                    raise Pruned

    return Pruning()


def counted(study: "optuna.Study", *, running: bool = False) -> int:
    """Trials that used up their turn: all but those that were interrupted and queued again."""
    names = {"COMPLETE", "PRUNED", *(["RUNNING"] if running else [])}
    return sum(
        t.state.name in names or (t.state.name == "FAIL" and "error" in t.user_attrs)
        for t in study.trials
    )


def _complete(study: "optuna.Study") -> list[Any]:
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    done = [t for t in study.trials if t.state.name == "COMPLETE"]
    return sorted(done, key=lambda t: sign * t.value)  # pyright: ignore[reportOperatorIssue]


def conclude(study: "optuna.Study", folder: Path, given: Sequence[str]) -> int:
    """Print the table, the failures, the report's place and the best overrides as a command."""
    from rich.console import Console
    from rich.table import Table

    from pnp.report import compare_runs

    for trial in study.trials:
        if "error" in trial.user_attrs:
            print(f"trial {trial.number} failed: {trial.user_attrs['error']}", file=sys.stderr)
    done = _complete(study)
    if not done:
        print("no trial was finished", file=sys.stderr)
        return 1
    table = Table("trial", study.user_attrs["asked"]["metric"], "overrides")
    for trial in done[:10]:
        short = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in trial.params.items()}
        words = " ".join(override(*item) for item in short.items())
        table.add_row(str(trial.number), f"{trial.value:.4f}", words)
    console = Console()
    console.print(table)
    pruned = sum(t.state.name == "PRUNED" for t in study.trials)
    print(
        f"{len(done)} trials finished, {pruned} stopped early; report: {compare_runs([folder])[0]}"
    )
    best = [override(key, value) for key, value in done[0].params.items()]
    words = [f"'{w}'" if set(w) & set(" []{}$,") else w for w in ("pnp-train", *given, *best)]
    print("the best on validation; run it with other seeds before you believe it:")
    print("  " + " ".join(words))
    return 0


def _mentions(words: Sequence[str], key: str) -> bool:
    return any(word.lstrip("+").startswith(f"{key}=") for word in words)


if __name__ == "__main__":
    main()
