"""Results of a run directory as W&B summary, tables, charts, pictures and artifacts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pnp.files import read_csv, read_json, read_text
from pnp.metrics import describe
from pnp.results import NETWORKS, OWNERS, Row, to_rows

CHARTS = 12  # concepts with a curve of their own; the table has all


def send(
    run: Any,
    folder: Path,
    config: Mapping[str, Any],
    spectra: Mapping[str, Sequence[float]],
    *,
    step: int,
    artifacts: bool = False,
) -> None:
    """Log the results of a run directory.

    Args:
        run: a W&B run.
        folder: the run directory, evaluated.
        config: the resolved configuration.
        spectra: network -> shares of the covariance's eigenvalues, largest first.
        step: the W&B step to log at.
        artifacts: upload checkpoint, config and report too.
    """
    rows = to_rows(read_json(folder / "metrics.json", default={}))
    band = read_json(folder / "band.json", default={})
    run.summary.update(summary(rows))
    logged = {
        "tables/metrics": _table(metric_rows(rows)),
        **({"tables/band": _table(band_rows(rows, band))} if band else {}),
        **_charts(folder, config, band, spectra),
        **_pictures(folder / "figures"),
    }
    run.log(logged, step=step)
    for concept, owners in band.items():
        alarms = [
            f"{owner}: {text}"
            for owner in NETWORKS
            for text in owners.get(owner, {}).get("alarms", [])
        ]
        if alarms:
            run.alert(title=f"band of {concept}"[:63], text="\n".join(alarms), level="WARN")
    if artifacts:
        _upload(run, folder)


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The main metrics under W&B's section names; intervals and details are in the tables.

    >>> summary(to_rows({"test/knn/teacher": 0.4, "band/mean/teacher/width": 0.2}))
    {'probe/test/knn/teacher': 0.4, 'band/mean/teacher/width': 0.2}
    >>> summary(to_rows({"test/features/teacher/rankme": 9.0, "reference/pixels/knn": 0.3}))
    {'geometry/test/features/teacher/rankme': 9.0, 'probe/reference/pixels/knn': 0.3}
    """
    sections = {"features": "geometry/", "embeddings": "geometry/", "band": ""}
    return {
        sections.get(row.kind, "probe/") + row.key: row.value
        for row in rows
        if row.kind != "band" or row.metric in ("width", "plugin", "oracle/excess")
    }


def metric_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """`metrics.json` as a table: key, value, interval, and the words for it."""
    return [
        {
            "metric": row.key,
            "value": row.value,
            "ci_low": row.low,
            "ci_high": row.high,
            "of": OWNERS.get(row.owner),
            "heading": describe(row.metric).heading,
            "meaning": describe(row.metric).meaning,
        }
        for row in rows
    ]


def band_rows(rows: Sequence[Row], band: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per concept and network: width, errors against budgets, and alarms."""
    columns = {
        "plug_in": "plugin",
        "oracle": "oracle/width",
        "fp": "err/fp_joint",
        "fp_budget": "err/fp_budget",
        "fp_upper": "err/fp_ucb",
        "fn": "err/fn_joint",
        "fn_budget": "err/fn_budget",
        "fn_upper": "err/fn_ucb",
        "auroc": "rank/auroc",
    }
    own = {(r.concept, r.owner, r.metric): r for r in rows if r.kind == "band" and not r.data}
    table = []
    for concept, owners in band.items():
        for owner, record in owners.items():
            width = own.get((concept, owner, "width"))
            cells = {name: own.get((concept, owner, metric)) for name, metric in columns.items()}
            table.append(
                {
                    "concept": concept,
                    "representation": owner,
                    "certified": width and width.value,
                    "ci_low": width and width.low,
                    "ci_high": width and width.high,
                    **{name: cell and cell.value for name, cell in cells.items()},
                    "alarms": "; ".join(record.get("alarms", [])),
                }
            )
    return table


def term_shares(
    rows: Sequence[Mapping[str, str]], weights: Mapping[str, float]
) -> tuple[list[int], dict[str, list[float]]]:
    """Steps, and each term's share |w·term| / Σ|w·term| of the loss at them.

    Args:
        rows: of `metrics.csv`.
        weights: of the objective; a term without one counts once.
    """
    rows = [row for row in rows if row.get("loss/total")]
    terms = [k for k in (rows[0] if rows else {}) if k.startswith("loss/") and k != "loss/total"]
    shares: dict[str, list[float]] = {term.removeprefix("loss/"): [] for term in terms}
    for row in rows:
        parts = {
            name: abs(weights.get(name, 1.0) * float(row[f"loss/{name}"] or 0)) for name in shares
        }
        total = sum(parts.values()) or math.nan
        for name, part in parts.items():
            shares[name].append(part / total)
    return [int(row["step"]) for row in rows], shares


def _charts(
    folder: Path,
    config: Mapping[str, Any],
    band: Mapping[str, Any],
    spectra: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Term shares, spectra and band curves, drawn by W&B itself."""
    import wandb

    charts: dict[str, Any] = {}
    weights = dict((config.get("objective") or {}).get("weights") or {})
    steps, shares = term_shares(read_csv(folder / "metrics.csv"), weights)
    if steps and shares:
        charts["loss/term_shares"] = wandb.plot.line_series(
            steps, list(shares.values()), list(shares), "Share of each term in the loss", "step"
        )
    if spectra:
        logs = [[math.log10(max(x, 1e-12)) for x in shares] for shares in spectra.values()]
        charts["geometry/spectra"] = wandb.plot.line_series(
            [list(range(1, len(line) + 1)) for line in logs],
            logs,
            list(spectra),
            "log10 share of the variance on each principal axis, last epoch",
            "axis",
        )
    for concept, owners in list(band.items())[:CHARTS]:
        lines = {
            f"{OWNERS.get(owner, owner)}, {kind}" if kind != "oracle" else "oracle": curve
            for owner, record in owners.items()
            for kind, curve in record["curves"].items()
        }
        charts[f"band/curve/{concept}"] = wandb.plot.line_series(
            [line["level"] for line in lines.values()],
            [line["width"] for line in lines.values()],
            list(lines),
            f"{concept}: share in the band against the allowed error",
            "allowed error, each side",
        )
    return charts


def _pictures(folder: Path) -> dict[str, Any]:
    """Every figure of the report, by its name."""
    import wandb

    captions = read_json(folder / "captions.json", default={})
    pictures: dict[str, Any] = {}
    for file in sorted(folder.glob("*.png")):
        pictures[f"figures/{file.stem}"] = wandb.Image(str(file), caption=captions.get(file.stem))
    for file in sorted(folder.glob("*.svg")):  # W&B shows a vector graphic as a page
        pictures[f"figures/{file.stem}"] = wandb.Html(read_text(file), inject=False)
    return pictures


def _upload(run: Any, folder: Path) -> None:
    """The best checkpoint as a model, and what a reader needs as a report."""
    import wandb

    groups = {
        "model": ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml"],
        "report": ["report.html", "metrics.json", "band.json", "config.yaml", "run.json"],
    }
    for kind, names in groups.items():
        artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind)
        for file in (folder / name for name in names):
            if file.exists():
                artifact.add_file(str(file))
        run.log_artifact(artifact)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    columns: list[str | int] = [*(rows[0] if rows else ["metric"])]
    return wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
