"""The charts of a comparison: curves, quality against cost, and bands, with their selects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pnp.errors import UserError
from pnp.metrics import describe
from pnp.report.charts import ALL, Select, line_chart, scatter_chart, summarise
from pnp.report.groups import UNSET, Group, natural, short_names, text
from pnp.report.reading import AXES, Curve, Run, describe_curve, split_key
from pnp.report.table import Cell, Column, Table, cell
from pnp.results import OWNERS, REFERENCES

KINDS = {"certified": "certified", "plugin": "plug-in"}
FIRST = ("probe/teacher/knn", "probe/student/knn", "loss/total")  # curves shown at first


class Chart(NamedTuple):
    """A chart of the page: id, heading, explanation, selects and specification."""

    id: str
    heading: str
    explanation: str
    selects: list[Select]
    spec: dict[str, Any]


def filter_selects(tables: Sequence[Table]) -> tuple[list[Select], list[dict[str, Any]]]:
    """Selects for the colour, data sets and shown keys; what charts know of each group."""
    groups = [group for table in tables for group in table.groups]
    keys = dict.fromkeys(
        key for g in groups for key, name in zip(g.keys, g.values, strict=True) if name in g.shown
    )
    columns = {
        name: [text(group.runs[0].flat.get(key, UNSET)) for group in groups]
        for key, name in short_names(list(keys)).items()
    }
    titles = [table.name for table in tables for _ in table.groups]
    if len(tables) > 1:
        columns = {"data set": titles} | columns
    names = list(columns)
    levels = [sorted(set(values), key=natural) for values in columns.values()]
    few = [f"k{i}" for i, values in enumerate(levels) if len(values) <= 10]
    coloured = few[0] if len(groups) > 10 and few and len(tables) == 1 else ALL
    every = [(ALL, "configuration"), *((f"k{i}", name) for i, name in enumerate(names))]
    selects = [Select("colour", "colour by", every, coloured)] if len(names) > 1 else []
    selects += [
        # Only numbers on the same data compare: one data set is shown at first.
        Select(
            f"k{i}",
            name,
            [(ALL, "all"), *((v, v) for v in values)],
            titles[0] if name == "data set" else ALL,
        )
        for i, (name, values) in enumerate(zip(names, levels, strict=True))
    ]
    configurations = [
        {"c": c, "name": " · ".join([title] * bool(title) + group.row), "reference": False}
        | {f"k{i}": values[c] for i, values in enumerate(columns.values())}
        for c, (group, title) in enumerate(zip(groups, titles, strict=True))
    ]
    return selects, configurations


def curve_chart(
    groups: Sequence[Group], configurations: list[dict[str, Any]], filters: list[Select], x: str
) -> list[Chart]:
    """The curves of training, one metric at a time, against steps or another axis.

    Raises:
        UserError: a run did not log that axis.
    """
    keys = list(dict.fromkeys(k for group in groups for run in group.drawn for k in run.curves))
    if not keys:
        return []
    rows = summarise([[run.curves for run in group.drawn] for group in groups], keys)
    for row in rows if x != "step" else []:
        drawn = groups[row["c"]].drawn
        places = [run.along(x, [row["x"]]) for run in drawn]
        if lacking := [run.path for run, at in zip(drawn, places, strict=True) if not at]:
            raise UserError(f"{lacking[0]} did not log {AXES[x][0]}: draw it with --x step.")
        row["x"] = sum(at[0] for at in places if at) / len(drawn)
    labels = []
    for section, name, owner in map(split_key, keys):
        heading = describe_curve(section, name).heading
        words = {"loss": f"loss: {heading}", "probe": f"{heading} during training"}
        of = "" if owner in ("", name) else f", {owner}"
        labels.append(words.get(section, heading) + of)
    first = next((keys.index(key) for key in FIRST if key in keys), 0)
    order = sorted(range(len(keys)), key=lambda i: labels[i].lower())
    select = Select("metric", "show", [(str(i), labels[i]) for i in order], str(first))
    spec = line_chart(rows, configurations, labels, filters, select, x=AXES[x][0])
    text = (
        "Lines are means over the runs of a configuration, ribbons go from the least to the "
        "largest run. Select entries of the legend to bring them forward."
    )
    return [Chart("curves", "Curves", text, [select], spec)]


def trade_off_charts(
    groups: Sequence[Group],
    columns: Sequence[Column],
    configurations: list[dict[str, Any]],
    filters: list[Select],
) -> list[Chart]:
    """Any number against any other: at first quality against cost, and rank against cosine."""
    if not columns:
        return []
    labels = ["images seen", "seconds of training", *(column.title for column in columns)]
    better = {True: 1, False: -1, None: 0}
    signs = [-1, -1, *(better[column.words.higher_is_better] for column in columns)]
    dots = []
    for group, words in zip(groups, configurations, strict=True):
        runs = group.finished.values()
        images = [r.last_step * r.images_per_step for r in runs if r.images_per_step]
        seconds = [r.facts.get("training_seconds") for r in runs]
        costs = [Cell.over(images), Cell.over(s for s in seconds if isinstance(s, int | float))]
        cells = [*costs, *(cell(group, column.key) for column in columns)]
        cells = [c if c and c.mean == c.mean else None for c in cells]
        numbers = {"m": [c and c.mean for c in cells], "h": [c and c.half for c in cells]}
        dots.append(words | numbers)
    if not any(value is not None for dot in dots for value in dot["m"][2:]):
        return []
    options = [(str(i), label) for i, label in enumerate(labels)]

    def chart(id: str, heading: str, text: str, x: int, y: int) -> Chart:
        up = Select(f"{id}up", "show", options, str(y))
        across = Select(f"{id}across", "against", options, str(x))
        spec = scatter_chart(dots, labels, signs, filters, up, across)
        return Chart(id, heading, text, [up, across], spec)

    text = (
        "A dot is the mean over the finished runs of a configuration, a bar its 95 % interval. "
        "The stepped line joins those that no other beats in both numbers."
    )
    cost = 0 if any(dot["m"][0] is not None for dot in dots) else 1
    charts = [chart("trade", "Quality against cost", text, cost, 2)]
    place = {column.words.heading: i for i, column in enumerate(columns, 2) if not column.row}
    cosine, rank = (describe(name).heading for name in ("between_cosine", "effective_rank"))
    if {cosine, rank} <= set(place):
        text = "Up and to the left: classes lie apart, and many axes are in use."
        heading = f"{rank} against {cosine}".capitalize()
        charts.append(chart("space", heading, text, place[cosine], place[rank]))
    return charts


def band_chart(
    groups: Sequence[Group], configurations: list[dict[str, Any]], filters: list[Select]
) -> list[Chart]:
    """Width of the band against the allowed error."""
    runs = [run for group in groups for run in group.finished.values() if run.bands]
    owners = [
        o for o in ("teacher", "student") if any(o in b for r in runs for b in r.bands.values())
    ]
    if not owners:
        return []
    curves = [[band_curves(run, owners[0]) for run in g.finished.values()] for g in groups]
    keys = list(dict.fromkeys(key for group in curves for run in group for key in run))
    if not keys:
        return []
    empty = {key: "" for key in configurations[0] if key[0] == "k"}
    # References belong to the data; over several data sets their mean would mean nothing.
    if len({run.dataset for run in runs}) == 1:
        for owner in (*REFERENCES, "oracle"):
            curves.append([band_curves(run, owner, owners[0]) for run in runs])
            name = {"name": OWNERS.get(owner, owner), "reference": True}
            configurations = [*configurations, {"c": len(configurations)} | empty | name]
    rows = summarise(curves, keys)
    select = Select("band", "concept", [(str(i), key) for i, key in enumerate(keys)], "0")
    spec = line_chart(
        rows, configurations, keys, filters, select, x="allowed error, each side", log=True
    )
    text = (
        "Share of test images answered “uncertain” against the errors allowed on either side, for "
        f"the features of the {owners[0]}."
    )
    return [Chart("bands", "Uncertainty band", text, [select], spec)]


def band_curves(run: Run, owner: str, network: str = "") -> dict[str, Curve]:
    """Widths of one owner by concept and kind; the oracle's are the same for both kinds."""
    curves: dict[str, Curve] = {}
    for kind, word in KINDS.items():
        for concept, answers in run.bands.items():
            answer = answers.get(network if owner == "oracle" else owner, {}).get("curves", {})
            if curve := answer.get("oracle" if owner == "oracle" else kind):
                curves[f"{concept}, {word}"] = (curve["level"], curve["width"])
    return curves
