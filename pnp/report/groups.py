"""Grouping runs: everything in the config that differs, except the seed and where things lie."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pnp.errors import UserError
from pnp.report.page import flatten
from pnp.report.reading import Run

# Names, places and machinery: they tell runs apart without changing what was trained.
IGNORED_TOP = {"seed", "logger", "wandb", "hydra", "paths", "run_dir", "name", "tags", "resume"}
IGNORED_LEAF = {
    *("run_dir", "output_dir", "save_dir", "default_root_dir", "dirpath"),
    *("num_workers", "resident", "resident_limit_gb", "log_every"),
}
UNSET = "unset"


@dataclass
class Group:
    """Runs of one configuration; only finished ones are counted."""

    label: str
    values: dict[str, str]  # by short names of the keys that differ between the groups
    keys: list[str]  # the same keys in full
    finished: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)
    repeated: list[Run] = field(default_factory=list)  # same seed again; the newest one counts
    colour: int = 0
    dash: int = 0

    @property
    def row(self) -> list[str]:
        """The values that tell this group from the others, in the order of the keys."""
        return list(self.values.values()) or [self.label]

    @property
    def seeds(self) -> str:
        """The seeds of the finished runs, in words."""
        return ", ".join(str(run.seed) for run in self.finished)

    @property
    def drawn(self) -> list[Run]:
        """The runs behind the curves: the finished ones, or all while none has finished."""
        return self.finished or self.unfinished


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs with the same settings, whatever their seed, in natural order of their labels."""
    every = [settings(run) for run in runs]
    keys = differing_keys(every)
    names = short_names(keys)
    groups: dict[tuple[str, ...], Group] = {}
    for run, own in zip(runs, every, strict=True):
        values = {names[key]: text(own.get(key, UNSET)) for key in keys}
        label = " ".join(f"{name}={value}" for name, value in values.items()) or "all runs"
        group = groups.setdefault(tuple(values.values()), Group(label, values, keys))
        (group.unfinished if run.final is None else group.finished).append(run)
    for group in groups.values():
        _keep_newest(group)
    ordered = sorted(groups.values(), key=lambda g: natural(g.label))
    _style(ordered)
    return ordered


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last word of every key where it names one key only, else the whole key.

    >>> short_names(["choices.model", "a.lr", "b.lr"])
    {'choices.model': 'model', 'a.lr': 'a.lr', 'b.lr': 'b.lr'}
    """
    shorts = Counter(_last(key) for key in keys)
    return {key: _last(key) if shorts[_last(key)] == 1 else key for key in keys}


def baseline_group(groups: Sequence[Group], wanted: str | None = None) -> Group:
    """The group that others are compared with.

    Unless `wanted` names it (its label, or some of its `key=value` words), it is the one that
    differs from the others in the fewest keys; of several the one whose first run comes first.

    Raises:
        UserError: `wanted` fits no group or several.
    """
    if wanted is not None:
        words = set(wanted.split())
        found = [g for g in groups if g.label == wanted or words <= set(g.label.split())]
        exact = [g for g in found if g.label == wanted] or found
        if len(exact) == 1:
            return exact[0]
        some = "; ".join(group.label for group in (found or groups)[:8])
        raise UserError(
            f"--baseline {wanted!r} fits {len(found)} configurations; "
            f"give the key=value words of one of these: {some}."
        )
    columns = [Counter(values) for values in zip(*(g.values.values() for g in groups), strict=True)]

    def order(group: Group) -> tuple[int, int, list[Any]]:
        shared = sum(c[v] for c, v in zip(columns, group.values.values(), strict=True))
        runs = group.finished + group.unfinished
        return (not group.finished, -shared, min(natural(str(run.path)) for run in runs))

    return min(groups, key=order)


def differing_keys(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that tell runs apart, choices first.

    A key below a differing choice (`objective.weights.x` below `choices.objective`) is left out
    when the choice alone fixes its value; one that varies within a choice stays.

    >>> a = {"choices.model": "small", "model.width": 32, "lr": 1}
    >>> b = {"choices.model": "large", "model.width": 64, "lr": 1}
    >>> differing_keys([a, b]), differing_keys([a, a | {"lr": 2}])
    (['choices.model'], ['lr'])
    """
    every = dict.fromkeys(key for own in settings for key in own)
    columns = {key: tuple(text(own.get(key, UNSET)) for own in settings) for key in every}
    differing = [key for key in every if len(set(columns[key])) > 1]
    choices = [key for key in differing if key.startswith("choices.")]
    kept = list(choices)
    for key in (k for k in differing if k not in choices):
        # An experiment file may set keys anywhere.
        above = [
            choice
            for choice in choices
            if choice == "choices.experiment"
            or f"{key}.".startswith(f"{choice.removeprefix('choices.').replace('/', '.')}.")
        ]
        fixed = any(
            len(set(zip(columns[choice], columns[key], strict=True))) == len(set(columns[choice]))
            for choice in above
        )
        same = any(_last(key) == _last(k) and columns[key] == columns[k] for k in kept)
        if not fixed and not same:
            kept.append(key)
    return kept


def settings(run: Run) -> dict[str, Any]:
    """What was trained, as dotted keys."""
    here = str(run.path)
    own = {}
    for key, value in flatten(run.config).items():
        name = key.removeprefix("choices.")
        if re.split(r"[./]", name)[0] in IGNORED_TOP or _last(key) in IGNORED_LEAF:
            continue
        if _last(key).endswith("seed"):  # data.seed, data.order_seed: they follow the seed
            continue
        if not (isinstance(value, str) and here in value):
            own[key] = value
    return own


def _keep_newest(group: Group) -> None:
    """Of finished runs with one seed keep the newest: a repeat is no further evidence."""
    newest: dict[str, Run] = {}
    for run in sorted(group.finished, key=lambda r: (r.path / "metrics.json").stat().st_mtime):
        key = str(run.seed) if run.seed is not None else str(run.path)
        if key in newest:
            group.repeated.append(newest[key])
        newest[key] = run
    group.finished = sorted(newest.values(), key=lambda r: natural(str(r.seed)))


def _style(groups: list[Group]) -> None:
    """Seven colours, then dashes; with two differing keys colour says one, the dash the other."""
    names = list(groups[0].values)
    levels = [list(dict.fromkeys(g.values[name] for g in groups)) for name in names]
    if len(names) == 2 and min(map(len, levels)) <= 4 and max(map(len, levels)) <= 7:
        hue = 0 if len(levels[0]) >= len(levels[1]) else 1
        for group in groups:
            group.colour = levels[hue].index(group.values[names[hue]])
            group.dash = levels[1 - hue].index(group.values[names[1 - hue]])
    else:
        for i, group in enumerate(groups):
            group.colour, group.dash = i % 7, i // 7 % 4


def _last(key: str) -> str:
    return re.split(r"[./]", key)[-1]


def text(value: Any) -> str:
    """A setting as text; equal settings give equal texts."""
    if isinstance(value, float):
        return f"{value:.12g}"  # 0.1 + 0.2 and 0.3 are one setting
    return value if isinstance(value, str) else json.dumps(value, default=str)


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key that puts 2 before 10."""
    parts = re.findall(r"\d+\.?\d*(?:e[+-]?\d+)?|\D+", text)
    return [(0, float(p), "") if p[0].isdecimal() else (1, 0.0, p) for p in parts]
