"""Interactive charts of many runs: Altair specifications, embedded by Vega's own bundle.

The selects of the page (`bound`) are inputs of Vega signals, so no script of ours is needed; with
its expression interpreter (`ast`) Vega runs under a policy that forbids `eval`. Names from run
directories are data in every specification, never part of an expression.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pnp.report.reading import Curve

POINTS = 4000  # of all lines of a chart together: a browser draws them without a pause
LARGEST = 1e15  # anything beyond is drawn as a gap
ALL = "*"
OPTIONS = {"ast": True, "renderer": "svg", "actions": {"export": True, "source": False,
           "compiled": False, "editor": False}}  # fmt: skip
LOOK = {
    "background": None,
    "font": "inherit",
    "view": {"stroke": None},
    "axis": {"domain": False, "ticks": False, "labelPadding": 6, "labelFontSize": 12},
    "axisX": {"grid": False, "titleAnchor": "end", "titleFontWeight": "normal"},
    "title": {"anchor": "start", "fontSize": 14, "offset": 12},
    "legend": {
        "orient": "bottom", "columns": {"expr": "max(1, floor(width / 260))"}, "symbolLimit": 60,
        "symbolType": "stroke", "symbolStrokeWidth": 3, "labelLimit": 320, "labelFontSize": 12,
    },
}  # fmt: skip


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
    rows: list[dict[str, Any]] = []
    for c, runs in enumerate(groups):
        frames = [
            pd.DataFrame({k: pd.Series(y, x, dtype=float) for k, (x, y) in curves.items()})
            for curves in runs
            if curves
        ]
        if not frames:
            continue
        values = pd.concat(frames).reindex(columns=keys)
        values = values.where(values.abs() < LARGEST)
        at = values.groupby(level=0)
        logged = sum(frame.notna().any().reindex(keys, fill_value=False) for frame in frames)
        parts = [part.where(at.count() == logged) for part in (at.mean(), at.min(), at.max())]
        # Too many points become means (and extremes) of equally many neighbours.
        size = math.ceil(len(parts[0]) * len(groups) / POINTS)
        span = np.arange(len(parts[0])) // size
        means, low, high = (
            getattr(part.groupby(span), how)()
            for part, how in zip(parts, ("mean", "min", "max"), strict=True)
        )
        ends = pd.Series(parts[0].index).groupby(span).last()
        for i, x in enumerate(ends):
            row = {"c": c, "x": _digits(x, 8), "m": _list(means.iloc[i])}
            if len(frames) > 1:
                row |= {"l": _list(low.iloc[i]), "h": _list(high.iloc[i])}
            rows.append(row)
    return rows


def line_chart(
    rows: list[dict[str, Any]],
    configurations: list[dict[str, Any]],
    labels: Sequence[str],
    which: str,
    *,
    x: str,
    log: bool = False,
) -> dict[str, Any]:
    """Lines of every configuration with ribbons from the least to the largest run.

    Args:
        rows: see `summarise`.
        configurations: `name`, `k0`, `k1`, … and whether it is a `reference`, in order of `c`.
        labels: of the curves.
        which: id of the select that chooses among them.
        x: title of the x axis.
        log: the x axis is logarithmic.
    """
    data = alt.InlineData([row | configurations[row["c"]] for row in rows])
    base = _base(data, configurations).transform_calculate(
        y=f"datum.m[{which}]", low=f"datum.l && datum.l[{which}]", high=f"datum.h && datum.h[{which}]"
    )
    base = base.transform_filter("isValid(datum.y)")
    own, reference = (
        base.transform_filter(f"{sign}datum.reference") for sign in ("!", "")
    )
    scale = alt.Scale(type="log") if log else alt.Scale(nice=False)
    axis = alt.Axis(title=x, format="~g" if log else "~s", tickCount=5)
    across = alt.X("x:Q", scale=scale, axis=axis)
    up = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    pick, colour = _pick(), _colour()
    tips = [
        alt.Tooltip("name:N", title="configuration"),
        alt.Tooltip("x:Q", title=x, format="~g"),
        alt.Tooltip("y:Q", title="mean", format=".4~g"),
        alt.Tooltip("low:Q", title="least", format=".4~g"),
        alt.Tooltip("high:Q", title="largest", format=".4~g"),
    ]
    ribbon = own.mark_area(tooltip=None).encode(
        across, alt.Y("low:Q", title=None), alt.Y2("high:Q"), colour, detail="c:N",
        opacity=alt.condition(pick, alt.value(0.14), alt.value(0.02)),
    )  # fmt: skip
    line = own.mark_line(strokeWidth=1.8).encode(
        across, up, colour, detail="c:N",
        opacity=alt.condition(pick, alt.value(1), alt.value(0.12)),
    )  # fmt: skip
    near = alt.selection_point(on="pointerover", nearest=True, empty=False, encodings=["x", "y"])
    dots = own.mark_circle(size=50).encode(
        across, up, colour, tooltip=tips,
        opacity=alt.condition(near, alt.value(1), alt.value(0)),
    ).add_params(near)  # fmt: skip
    layers = [_legend(configurations), ribbon, line, dots]
    if any(c["reference"] for c in configurations):
        dashes = alt.StrokeDash("name:N", title="reference")
        layers.append(
            reference.mark_line(color="#8a8a8a", strokeWidth=1.5).encode(across, up, dashes)
        )
    return _spec(layers, f"labels[{which}]", [pick, _bound(which), *_filters(configurations)], labels)


def scatter_chart(
    configurations: list[dict[str, Any]],
    labels: Sequence[str],
    signs: Sequence[int],
    across: str,
    up: str,
) -> dict[str, Any]:
    """A dot for each configuration with half intervals, and the line that no other beats for less.

    Args:
        configurations: as in `line_chart`, with means `m` and half intervals `h` by number.
        labels: of the numbers.
        signs: 1 where more is better, -1 where less is, 0 where neither.
        across, up: ids of the selects that choose among the numbers.
    """
    base = _base(alt.InlineData(configurations), configurations).transform_calculate(
        x=f"datum.m[{across}]", y=f"datum.m[{up}]", half=f"datum.h[{up}] || 0"
    )
    base = base.transform_filter("isValid(datum.x) && isValid(datum.y)").transform_calculate(
        low="datum.y - datum.half", high="datum.y + datum.half",
        cost=f"-signs[{across}] * datum.x", gain=f"signs[{up}] * datum.y",
    )  # fmt: skip
    zero = alt.Scale(zero=False)
    x = alt.X("x:Q", scale=zero, axis=alt.Axis(title=None, format="~s", tickCount=5))
    y = alt.Y("y:Q", scale=zero, title=None)
    pick, colour = _pick(), _colour()
    opacity = alt.condition(pick, alt.value(1), alt.value(0.12))
    frontier = (
        base.transform_filter(f"signs[{across}] && signs[{up}]")
        .transform_window(
            best="max(gain)", frame=[None, -1],
            sort=[alt.SortField("cost"), alt.SortField("gain", order="descending")],
        )
        .transform_filter("!isValid(datum.best) || datum.gain > datum.best")
        .mark_line(interpolate="step-after", color="#8a8a8a", strokeWidth=1, tooltip=None)
        .encode(x, y, order="cost:Q")
    )  # fmt: skip
    bars = base.mark_rule(tooltip=None).encode(
        x, alt.Y("low:Q", title=None), alt.Y2("high:Q"), colour, opacity=opacity
    )
    tips = [
        alt.Tooltip("name:N", title="configuration"),
        alt.Tooltip("x:Q", title="across", format=".4~g"),
        alt.Tooltip("y:Q", title="up", format=".4~g"),
        alt.Tooltip("half:Q", title="± half of its 95 % interval", format=".2~g"),
    ]
    dots = base.mark_circle(size=70).encode(x, y, colour, opacity=opacity, tooltip=tips)
    params = [pick, _bound(across), _bound(up), *_filters(configurations)]
    params.append(alt.param(name="signs", value=list(signs)))
    title = f"labels[{up}] + ' against ' + labels[{across}]"
    return _spec([_legend(configurations), frontier, bars, dots], title, params, labels)


def embed(charts: Mapping[str, dict[str, Any]]) -> list[str]:
    """The scripts of a page: Vega's bundle, and its call for each chart by the id of its place."""
    import vl_convert

    calls = [f"vegaEmbed({encode('#' + id)},{encode(spec)},{encode(OPTIONS)});"
             for id, spec in charts.items()]  # fmt: skip
    return [vl_convert.javascript_bundle(), "\n".join(calls)] if charts else []


def encode(value: Any) -> str:
    """Compact JSON that cannot end the `<script>` element it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _base(data: alt.InlineData, configurations: list[dict[str, Any]]) -> alt.Chart:
    """The rows that the page's filters leave, with the group that colours them."""
    tests = [f"({k} == '{ALL}' || datum.{k} == {k})" for k in _keys(configurations)]
    chart = alt.Chart(data).transform_calculate(group=_GROUP)
    return chart.transform_filter(" && ".join(["true", *tests]) + " || datum.reference")


_GROUP = f"colour == '{ALL}' ? datum.name : datum[colour]"


def _legend(configurations: list[dict[str, Any]]) -> alt.Chart:
    """Nothing to see: all groups, filtered or not, so that each keeps its colour."""
    own = [c for c in configurations if not c["reference"]]
    chart = alt.Chart(alt.InlineData(own)).transform_calculate(group=_GROUP)
    return chart.mark_point(opacity=0, tooltip=None).encode(_colour())


def _colour() -> alt.Color:
    return alt.Color("group:N", title=None, scale=alt.Scale(scheme="tableau10"))


def _pick() -> alt.Parameter:
    return alt.selection_point(name="pick", fields=["group"], bind="legend")


def _bound(id: str) -> alt.Parameter:
    return alt.param(name=id, value="", bind=alt.BindDirect(element=f"#{id}"))


def _keys(configurations: list[dict[str, Any]]) -> list[str]:
    return [key for key in configurations[0] if key[0] == "k" and key[1:].isdigit()]


def _filters(configurations: list[dict[str, Any]]) -> list[alt.Parameter]:
    return [_bound(id) for id in ("colour", *_keys(configurations))]


def _spec(
    layers: list[alt.Chart], title: str, params: list[alt.Parameter], labels: Sequence[str]
) -> dict[str, Any]:
    params = [*params, alt.param(name="labels", value=list(labels))]
    chart = alt.layer(*layers).properties(
        width="container", height=320, title=alt.Title(alt.ExprRef(title))
    )
    return chart.add_params(*params).to_dict() | {"config": LOOK}


def _digits(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else float(f"{value:.{digits}g}")


def _list(values: pd.Series) -> list[float | None]:
    return [_digits(value) for value in values]
