"""The report of one run: `report.html` in its directory, without any script."""

import base64
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pnp.errors import UserError
from pnp.files import flatten, read_json
from pnp.report.groups import text
from pnp.report.multiples import Panel, panels
from pnp.report.page import markdown_table, number, render, save
from pnp.report.reading import Run, read_run
from pnp.results import MEAN, NETWORKS, OWNERS, REFERENCES, Row, describe, find

MIME = {".svg": "image/svg+xml", ".png": "image/png"}
# Of a band; metrics.json holds the others.
BAND_METRICS = (
    "width", "plugin", "oracle/width", "err/fp_joint", "err/fp_ucb", "err/fn_joint", "err/fn_ucb",
    "rank/auroc", "sel/augrc", "oracle/erased", "oracle/recall",
)  # fmt: skip
TITLE_KEYS = ("method", "objective", "data", "model")
SECTIONS = {
    "loss": "Loss terms",
    "geometry": "Geometry of the embeddings",
    "probe": "Probes during training",
    "band": "Uncertainty band",
    "optim": "Optimisation",
    "speed": "Speed",
}


class Grid(NamedTuple):
    """A table of results: columns (title, meaning) and rows (name, is a reference, cells)."""

    heading: str
    head: list[tuple[str, str]]
    body: list[tuple[str, bool, list[Row | None]]]


class Picture(NamedTuple):
    """A picture as a data URI with its caption; a wide one takes a row of its own."""

    uri: str
    caption: str
    wide: bool


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the self-contained page of one run and return its path.

    Args:
        run_dir: a run directory; files that are not there yet are left out of the page.
        out: the file to write; `run_dir/report.html` by default.

    Raises:
        UserError: a file of the run is missing or broken, or the page cannot be written.
    """
    import yaml

    run = read_run(Path(run_dir))
    facts = {k: text(v) for k, v in flatten(run.facts).items() if k != "protocol"}
    page = render(
        "run.html",
        title=run_title(run),
        run=run,
        path=str(run.path.resolve()),
        finals=final_grids(run.rows),
        bands=band_grids(run.rows),
        band_alarms=band_alarms(run.bands),
        details=detail_grids(run.rows),
        rest=find(run.rows, kind="other"),
        sections=sections(run),
        pictures=pictures(run.path / "figures"),
        protocol=run.facts.get("protocol", ""),
        facts=facts,
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
    return save(Path(out) if out else run.path / "report.html", page)


def run_title(run: Run) -> str:
    """Method, objective, data, model and seed, as far as the config names them."""
    choices = run.config.get("choices")
    choices = choices if isinstance(choices, dict) else {}
    named = [choices.get(key, run.config.get(key)) for key in TITLE_KEYS]
    words = [str(name) for name in named if isinstance(name, str | int)]
    words += [f"seed {run.seed}"] if run.seed is not None else []
    return "\N{NO-BREAK SPACE}· ".join(words) or run.path.resolve().name


def final_grids(rows: Sequence[Row], split: str = "test") -> list[Grid]:
    """Probes of networks and references, a table for each data set."""
    probes = find(rows, kind="probe", split=split)
    return [
        _grid(data, find(probes, data=data), _owner, lambda row: row.metric)
        for data in dict.fromkeys(row.data for row in probes)
    ]


def band_grids(rows: Sequence[Row]) -> list[Grid]:
    """Bands by concept and owner, a table for each data set; no mean of a single concept."""
    bands = [row for row in find(rows, kind="band") if row.metric in BAND_METRICS]
    bands.sort(key=lambda row: BAND_METRICS.index(row.metric))
    grids = []
    for data in dict.fromkeys(row.data for row in bands):
        concepts = dict.fromkeys(r.concept for r in find(bands, data=data) if r.concept != MEAN)
        shown = [*concepts, MEAN] if len(concepts) > 1 else list(concepts)
        own = [row for concept in shown for row in find(bands, data=data, concept=concept)]
        grids.append(_grid(data, own, _concept, lambda row: row.metric, by=shown))
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
            table = _grid(f"{data} {kind} on {split}".strip(), own, _owner, lambda row: row.metric)
            grids.append(table)
    return grids


def _grid(
    heading: str,
    rows: Sequence[Row],
    line: Callable[[Row], str],
    column: Callable[[Row], str],
    by: Sequence[str] = ("",),
) -> Grid:
    """A table of rows, in the order of the concepts `by` and then of `OWNERS`."""
    columns = list(dict.fromkeys(column(row) for row in rows))
    owners = list(OWNERS)
    table: dict[str, tuple[bool, dict[str, Row]]] = {}
    for row in sorted(rows, key=lambda row: (by.index(row.concept), owners.index(row.owner))):
        table.setdefault(line(row), (row.owner in REFERENCES, {}))[1][column(row)] = row
    words = [describe(name) for name in columns]
    return Grid(
        heading,
        [(metric.heading, metric.meaning) for metric in words],
        [(name, grey, [r.get(c) for c in columns]) for name, (grey, r) in table.items()],
    )


def _owner(row: Row) -> str:
    return f"the {row.owner}" if row.owner in NETWORKS else OWNERS[row.owner]


def _concept(row: Row) -> str:
    concept = "mean of the concepts" if row.concept == MEAN else row.concept
    return f"{concept} · {OWNERS[row.owner]}"


def band_alarms(bands: dict[str, Any]) -> list[tuple[str, str]]:
    """Warnings of the bands' evaluation, each once, and the concepts and owners it is about."""
    places: dict[str, dict[str, list[str]]] = {}
    for concept, answers in bands.items():
        for owner, answer in answers.items():
            name = OWNERS.get(owner, str(owner))
            for alarm in answer.get("alarms", []):
                places.setdefault(alarm, {}).setdefault(concept, []).append(name)
    grouped = []
    for alarm, concepts in places.items():
        owners = {tuple(names) for names in concepts.values()}
        if len(owners) == 1 and len(concepts) == len(bands) > 1:
            where = f"all concepts ({', '.join(owners.pop())})"
        else:
            where = "; ".join(f"{c} ({', '.join(names)})" for c, names in concepts.items())
        grouped.append((alarm, where))
    return grouped


def sections(run: Run) -> list[tuple[str, str, list[Panel]]]:
    """Id, heading and panels of every section of the curves, known sections first."""
    drawn = panels(run.curves)
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
        shown.append(Picture(uri, caption, _aspect(files[stem], content) > 2))
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

    def shown(row: Row | None) -> str:
        interval = row is not None and row.low is not None and row.high is not None
        ends = f" [{number(row.low)}, {number(row.high)}]" if row and interval else ""
        return number(row.value if row else None) + ends

    metrics = dict.fromkeys(
        row.metric for row in find(run.rows, kind="probe", split="test", data="")
    )
    return markdown_table(
        ["", *metrics], [[name, *map(shown, cells)] for name, _, cells in grids[0].body]
    )
