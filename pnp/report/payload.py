"""What the dashboard's script works on: every run as compact JSON, columns shared, digits cut."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from pnp.report.groups import UNSET, short_names, text
from pnp.report.page import flatten
from pnp.report.panels import FULL_NOTES, NOTES, SECTIONS
from pnp.report.reading import Curve, Run
from pnp.report.single import BAND_COLUMNS
from pnp.report.table import Column, t_quantile

POINTS = 200  # of a curve; longer ones become means of as many steps as it takes
FACTS = ("commit", "machine")
PLACES = {"run_dir", "output_dir", "save_dir", "default_root_dir", "dirpath"}


class Pool:
    """Lists that are stored once, however many runs have them."""

    def __init__(self) -> None:
        self.lists: list[list[Any]] = []
        self._index: dict[tuple[Any, ...], int] = {}

    def add(self, values: Sequence[Any]) -> int:
        """Where the list is kept."""
        at = self._index.setdefault(tuple(values), len(self.lists))
        if at == len(self.lists):
            self.lists.append(list(values))
        return at


class Names:
    """Texts that are stored once and referred to by number."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def add(self, name: str) -> int:
        """The number of the text."""
        return self.index.setdefault(name, len(self.index))


def payload(
    runs: Sequence[Run],
    *,
    ident: Callable[[Run], str],
    link: Callable[[Run], str | None],
    design: dict[str, str],
    columns: Sequence[Column],
    repeated: Sequence[Run],
    baseline: dict[str, str],
    broken: Sequence[tuple[str, str]] = (),
    reload: float | None = None,
) -> str:
    """All runs as JSON for the page's script, safe inside a `<script>` element.

    Args:
        runs: the runs.
        ident: a run's name, unique among them.
        link: a run's own page relative to this one, or None.
        design: the keys that tell configurations apart, in full, with their short names.
        columns: of the table.
        repeated: runs that do not count, because a newer one has the same settings and seed.
        baseline: short name -> value of the configuration to compare with.
        broken: name and message of folders that could not be read.
        reload: seconds between reloads of the page; None for a page that stays.
    """
    settings = [_flat(run) for run in runs]
    every = list(dict.fromkeys(key for own in settings for key in own))
    texts = {key: [text(own.get(key, UNSET)) for own in settings] for key in every}
    varying = [key for key in every if len(set(texts[key])) > 1 and key not in design]
    keys = [*design, *varying]
    names = short_names(keys) | design
    pool, curve_names, final_names = Pool(), Names(), Names()
    levels = {key: list(dict.fromkeys(texts[key])) for key in keys}
    dropped = {id(run) for run in repeated}
    rows = []
    for i, run in enumerate(runs):
        curves = []
        for key, curve in run.curves.items():
            steps, values = bucket(curve)
            xs = pool.add([plain(x) for x in steps])
            curves.append([curve_names.add(key), xs, pool.add([digits(y) for y in values])])
        final: dict[int, Any] = {}
        for key, number in (run.final or {}).items():
            if _kept(key):
                final[final_names.add(key)] = digits(number)
        rows.append(
            {
                "id": ident(run),
                "link": link(run),
                "state": run.state,
                "done": run.final is not None,
                "repeat": id(run) in dropped,
                "data": run.dataset,
                "seed": None if run.seed is None else text(run.seed),
                "step": run.last_step,
                "images": run.images_per_step,
                "seconds": _number(run.facts.get("training_seconds")),
                "alarms": [f"{a.get('kind', 'alarm')}: {a.get('message', '')}" for a in run.alarms],
                "error": run.error[-2000:],
                "config": [levels[key].index(texts[key][i]) for key in keys],
                "curves": curves,
                "final": [list(final), list(final.values())],
                "bands": _bands(run, pool),
            }
        )
    return encode(
        {
            "keys": [[key, names[key], levels[key]] for key in keys],
            "design": len(design),
            "common": {key: texts[key][0] for key in every if key not in keys},
            "curves": list(curve_names.index),
            "finals": list(final_names.index),
            "columns": columns,
            "notes": NOTES | FULL_NOTES,
            "sections": SECTIONS,
            "t95": [None, None, *(digits(t_quantile(n)) for n in range(2, len(runs) + 1))],
            "baseline": list(baseline.values()),
            "broken": list(broken),
            "reload": reload,
            "pool": pool.lists,
            "runs": rows,
        }
    )


def bucket(curve: Curve, limit: int = POINTS) -> Curve:
    """Means of equally many logged steps, at the last of each, so that at most `limit` remain.

    Runs that log at the same steps keep the same steps. A NaN makes its mean a NaN.

    >>> bucket(([1, 2, 3, 4, 5], [1.0, 3.0, 5.0, 7.0, 8.0]), limit=3)
    ([2, 4, 5], [2.0, 6.0, 8.0])
    """
    steps, values = curve
    if len(steps) <= limit:
        return curve
    # The last step stays by itself: it is the run's final value.
    last = len(steps) - 1
    size = math.ceil(last / (limit - 1))
    spans = [slice(i, min(i + size, last)) for i in range(0, last, size)] + [slice(last, None)]
    means = [sum(values[s]) / len(values[s]) for s in spans]
    return [steps[s][-1] for s in spans], means


def digits(value: float) -> float | int | None:
    """Five significant digits; None for what JSON cannot hold.

    >>> digits(0.123456789), digits(702.0), digits(float("nan"))
    (0.12346, 702, None)
    """
    return plain(float(f"{value:.5g}")) if math.isfinite(value) else None


def plain(value: float) -> float | int:
    """A whole number without its `.0`."""
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def encode(value: Any) -> str:
    """Compact JSON that cannot end the `<script>` element it stands in."""
    made = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return made.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _flat(run: Run) -> dict[str, Any]:
    own = {k: v for k, v in flatten(run.config).items() if re.split(r"[./]", k)[-1] not in PLACES}
    return own | {f"run.{key}": run.facts[key] for key in FACTS if key in run.facts}


def _kept(key: str) -> bool:
    """Band details beyond the report's own columns stay in metrics.json."""
    parts = key.removesuffix("/ci_low").removesuffix("/ci_high").split("/", 3)
    return parts[0] != "band" or (len(parts) == 4 and parts[3] in BAND_COLUMNS)


def _number(value: Any) -> float | int | None:
    return digits(value) if isinstance(value, int | float) else None


def _bands(run: Run, pool: Pool) -> dict[str, Any]:
    """Concept -> representation -> kind -> levels and widths, as places in the pool."""
    return {
        concept: {
            name: {
                kind: [pool.add(list(map(digits, curve[part]))) for part in ("level", "width")]
                for kind, curve in answer.get("curves", {}).items()
            }
            for name, answer in answers.items()
        }
        for concept, answers in run.bands.items()
    }
