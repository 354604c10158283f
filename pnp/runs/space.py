"""The search space of `pnp-tune`: ranges and choices for any key of `pnp-train`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError
from pnp.files import read_yaml
from pnp.runs.launch import compose

if TYPE_CHECKING:
    import optuna


def read_space(space: Any, fixed: Sequence[str]) -> dict[str, Any]:
    """The search space, checked against the config.

    Raises:
        UserError: no space, an unknown key, or bounds that make no sense.
    """
    from hydra.errors import HydraException

    if isinstance(space, str):
        if not Path(space).is_file():
            raise UserError(f"cannot read tune.space={space}: it is no file.")
        space = read_yaml(Path(space))
    if not isinstance(space, dict) or not space:
        raise UserError(
            f"tune.space={space!r}: give a mapping from keys of pnp-train to ranges or choices, as "
            "tune.space='{optim.lr: {low: 1e-4, high: 1e-2, log: true}}', or a yaml file with one."
        )
    for key, options in space.items():
        if not isinstance(key, str) or key in ("run_dir", "resume") or key.startswith("hydra."):
            raise UserError(
                f"tune.space: {key} cannot be searched: give keys of pnp-train's config."
            )
        if isinstance(options, list) and options:
            tried = options
            if odd := [value for value in options if isinstance(value, list | dict)]:
                raise UserError(f"tune.space: {key}: {odd[0]!r}: choices are numbers or words.")
        elif isinstance(options, dict) and {"low", "high"} <= options.keys():
            tried = [options["low"], options["high"]]
            _check_range(key, options)
        else:
            raise UserError(
                f"tune.space: {key}: {options!r}: expected {{low: …, high: …}} with an optional "
                "log: true or step: …, or a list of choices."
            )
        for value in tried:
            try:
                compose("train", [*fixed, override(key, value)])
            except HydraException as error:
                raise UserError(f"tune.space: {key}: {error}") from error
    return space


def _check_range(key: str, options: Mapping[str, Any]) -> None:
    low, high = options["low"], options["high"]
    if unknown := options.keys() - {"low", "high", "log", "step"}:
        raise UserError(
            f"tune.space: {key}: {', '.join(sorted(unknown))} is unknown: low, high, log, step."
        )
    numbers = all(_number(v) and math.isfinite(v) for v in (low, high))
    if not numbers or low >= high or (options.get("log") and low <= 0):
        raise UserError(
            f"tune.space: {key}: low={low!r}, high={high!r}: expected numbers with low < high, and "
            "above 0 where log is true."
        )
    log, step = options.get("log") or False, options.get("step")
    if not isinstance(log, bool):
        raise UserError(f"tune.space: {key}: log={log!r}: give true or false.")
    if step is not None and (log or not _number(step) or not 0 < step < math.inf):
        raise UserError(f"tune.space: {key}: step={step!r}: give a number above 0, and no log.")


def suggest(
    trial: "optuna.Trial", space: Mapping[str, Any], present: Mapping[str, Any]
) -> list[str]:
    """The trial's overrides.

    Args:
        trial: asked for every key of the space.
        space: as `read_space` gives it.
        present: the config without them; a range whose ends and present value (if it is not
            `auto`) are whole numbers is one of whole numbers.
    """
    from omegaconf import OmegaConf

    now = OmegaConf.create(dict(present))
    words = []
    for key, options in space.items():
        if isinstance(options, list):
            words.append(override(key, trial.suggest_categorical(key, options)))
            continue
        options = {name: value for name, value in options.items() if value is not None}
        ends = [value for name, value in options.items() if name != "log"]
        if (value := OmegaConf.select(now, key)) != "auto":
            ends.append(value)
        whole = all(isinstance(v, int) for v in ends)
        pick: Any = trial.suggest_int if whole else trial.suggest_float
        words.append(override(key, pick(key, **options)))
    return words


def override(key: str, value: Any) -> str:
    """A word of the command line.

    >>> override("optim.lr", 0.001), override("run_dir", None), override("a", True)
    ('optim.lr=0.001', 'run_dir=null', 'a=true')
    """
    if value is None:
        return f"{key}=null"
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
