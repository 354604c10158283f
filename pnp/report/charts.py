"""Interactive charts of many runs: Altair specifications, embedded by Vega's own bundle.

The selects of the page are inputs of Vega signals, so no script of ours is needed; with its
expression interpreter (`ast`) Vega runs under a policy that forbids `eval`. Names from run
directories are data in every specification, never part of an expression.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from pnp.report.reading import Curve

POINTS = 2000  # of all lines of a chart together: a browser draws them without a pause
LARGEST = 1e15  # anything beyond is a gap
ALL = "*"  # value of a select that leaves everything
DATA = "configurations"
GROUP = f"colour == '{ALL}' ? datum.name : datum[colour]"
GREY = "#8a8a8a"
COLOUR = alt.Color("group:N", title=None, scale=alt.Scale(scheme="tableau10"))
PICK = alt.selection_point(name="pick", fields=["group"], bind="legend")
TICKS = "abs(datum.value) < 1000 ? format(datum.value, '~g') : format(datum.value, '~s')"
OPTIONS = {
    "ast": True, "renderer": "svg",
    "actions": {"export": True, "source": False, "compiled": False, "editor": False},
}  # fmt: skip
LOOK = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {"domain": False, "ticks": False, "labelPadding": 6, "labelFontSize": 12},
    "axisX": {"grid": False, "titleAnchor": "end", "titleFontWeight": "normal"},
    "title": {"anchor": "start", "fontSize": 14, "offset": 12},
    "legend": {
        "orient": "bottom", "columns": {"expr": "max(1, floor(width / 260))"}, "symbolLimit": 60,
        "symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1, "labelLimit": 320,
        "labelFontSize": 12,
    },
}  # fmt: skip


class Select(NamedTuple):
    """A select of the page: its id, label, (value, text) options, and the value at first."""

    id: str
    label: str
    options: list[tuple[str, str]]
    value: str


def summarise(
    groups: Sequence[Sequence[Mapping[str, Curve]]], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Mean, least and largest over the runs of each group, at the x that all of them have.

    Args:
        groups: the curves by key, of every run of every group.
        keys: the curves to draw.

    Returns:
        Rows of a chart: group `c`, `x`, mean `m`, least `l` and largest `h` in the order of `keys`.
    """
    place = {key: i for i, key in enumerate(keys)}
    points = [
        (c, run, place[key], x, y)
        for c, runs in enumerate(groups)
        for run, curves in enumerate(runs)
        for key, curve in curves.items()
        for x, y in zip(*curve, strict=True)
    ]
    logged = pd.DataFrame(points, columns=["c", "run", "key", "x", "y"])
    logged["y"] = logged["y"].where(logged["y"].abs() < LARGEST)
    runs = logged.groupby(["c", "key"])["run"].nunique()
    at = logged.groupby(["c", "x", "key"])["y"].agg(["mean", "min", "max", "count"])
    everywhere = at["count"] == runs.reindex(at.index.droplevel("x")).to_numpy()
    at = at.loc[everywhere, ["mean", "min", "max"]]
    table = at.unstack("key").reindex(columns=range(len(keys)), level="key")
    rows: list[dict[str, Any]] = []
    for c, part in table.groupby(level="c"):
        # Too many points become means (and extremes) of equally many neighbours.
        span = np.arange(len(part)) // math.ceil(len(part) * len(groups) / POINTS)
        ends = part.index.get_level_values("x").to_series().groupby(span).last()
        # Runs that are alone have no ribbon.
        parts = {"m": "mean"} | ({"l": "min", "h": "max"} if len(groups[int(str(c))]) > 1 else {})
        values = {name: part[how].groupby(span).agg(how).to_numpy() for name, how in parts.items()}
        for i, x in enumerate(ends):
            row = {name: [_digits(value) for value in table[i]] for name, table in values.items()}
            rows.append({"c": c, "x": _digits(x, 8)} | row)
    return rows


def line_chart(
    rows: list[dict[str, Any]],
    configurations: list[dict[str, Any]],
    labels: Sequence[str],
    filters: Sequence[Select],
    which: Select,
    *,
    x: str,
    log: bool = False,
) -> dict[str, Any]:
    """Lines of every configuration with ribbons from the least to the largest run.

    Args:
        rows: see `summarise`.
        configurations: `c`, `name`, `k0`, `k1`, … and whether it is a `reference`.
        labels: of the curves.
        filters: of the page.
        which: chooses among the curves.
        x: title of the x axis.
        log: the x axis is logarithmic.
    """
    at = f"[{which.id}]"
    base = _filtered("rows", filters).transform_calculate(
        y=f"datum.m{at}", low=f"datum.l && datum.l{at}", high=f"datum.h && datum.h{at}"
    )
    base = base.transform_filter("isValid(datum.y)")
    span = "format(datum.low, '.4~g') + ' to ' + format(datum.high, '.4~g')"
    base = base.transform_calculate(runs=f"isValid(datum.low) ? {span} : 'one run'")
    own = base.transform_filter("!datum.reference")
    scale = alt.Scale(type="log") if log else alt.Scale(nice=False)
    marks = [m * 10**k for k in range(-6, 1) for m in (1, 2, 5)] if log else alt.Undefined
    axis = alt.Axis(title=x, labelExpr=TICKS, tickCount=5, values=marks)
    across = alt.X("x:Q", scale=scale, axis=axis)
    up = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    tips = [
        alt.Tooltip("name:N", title="configuration"),
        alt.Tooltip("x:Q", title=x, format="~g"),
        alt.Tooltip("y:Q", title="mean", format=".4~g"),
        alt.Tooltip("runs:N"),
    ]
    near = alt.selection_point(name="near", on="pointerover", empty=False, fields=["c", "x"])
    layers = [
        _legend(),
        own.mark_area(tooltip=None).encode(
            across, alt.Y("low:Q", title=None), alt.Y2("high:Q"), COLOUR, detail="c:N",
            opacity=alt.condition(PICK, alt.value(0.14), alt.value(0.02)),
        ),
        own.mark_line(strokeWidth=1.8, tooltip=None).encode(
            across, up, COLOUR, detail="c:N",
            opacity=alt.condition(PICK, alt.value(1), alt.value(0.1)),
        ),
        own.mark_circle(size=60).encode(
            across, up, COLOUR, tooltip=tips,
            opacity=alt.condition(near, alt.value(1), alt.value(0)),
        ).add_params(near),
    ]  # fmt: skip
    if any(c["reference"] for c in configurations):
        lines = base.transform_filter("datum.reference").mark_line(color=GREY, strokeWidth=1.5)
        layers.append(lines.encode(across, up, alt.StrokeDash("name:N", title=None)))
    data = {"rows": rows, DATA: configurations}
    return _spec(layers, f"labels{at}", [*filters, which], {"labels": labels}, data)


def scatter_chart(
    configurations: list[dict[str, Any]],
    labels: Sequence[str],
    signs: Sequence[int],
    filters: Sequence[Select],
    up: Select,
    across: Select,
) -> dict[str, Any]:
    """A dot for each configuration with half intervals, and the line that no other beats.

    Args:
        configurations: as in `line_chart`, with means `m` and half intervals `h` by number.
        labels: of the numbers.
        signs: 1 where more is better, -1 where less is, 0 where neither.
        filters: of the page.
        up: chooses the number of the y axis.
        across: chooses that of the x axis.
    """
    base = _filtered(DATA, filters).transform_calculate(
        x=f"datum.m[{across.id}]", y=f"datum.m[{up.id}]", half=f"datum.h[{up.id}] || 0"
    )
    base = base.transform_filter("isValid(datum.x) && isValid(datum.y)").transform_calculate(
        low="datum.y - datum.half", high="datum.y + datum.half",
        cost=f"-signs[{across.id}] * datum.x", gain=f"signs[{up.id}] * datum.y",
    )  # fmt: skip
    zero = alt.Scale(zero=False, padding=12)
    x = alt.X("x:Q", scale=zero, axis=alt.Axis(title=None, labelExpr=TICKS, tickCount=5))
    y = alt.Y("y:Q", scale=zero, title=None)
    opacity = alt.condition(PICK, alt.value(1), alt.value(0.1))
    order: list[Any] = [alt.SortField("cost"), alt.SortField("gain", order="descending")]
    frontier = (
        base.transform_filter(f"signs[{across.id}] && signs[{up.id}]")
        .transform_window(best="max(gain)", frame=[None, 0], sort=order)
        .transform_window(before="lag(best)", sort=order)
        .transform_filter("!isValid(datum.before) || datum.gain > datum.before")
        .mark_line(interpolate="step-after", color=GREY, strokeWidth=1, tooltip=None)
        .encode(x, y, order="cost:Q")
    )
    bars = base.mark_rule(tooltip=None).encode(
        x, alt.Y("low:Q", title=None), alt.Y2("high:Q"), COLOUR, opacity=opacity
    )
    tips = [
        alt.Tooltip("name:N", title="configuration"),
        alt.Tooltip("x:Q", title="across", format=".4~g"),
        alt.Tooltip("y:Q", title="up", format=".4~g"),
        alt.Tooltip("half:Q", title="± half of its 95 % interval", format=".2~g"),
    ]
    dots = base.mark_circle(size=80).encode(x, y, COLOUR, opacity=opacity, tooltip=tips)
    title = f"labels[{up.id}] + ' against ' + labels[{across.id}]"
    values = {"signs": signs, "labels": labels}
    layers = [_legend(), frontier, bars, dots]
    return _spec(layers, title, [*filters, up, across], values, {DATA: configurations})


def embed(charts: Mapping[str, dict[str, Any]]) -> list[str]:
    """The scripts of a page: Vega's bundle, and its call for each chart by the id of its place."""
    calls = [
        f"vegaEmbed({encode(f'#{id}')},{encode(spec)},{encode(OPTIONS)});"
        for id, spec in charts.items()
    ]
    return [_bundle(), "\n".join(calls)] if charts else []


@cache
def _bundle() -> str:
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed")


def encode(value: Any) -> str:
    """Compact JSON that cannot end the `<script>` element it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _filtered(data: str, filters: Sequence[Select]) -> alt.Chart:
    """The rows that the page's filters leave, with the group that colours them."""
    keys = [select.id for select in filters if select.id != "colour"]
    chart = alt.Chart(alt.NamedData(data))
    if data != DATA:
        names = alt.LookupData(alt.NamedData(DATA), "c", ["name", "reference", *keys])
        chart = chart.transform_lookup("c", names)
    tests = [f"({key} == '{ALL}' || datum.{key} == {key})" for key in keys]
    chart = chart.transform_calculate(group=GROUP)
    return chart.transform_filter(" && ".join(["true", *tests]) + " || datum.reference")


def _legend() -> alt.Chart:
    """Nothing to see: all groups, filtered or not, so that each keeps its colour."""
    chart = alt.Chart(alt.NamedData(DATA)).transform_filter("!datum.reference")
    chart = chart.transform_calculate(group=GROUP)
    return chart.mark_point(opacity=0, tooltip=None).encode(COLOUR)


def _spec(
    layers: list[Any],
    title: str,
    selects: Sequence[Select],
    values: Mapping[str, Sequence[Any]],
    data: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    params = [PICK, *(alt.param(name=name, value=list(value)) for name, value in values.items())]
    params += [
        alt.param(name=s.id, value=s.value, bind=alt.BindDirect(element=f"#{s.id}"))
        for s in selects
    ]
    if not any(select.id == "colour" for select in selects):
        params.append(alt.param(name="colour", value=ALL))
    words = alt.Title(alt.ExprRef(title))
    chart = alt.layer(*layers).properties(width="container", height=320, title=words)
    # Data by name, put in afterwards: Altair would copy it for every layer.
    return chart.add_params(*params).to_dict() | {"config": LOOK, "datasets": data}


def _digits(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else float(f"{value:.{digits}g}")
