"""The report of one run: `report.html` in its directory."""

import base64
from pathlib import Path
from typing import Any

from pnp.errors import UserError
from pnp.report.page import flatten, number, render, save
from pnp.report.panels import (
    NETWORKS,
    Panel,
    draw,
    note,
    section_order,
    section_title,
    split_key,
    x_range,
)
from pnp.report.reading import Curve, Run, band_alarms, read_captions, read_run
from pnp.report.svg import Series

REFERENCES = {"pixels": "raw pixels", "random": "randomly initialised"}
CSS = {"student": "c0", "teacher": "c1", "batch": "c6", "": "c6"}
MIME = {".svg": "image/svg+xml", ".png": "image/png"}
BAND_COLUMNS = {
    "width": "band, certified",
    "plugin": "band, plug-in",
    "oracle/width": "oracle",
    "err/fp_joint": "FP",
    "err/fp_ucb": "FP at most",
    "err/fn_joint": "FN",
    "err/fn_ucb": "FN at most",
    "rank/auroc": "AUROC",
    "sel/augrc": "AUGRC",
    "oracle/erased": "erased",
    "oracle/recall": "band recall",
}
TITLE_KEYS = ("method", "objective", "data", "model")

Cell = tuple[float, float | None, float | None] | None
"""A value and the ends of its interval where one was computed."""


def write_report(run_dir: Path, out: Path | None = None, *, reload: float | None = None) -> Path:
    """Write the self-contained page of one run and return its path.

    Args:
        run_dir: a run directory; files that are not there yet are left out of the page.
        out: the file to write; `run_dir/report.html` by default.
        reload: seconds after which the page loads itself again; None for never.

    Raises:
        UserError: a file of the run is missing or broken, or the page cannot be written.
    """
    import yaml

    run = read_run(Path(run_dir))
    final = run.final or {}
    header, rows, used = final_table(final)
    band_header, band_rows, band_used = band_table(final)
    rest = {k: v for k, v in final.items() if k not in used | band_used}
    text = render(
        "run.html",
        reload=reload,
        title=run_title(run),
        run=run,
        path=str(run.path.resolve()),
        header=header,
        rows=rows,
        band_header=band_header,
        band_rows=band_rows,
        band_alarms=band_alarms(run),
        rest=rest,
        sections=sections(run.curves),
        figures=figures(run.path / "figures"),
        facts=flatten(run.facts),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
    return save(Path(out) if out else run.path / "report.html", text)


def run_title(run: Run) -> str:
    """Method, objective, data, model and seed, as far as the config names them."""
    choices = run.config.get("choices")
    choices = choices if isinstance(choices, dict) else {}
    named = [choices.get(key, run.config.get(key)) for key in TITLE_KEYS]
    words = [str(name) for name in named if isinstance(name, str | int)]
    words += [f"seed {run.seed}"] if run.seed is not None else []
    return "\N{NO-BREAK SPACE}· ".join(words) or run.path.resolve().name


def with_interval(final: dict[str, float], key: str, used: set[str]) -> Cell:
    """The value at `key` with its confidence interval; what was read is added to `used`."""
    if key not in final:
        return None
    used |= {key, f"{key}/ci_low", f"{key}/ci_high"}
    return final[key], final.get(f"{key}/ci_low"), final.get(f"{key}/ci_high")


def final_table(
    final: dict[str, float],
) -> tuple[list[str], list[tuple[str, list[Cell]]], set[str]]:
    """Networks and references against protocols: header, rows, and the keys they took."""
    used: set[str] = set()
    where = {f"the {network}": "test/{}/" + network for network in reversed(NETWORKS)}
    where |= {name: f"reference/{key}/" + "{}" for key, name in REFERENCES.items()}
    parts = [key.split("/") for key in final]
    protocols = [p[1] for p in parts if p[0] == "test" and len(p) == 3]
    protocols += [p[2] for p in parts if p[0] == "reference" and len(p) == 3]
    header = list(dict.fromkeys(protocols))
    rows = [
        (name, [with_interval(final, pattern.format(protocol), used) for protocol in header])
        for name, pattern in where.items()
    ]
    return header, [row for row in rows if any(row[1])], used


def band_table(
    final: dict[str, float],
) -> tuple[list[str], list[tuple[str, list[Cell]]], set[str]]:
    """One row per concept and representation of the keys `band/<concept>/<name>/<metric>`.

    The columns are those of `BAND_COLUMNS` that any row has; metrics.json holds the others.
    """
    keys = [key for key in final if key.startswith("band/")]
    found = dict.fromkeys(tuple(key.split("/")[1:3]) for key in keys if key.count("/") > 2)
    concepts = list(dict.fromkeys(concept for concept, _ in found))
    owners = sorted(found, key=lambda owner: concepts.index(owner[0]))
    used: set[str] = set()
    table = {
        " · ".join(owner): {
            heading: with_interval(final, "/".join(["band", *owner, metric]), used)
            for metric, heading in BAND_COLUMNS.items()
        }
        for owner in owners
    }
    shown = [h for h in BAND_COLUMNS.values() if any(row[h] for row in table.values())]
    return shown, [(name, [row[h] for h in shown]) for name, row in table.items()], set(keys)


def sections(curves: dict[str, Curve]) -> list[tuple[str, str, list[Panel]]]:
    """Every logged key in small multiples, student and teacher in one panel."""
    xs = x_range([curves])
    panels: dict[tuple[str, str], list[Series]] = {}
    for key, (steps, values) in curves.items():
        section, name, network = split_key(key)
        line = Series(network or name, steps, values, css=CSS[network])
        panels.setdefault((section, name), []).append(line)
    return [
        (
            section,
            section_title(section),
            [
                draw(name, note(section, name), sorted(series, key=lambda s: s.label), xs)
                for (group, name), series in panels.items()
                if group == section
            ],
        )
        for section in section_order(section for section, _ in panels)
    ]


def figures(folder: Path) -> list[dict[str, str]]:
    """Pictures as data URIs: one per stem (svg before png), captioned ones first."""
    captions = read_captions(folder)
    files = {p.stem: p for ending in (".png", ".svg") for p in sorted(folder.glob(f"*{ending}"))}
    order = [stem for stem in captions if stem in files]
    order += [stem for stem in sorted(files) if stem not in captions]
    shown = []
    for stem in order:
        try:
            content = base64.b64encode(files[stem].read_bytes()).decode()
        except OSError as error:
            raise UserError(f"cannot read {files[stem]}: {error.strerror}") from error
        uri = f"data:{MIME[files[stem].suffix]};base64,{content}"
        caption = captions.get(stem, stem.replace("_", " ").capitalize())
        shown.append({"uri": uri, "caption": caption})
    return shown


def final_markdown(run_dir: Path) -> str:
    """The final table of one run as markdown, or a line that says there is none yet."""
    run = read_run(run_dir)
    header, rows, _ = final_table(run.final or {})
    if not rows:
        state = "No final table" if run.final is not None else "The run has not finished"
        return f"{state}; last step {run.last_step}."

    def shown(cell: Cell) -> str:
        if cell is None or cell[1] is None:
            return number(cell[0] if cell else None)
        return f"{number(cell[0])} [{number(cell[1])}, {number(cell[2])}]"

    return markdown_table(["", *header], [[name, *map(shown, cells)] for name, cells in rows])


def markdown_table(header: list[str], rows: list[list[Any]]) -> str:
    """A markdown table whose source is aligned, so that it reads in a terminal too.

    >>> print(markdown_table(["run", "n"], [["full", 3]]))
    | run  | n   |
    | ---- | --- |
    | full | 3   |
    """
    table = [[" ".join(str(c).replace("|", "\\|").split()) for c in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(lines)
