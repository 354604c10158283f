"""The report of one run: `report.html` in its directory, without any script."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pnp.band.allowed import min_calibration_size
from pnp.band.inputs import Budgets
from pnp.band.planning import plan
from pnp.errors import UserError
from pnp.files import flatten, read_json
from pnp.metrics import Metric, describe
from pnp.report.groups import text
from pnp.report.multiples import Panel, panels
from pnp.report.page import markdown_table, measure, render, save
from pnp.report.reading import AXES, Run, read_run
from pnp.results import MEAN, NETWORKS, OWNERS, REFERENCES, Row, find, main_network

SHEETS = {"views", "band_images"}  # photographs: their colours stay in dark mode
MIME = {".svg": "image/svg+xml", ".png": "image/png"}
# Of a band; metrics.json holds the others.
BAND_METRICS = (
    "width", "plugin", "oracle/width", "err/fp_joint", "err/fp_ucb", "err/fn_joint", "err/fn_ucb",
    "rank/auroc", "sel/augrc", "oracle/erased", "oracle/recall",
)  # fmt: skip
TITLE_KEYS = ("method", "objective", "data", "model")
SECTIONS = {
    "loss": "Loss terms",
    "gradient": "Terms in the gradient at the embeddings",
    "geometry": "Geometry of the embeddings",
    "probe": "Probes during training",
    "band": "Uncertainty band",
    "optim": "Optimisation",
    "speed": "Speed",
}


class Grid(NamedTuple):
    """A table of results: the words of its columns and rows (name, is a reference, cells)."""

    heading: str
    head: list[Metric]
    body: list[tuple[str, bool, list[Row | None]]]


class Picture(NamedTuple):
    """A picture as a data URI with its caption and CSS classes: `wide`, `sheet`."""

    uri: str
    caption: str
    css: str


def write_report(run_dir: Path, out: Path | None = None, x: str = "step") -> Path:
    """Write the self-contained page of one run and return its path.

    Args:
        run_dir: a run directory; files that are not there yet are left out of the page.
        out: the file to write; `run_dir/report.html` by default.
        x: what curves are drawn against, of `reading.AXES`.

    Raises:
        UserError: a file of the run is missing or broken, or the page cannot be written.
    """
    import yaml

    run = read_run(Path(run_dir))
    facts = {k: text(v) for k, v in flatten(run.facts).items() if k != "protocol"}
    band = run.part("evaluation").get("band")
    silence = band_silence(run.rows, Budgets(**band)) if isinstance(band, dict) else ""
    warned = band_alarms(run.bands)
    if silence:  # it says the same
        warned = [alarm for alarm in warned if not alarm[0].startswith("too few")]
    page = render(
        "run.html",
        title=run_title(run),
        summary=summary(run),
        run=run,
        path=str(run.path.resolve()),
        finals=final_grids(run.rows),
        bands=band_grids(run.rows),
        band_range=band_range(run),
        band_silence=silence,
        band_alarms=warned,
        alarms=reasons([alarm_words(alarm) for alarm in run.alarms]),
        gaps=reasons([(str(reason), what) for what, reason in run.gaps.items()]),
        details=detail_grids(run.rows),
        rest=find(run.rows, kind="other"),
        sections=sections(run, x),
        axis=AXES[x][0],
        pictures=pictures(run.path / "figures"),
        protocol=run.facts.get("protocol", ""),
        facts=facts,
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
    return save(Path(out) if out else run.path / "report.html", page)


def run_title(run: Run) -> str:
    """Method, objective, data, model and seed, as far as the config names them."""
    named = [run.part("choices").get(key, run.config.get(key)) for key in TITLE_KEYS]
    words = [str(name) for name in named if isinstance(name, str | int)]
    words += [f"seed {run.seed}"] if run.seed is not None else []
    return "\N{NO-BREAK SPACE}· ".join(words) or run.path.resolve().name


def main_owner(run: Run) -> str:
    """The network that the run hands out: chosen on validation, else the first one judged."""
    present = {row.owner for row in find(run.rows, data="", split="test")}
    chosen = (run.facts.get("main") or main_network(run.rows) or {}).get("network")
    return next((owner for owner in (chosen, *NETWORKS) if owner in present), "")


def summary(run: Run) -> str:
    """One sentence: what the main network reaches, against references and the other network."""
    owner = main_owner(run)
    probes = find(run.rows, kind="probe", data="", split="test")
    for metric in ("linear", "knn", "views"):
        rows = {row.owner: row for row in probes if row.metric == metric}
        if owner in rows:
            break
    else:
        return ""
    own = rows[owner]
    share = {name: f"{measure(row.value, 'share')} %" for name, row in rows.items()}
    clear, close = list[str](), list[str]()
    for name in (name for name in REFERENCES if name in rows):
        value = rows[name].value
        place = "the untrained network" if name == "random" else OWNERS[name]
        if own.low is not None and own.high is not None and own.low <= value <= own.high:
            close.append(f"{place} ({share[name]})")
        else:
            side = "above" if own.value > value else "below"
            clear.append(f"{100 * abs(own.value - value):.1f} points {side} {place}")
    parts = [f"{owner.capitalize()}: {share[owner]} {describe(metric).heading}"]
    parts += [" and ".join(clear)] if clear else []
    parts += [f"not clearly different from {' or '.join(close)}"] if close else []
    sentence = ", ".join(parts)
    for name in (name for name in NETWORKS if name in rows and name != owner):
        lags = " lags" * (own.low is not None and rows[name].value < own.low)
        sentence += f"; the {name}{lags}: {share[name]}"
    return f"{sentence}."


def band_range(run: Run) -> str:
    """One sentence: from which to which concept the certified bands of the main network go."""
    rows = find(run.rows, kind="band", data="", owner=main_owner(run), metric="width")
    rows = sorted((r for r in rows if r.concept != MEAN), key=lambda row: row.value)
    if len(rows) < 2:
        return ""
    low, high = (f"{measure(row.value, 'share')} %" for row in (rows[0], rows[-1]))
    span = f"from {low} (“{rows[0].concept}”) to {high} (“{rows[-1].concept}”)"
    span = span if low != high else f"all {low}"
    return f"{len(rows)} concepts; certified bands of the {rows[0].owner}: {span}."


def band_silence(rows: Sequence[Row], budgets: Budgets) -> str:
    """Sentences on concepts without an answer for want of calibration images: how many it takes."""
    bands = find(rows, kind="band", data="")
    allowed: dict[str, set[float]] = {}
    for row in bands:
        if row.metric in ("thr/k_fp", "thr/k_fn"):
            allowed.setdefault(row.concept, set()).add(row.value)
    silent = [concept for concept, counts in allowed.items() if counts == {-1}]
    if not silent or budgets.budget == "answered":
        return ""
    level, delta, method = min(budgets.max_fp, budgets.max_fn), budgets.delta, budgets.method
    need = min_calibration_size(level, delta, method)
    sizes = plan(range(need, 9 * need, need), level, level, delta, method)
    half = next(row.n for row in sizes if row.fp >= level / 2)
    own = max(row.value for row in bands if row.metric == "data/n_calib" and row.concept in silent)
    each = "" if budgets.budget == "joint" else " of each side"
    of = "" if len(silent) == len(allowed) else f" of {len(silent)} of {len(allowed)} concepts"
    return (
        f"The certified bands{of} say nothing, whatever the network: {own:,.0f} calibration images "
        f"are too few. A budget of {100 * level:.3g} % at delta {delta:g} needs {need:,} of them"
        f"{each} for the first answer, and about {half:,} to use half of it; data.calibration sets "
        "their number. The plug-in bands, which guarantee nothing, compare networks meanwhile."
    )


def band_alarms(bands: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Warnings of the bands' evaluation, one for each reason, and where they hold."""
    answers = {
        (concept, OWNERS.get(owner, str(owner))): answer
        for concept, owners in bands.items()
        for owner, answer in owners.items()
    }
    warned = reasons(
        [
            (alarm, f"{concept} ({name})")
            for (concept, name), answer in answers.items()
            for alarm in answer.get("alarms", [])
        ]
    )
    everywhere = f"all concepts ({', '.join(dict.fromkeys(name for _, name in answers))})"
    return [
        (message, [everywhere] if len(places) == len(answers) and len(bands) > 1 else places)
        for message, places in warned
    ]


def alarm_words(alarm: dict[str, Any]) -> tuple[str, str]:
    """Text of an alarm of training, and the network and step it is about."""
    kind, message = alarm.get("kind", "alarm"), alarm.get("message", "")
    places = [f"{key} {alarm[key]}" for key in ("step", "epoch") if key in alarm]
    return f"{kind}: {message}", " ".join([str(alarm.get("network", "")), ", ".join(places)])


def reasons(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """The first of all messages that begin alike, up to a colon, and all places it is about."""
    grouped: dict[str, tuple[str, list[str]]] = {}
    for message, place in pairs:
        places = grouped.setdefault(message.partition(":")[0], (message, []))[1]
        if (place := place.strip()) and place not in places:
            places.append(place)
    return list(grouped.values())


def final_grids(rows: Sequence[Row], split: str = "test") -> list[Grid]:
    """Probes of networks and references, a table for each data set."""
    probes = find(rows, kind="probe", split=split)
    return [
        _grid(data, find(probes, data=data)) for data in dict.fromkeys(row.data for row in probes)
    ]


def band_grids(rows: Sequence[Row]) -> list[Grid]:
    """Bands by concept and owner for each data set; means of several concepts come first."""
    bands = [row for row in find(rows, kind="band") if row.metric in BAND_METRICS]
    bands.sort(key=lambda row: BAND_METRICS.index(row.metric))
    grids = []
    for data in dict.fromkeys(row.data for row in bands):
        own = find(bands, data=data)
        means = find(own, concept=MEAN)
        own = [row for row in own if row.concept != MEAN]
        if means and len({row.concept for row in own}) != 1:
            grids.append(_grid(data, means))
            data = f"{data} every concept".strip()
        if own:
            grids.append(_grid(data, own))
    return grids


def detail_grids(rows: Sequence[Row]) -> list[Grid]:
    """The results beside the final table: validation, and the geometry of what was evaluated."""
    grids = [
        grid._replace(heading=f"{grid.heading} probes on validation".strip())
        for grid in final_grids(rows, "validation")
    ]
    for kind in ("features", "embeddings"):
        for split, data in dict.fromkeys((row.split, row.data) for row in find(rows, kind=kind)):
            own = find(rows, kind=kind, split=split, data=data)
            grids.append(_grid(f"{data} {kind} on {split}".strip(), own))
    return grids


def _grid(heading: str, rows: Sequence[Row]) -> Grid:
    """A table of rows, in the order of their concepts and then of `OWNERS`."""
    columns = list(dict.fromkeys(row.metric for row in rows))
    concepts, owners = list(dict.fromkeys(row.concept for row in rows)), list(OWNERS)
    table: dict[str, tuple[bool, dict[str, Row]]] = {}
    for row in sorted(rows, key=lambda r: (concepts.index(r.concept), owners.index(r.owner))):
        table.setdefault(_line(row), (row.owner in REFERENCES, {}))[1][row.metric] = row
    return Grid(
        heading,
        [describe(name) for name in columns],
        [(name, grey, [r.get(c) for c in columns]) for name, (grey, r) in table.items()],
    )


def _line(row: Row) -> str:
    if row.concept not in ("", MEAN):
        return f"{row.concept} · {OWNERS[row.owner]}"
    return f"the {row.owner}" if row.owner in NETWORKS else OWNERS[row.owner]


def sections(run: Run, x: str = "step") -> list[tuple[str, str, list[Panel]]]:
    """Id, heading and panels of every section of the curves, known sections first.

    Raises:
        UserError: the run did not log the axis `x`.
    """
    curves = {k: (run.along(x, steps), values) for k, (steps, values) in run.curves.items()}
    present = {k: (steps, values) for k, (steps, values) in curves.items() if steps is not None}
    if len(present) < len(curves):
        raise UserError(f"{run.path} did not log {AXES[x][0]}: draw it with --x step.")
    drawn = panels(present, AXES[x][0])
    order = [*SECTIONS, *sorted(set(drawn) - set(SECTIONS))]
    titles = {key: SECTIONS.get(key, key.replace("_", " ").capitalize()) for key in order}
    return [(f"s{i}", titles[key], drawn[key]) for i, key in enumerate(order) if key in drawn]


def pictures(folder: Path) -> list[Picture]:
    """Pictures of a run: one per stem (svg before png), captioned ones first."""
    captions = read_json(folder / "captions.json", dict, {})
    files = {p.stem: p for ending in (".png", ".svg") for p in sorted(folder.glob(f"*{ending}"))}
    order = [stem for stem in captions if stem in files]
    order += [stem for stem in sorted(files) if stem not in captions]
    shown = []
    for stem in order:
        try:
            content = files[stem].read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {files[stem]}: {error.strerror}") from error
        uri = f"data:{MIME[files[stem].suffix]};base64,{base64.b64encode(content).decode()}"
        caption = str(captions.get(stem, stem.replace("_", " ").capitalize()))
        css = ("wide " * (_aspect(files[stem], content) > 2)) + "sheet" * (stem in SHEETS)
        shown.append(Picture(uri, caption, css))
    return shown


def _aspect(file: Path, content: bytes) -> float:
    """Width over height of a picture; 1 where it does not say."""
    if file.suffix == ".png" and len(content) > 24:
        width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
        return width / max(height, 1)
    box = re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', content[:2000])
    return float(box[1]) / max(float(box[2]), 1) if box else 1.0


def final_markdown(run_dir: Path) -> str:
    """The final table of one run as markdown, or a line that says there is none yet."""
    run = read_run(run_dir)
    grids = final_grids([row for row in run.rows if not row.data])
    if not grids:
        state = "No final table" if run.metrics is not None else "The run has not finished"
        return f"{state}; last step {run.last_step}."

    def shown(row: Row | None, unit: str) -> str:
        if row is None:
            return "–"
        ends = [measure(end, unit) for end in (row.low, row.high) if end is not None]
        return measure(row.value, unit) + (f" [{', '.join(ends)}]" if len(ends) > 1 else "")

    head, units = zip(*((m.title, m.unit) for m in grids[0].head), strict=True)
    body = [[name, *map(shown, cells, units)] for name, _, cells in grids[0].body]
    return f"{summary(run)}\n\n{markdown_table(['', *head], body)}".lstrip()
