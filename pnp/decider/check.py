"""Checking a decider on labelled images that came later: do its error budgets still hold?"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pnp.band.inputs import fraction
from pnp.band.monitoring import Monitored, monitor
from pnp.decider.decider import WORDS, Decider
from pnp.decider.fit import counted
from pnp.decider.images import find
from pnp.decider.judge import judge, shifted
from pnp.decider.labels import read_labels
from pnp.errors import UserError
from pnp.files import write_csv

OF = {
    "joint": "images",
    "class_conditional": "images of the class",
    "answered": "images with that answer",
}


def check(
    decider: Decider,
    images: str | Path,
    labels: str | Path | Sequence[str],
    alpha: float,
    out: Path,
) -> tuple[dict[str, str], list[str]]:
    """Follow both budgets over labelled images in their order, and write `check.csv`.

    Args:
        decider: to check.
        images: the folder of the images.
        labels: csv with file and label, in the order in which the images came.
        alpha: chance that a budget that holds is ever called violated, shared by all budgets.
        out: folder of `check.csv`.

    Returns:
        The states of `max_fp` and `max_fn`, in every group if there are any, and lines to print.

    Raises:
        UserError: as `judge` and `read_labels`; or all images were used in fitting.
    """
    fraction(alpha, "alpha")
    given = read_labels(labels, find(images)[1], *decider.columns)
    judged = judge(decider, images, [row.file for row in given.rows])
    labelled = {row.file: row for row in given.rows}
    new = np.flatnonzero(~np.isin(judged.hashes, decider.used))
    if not new.size:
        raise UserError(
            f"images={images}: all {len(judged.names):,} labelled images were used in fitting; "
            "checking needs images that came later."
        )
    names = [judged.names[i] for i in new]
    y = np.array([labelled[name].positive for name in names])
    groups = np.array([labelled[name].group or "" for name in names])
    region = judged.answers.regions[new]
    budgets = decider.facts["budgets"]
    wrong = {"max_fp": (region == 1) & ~y, "max_fn": (region == 0) & y}
    among = counted(budgets["budget"], region, y)
    kinds = np.unique(groups).tolist()
    states: dict[str, str] = {}
    evidence = {key: [""] * len(y) for key in wrong}
    lines = []
    for key, group in itertools.product(wrong, kinds):
        rows = np.flatnonzero(among[key.removeprefix("max_")] & (groups == group))
        name = f"{key} of {group}" if group else key
        if not rows.size:
            states[name] = "not decided"
            lines.append(f"{name}: not decided: no image that it counts among {len(y):,}")
            continue
        found = monitor(wrong[key][rows], budgets[key], alpha / (2 * len(kinds)))
        states[name] = found.state
        for row, value in zip(rows, found.against, strict=True):
            evidence[key][row] = f"{value:.4f}"
        at = None if found.since is None else int(rows[found.since - 1]) + 1
        lines.append(_line(name, found, at, budgets[key], OF[budgets["budget"]]))
    columns = {
        "image": range(1, len(names) + 1),
        "file": names,
        "label": np.where(y, "P", "notP"),
        "answer": [WORDS[answer] for answer in region.tolist()],
        "wrong": (wrong["max_fp"] | wrong["max_fn"]).astype(int),
        "against_fp": evidence["max_fp"],
        "against_fn": evidence["max_fn"],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "check.csv", [columns, *zip(*columns.values(), strict=True)])
    lines.append(
        f"alpha {alpha:g}: the chance that a budget that holds is ever called violated, however "
        "often one looks"
    )
    skipped = len(judged.names) - len(new)
    notes = [f"used in fitting, not counted: {skipped:,} images."] if skipped else []
    notes += [f"unreadable, not counted: {name}: {why}" for name, why in judged.failed]
    return states, [*lines, shifted(decider, judged).sentence, *given.notes, *notes]


def _line(name: str, found: Monitored, at: int | None, level: float, of: str) -> str:
    state = {"holds": "holds", "violated": "VIOLATED"}.get(found.state, found.state)
    since = "" if at is None else f" since image {at:,}"
    rate = found.errors / found.n
    return (
        f"{name}: {state}{since}: {found.errors:,} wrong of {found.n:,} {of} ({rate:.2%}), budget "
        f"{level:.2%}"
    )
