"""Words of a Hydra command line, as its commands take them: today's keys, folders, the order."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from pnp.errors import UserError
from pnp.keys import renamed
from pnp.runs.hints import odd_option, parsed


def prepared(config_name: str, words: Sequence[str]) -> list[str]:
    """The words for Hydra, which is given the folder of the run and names those of a sweep.

    Raises:
        UserError: a word that is no setting, or a folder that cannot be written.
    """
    # Argparse takes no flag between overrides; a stable sort brings -m to the front.
    ordered = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
    taken = understood(ordered)
    if odd := odd_option(taken):
        raise UserError(odd)
    return named_by_what_varies(_run_dir_checked(config_name, taken))


def understood(overrides: Sequence[str]) -> list[str]:
    """Overrides with today's keys, and with csv for no logger: Hydra takes no null for a group."""
    words = renamed(overrides)
    none = {"logger=null", "logger=false", "logger=none", "logger="} & set(words)
    for word in none:
        print(f"{word} means logger=csv: metrics.csv is always written.")
    return ["logger=csv" if word in none else word for word in words]


def named_by_what_varies(arguments: list[str]) -> list[str]:
    """The arguments of a multirun, with folder names of the keys that vary among its jobs.

    A folder of that name with other fixed settings is left alone: a hash is appended then.
    """
    words = [w for w in arguments if w.startswith("~") or ("=" in w and not w.startswith("-"))]
    overrides = [parsed(word) for word in words]
    if None in overrides:
        return arguments
    fixed = [o.key_or_group for o in overrides if not o.is_sweep_override()]
    task = [key for key in fixed if not key.startswith(("hydra.", "hydra/"))]
    varied = len(fixed) < len(overrides) or "sweep" in task
    if not {"-m", "--multirun"} & set(arguments) or not task or not varied:
        return arguments
    left_out = ",".join(f"'{key}'" for key in dict.fromkeys(["resume", "logger", "sweep", *task]))
    return [*arguments, f"hydra.job.config.override_dirname.exclude_keys=[{left_out}]"]


def _run_dir_checked(config_name: str, arguments: list[str]) -> list[str]:
    """The arguments, with a run directory that can be written.

    Hydra makes it before anything of ours runs, and would fail with a traceback. What goes to
    `run_dir=PATH`, or into the run that is evaluated, needs no other directory.
    """
    words = [word.partition("=") for word in arguments if not word.startswith("-")]
    given = {key: value for key, _, value in words}
    many = bool({"-m", "--multirun"} & set(arguments))
    asked = [k for k in ("hydra.run.dir", "hydra.sweep.dir") if k in given]
    if any(word.startswith("-") for word in arguments) and not many:
        return arguments  # --help and its like make no directory
    if not asked and not many and config_name in ("train", "evaluate"):
        run = given.get("run", "").strip("\"'")
        place = given.get("run_dir") or (given["run"] if run and Path(run).is_dir() else "")
        if place:
            arguments = [*arguments, f"hydra.run.dir={place}"]
        given["hydra.run.dir"], asked = place or "runs", ["hydra.run.dir"]
    elif not asked and many:
        given["hydra.sweep.dir"], asked = "runs/sweep", ["hydra.sweep.dir"]
    for key in asked:
        value = given[key].strip("\"'")  # Hydra's own quotes, around a path with spaces
        if "${" in value:
            continue
        try:
            Path(value).mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=value).close()
        except OSError as error:
            raise UserError(
                f"cannot write to {key}={value}: {error.strerror}. Choose another folder: "
                f"{'hydra.sweep.dir' if many else 'hydra.run.dir'}=PATH."
            ) from error
    return arguments
