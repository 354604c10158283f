"""Groups of runs: everything in the configuration that differs, except seed, names and places."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pnp.errors import UserError, near
from pnp.keys import NEUTRAL
from pnp.report.reading import Run

# Choices are no machinery here: they name what a run's settings come from.
MACHINERY = (*(key for key in NEUTRAL if key != "choices"), "paths.", "name", "tags")
PLACES = {"output_dir", "save_dir", "default_root_dir", "dirpath"}
UNSET = "unset"
FEW = 4  # keys that are all shown


@dataclass
class Group:
    """Runs of one configuration; only finished ones are counted.

    Args:
        label: `key=value` words.
        values: by short names of the keys that differ between the groups.
        keys: the same keys in full.
        shown: short names of the keys that rows and legends show.
        finished: runs by what pairs them with those of other groups: data, seed, other settings.
        unfinished: runs without final results.
        repeated: runs that a newer one of the same configuration and seed replaces.
    """

    label: str
    values: dict[str, str]
    keys: list[str]
    shown: list[str] = field(default_factory=list)
    finished: dict[tuple[str, ...], Run] = field(default_factory=dict)
    unfinished: list[Run] = field(default_factory=list)
    repeated: list[Run] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return [*self.finished.values(), *self.unfinished, *self.repeated]

    @property
    def row(self) -> list[str]:
        """The values that tell this group from the others, in the order of the keys."""
        return [self.values[name] for name in self.shown] or [self.label]

    @property
    def n(self) -> int:
        """Number of finished runs."""
        return len(self.finished)

    @property
    def drawn(self) -> list[Run]:
        """The runs behind the curves: the finished ones, or all while none has finished."""
        return list(self.finished.values()) or self.unfinished

    @property
    def alarms(self) -> str:
        """The kinds of alarm in the finished runs, with the number of runs they went off in."""
        counts = Counter(
            kind
            for run in self.finished.values()
            for kind in {str(alarm.get("kind", "alarm")) for alarm in run.alarms}
        )
        return ", ".join(f"{kind} ×{n}" for kind, n in sorted(counts.items()))


def group_runs(runs: Sequence[Run], by: Sequence[str] | None = None) -> list[Group]:
    """Runs with the same settings, whatever their seed, in natural order of their labels.

    Args:
        runs: the runs.
        by: keys to group by, in full; by default all that differ.
    """
    differing = differing_keys([settings(run) for run in runs])
    keys = differing if by is None else list(by)
    rest = [key for key in differing if key not in keys]
    names = short_names(keys)
    groups: dict[tuple[str, ...], Group] = {}
    # Of finished runs with one seed the newest counts: a repeat is no further evidence.
    for run in sorted(runs, key=_written):
        values = {names[key]: text(run.flat.get(key, UNSET)) for key in keys}
        group = groups.setdefault(tuple(values.values()), Group("", values, keys))
        if run.metrics is None:
            group.unfinished.append(run)
            continue
        seed = str(run.path if run.seed is None else run.seed)
        pair = (run.dataset, run.test, seed, *(text(run.flat.get(key, UNSET)) for key in rest))
        if pair in group.finished:
            group.repeated.append(group.finished[pair])
        group.finished[pair] = run
    shown = shown_names([group.values for group in groups.values()])
    for group in groups.values():
        group.shown = shown
        group.label = " ".join(f"{name}={group.values[name]}" for name in shown) or "all runs"
        by_seed = sorted(group.finished.items(), key=lambda item: natural(str(item[1].seed)))
        group.finished = dict(by_seed)
    return sorted(groups.values(), key=lambda group: natural(group.label))


def shown_names(values: Sequence[dict[str, str]]) -> list[str]:
    """A few names are all shown; of many those that, one by one, tell most groups apart.

    >>> shown_names([{c: f"{c}{i}" for c in "abcde"} for i in range(3)])
    ['a']
    """
    names, chosen = list(values[0]), list[str]()

    def parts(more: Sequence[str]) -> int:
        return len({tuple(own[name] for name in (*chosen, *more)) for own in values})

    while len(names) > FEW and parts([]) < len(values):
        chosen.append(max(names, key=lambda name: parts([name])))
    return [name for name in names if name in chosen or len(names) <= FEW]


def _written(run: Run) -> float:
    return 0.0 if run.metrics is None else (run.path / "metrics.json").stat().st_mtime


def only_runs(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs that meet every `key=value` (or `key=value,value`); `state` is a key, too.

    Raises:
        UserError: a condition that is none, or that no run meets.
    """
    for condition in conditions:
        word, equals, wanted = condition.partition("=")
        if not equals:
            raise UserError(f"--only {condition}: give KEY=VALUE, as in --only optim.lr=0.004.")
        flat = [run.flat | {"state": run.state} for run in runs]
        key = full_key(word, flat, "--only")
        values = [text(own.get(key, UNSET)) for own in flat]
        accepted = {wanted, *wanted.split(",")}
        if not accepted & set(values):
            seen = ", ".join(sorted(set(values), key=natural)[:8])
            raise UserError(f"--only {condition}: no run has it; {key} is one of {seen}.")
        runs = [run for run, value in zip(runs, values, strict=True) if value in accepted]
    return list(runs)


def full_key(word: str, flat: Sequence[dict[str, Any]], option: str) -> str:
    """The configuration key that `word` names: the whole key, or the end of one key only.

    Raises:
        UserError: no key ends so, or several do.
    """
    keys = dict.fromkeys(key for own in flat for key in own)
    if word in keys:
        return word
    ends = [key for key in keys if key.endswith((f".{word}", f"/{word}"))]
    if len(ends) == 1:
        return ends[0]
    if chosen := [key for key in ends if key.startswith("choices.")]:
        return chosen[0]
    several = f"is the end of {', '.join(ends)}; give one in full." if ends else "is no key."
    raise UserError(f"{option}: {word!r} {several}{'' if ends else near(word, keys)}")


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
        fitting = [g for g in groups if g.label == wanted or words <= set(g.label.split())]
        exact = [g for g in fitting if g.label == wanted] or fitting
        if len(exact) == 1:
            return exact[0]
        some = "; ".join(group.label for group in (fitting or groups)[:8])
        raise UserError(
            f"--baseline {wanted!r} fits {len(fitting)} configurations; "
            f"give the key=value words of one of these: {some}."
        )
    columns = [Counter(values) for values in zip(*(g.values.values() for g in groups), strict=True)]

    def order(group: Group) -> tuple[int, int, list[Any]]:
        shared = sum(c[v] for c, v in zip(columns, group.values.values(), strict=True))
        first = min(natural(str(run.path)) for run in group.runs if run not in group.repeated)
        return (not group.finished, -shared, first)

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
    keys = dict.fromkeys(key for own in settings for key in own)
    columns = {key: tuple(text(own.get(key, UNSET)) for own in settings) for key in keys}
    differing = [key for key in keys if len(set(columns[key])) > 1]
    choices = [key for key in differing if key.startswith("choices.")]
    chosen = list(choices)
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
        same = any(_last(key) == _last(k) and columns[key] == columns[k] for k in chosen)
        if not fixed and not same:
            chosen.append(key)
    return chosen


def settings(run: Run) -> dict[str, Any]:
    """The settings that were trained, as dotted keys: no machinery, no place, no seed."""
    return {
        key: value
        for key, value in run.flat.items()
        if not key.removeprefix("choices.").startswith(MACHINERY)
        and not _last(key).endswith("seed")  # data.seed, data.order_seed: they follow the seed
        and _last(key) not in PLACES
        and not (isinstance(value, str) and str(run.path) in value)
    }


def _last(key: str) -> str:
    return re.split(r"[./]", key)[-1]


def text(value: Any) -> str:
    """A setting as text; equal settings give equal texts."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, float):
        return f"{value:.12g}"  # 0.1 + 0.2 and 0.3 are one setting
    return value if isinstance(value, str) else json.dumps(value, default=str)


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key that puts 2 before 10."""
    parts = re.findall(r"\d+\.?\d*(?:e[+-]?\d+)?|\D+", text)
    return [(0, float(p), "") if p[0].isdecimal() else (1, 0.0, p) for p in parts]
