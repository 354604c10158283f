"""What a finished run directory holds, as W&B summary, tables, charts, pictures and artifacts."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NETWORKS = ("teacher", "student", "network")
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
    metrics, band = _json(folder / "metrics.json"), _json(folder / "band.json")
    run.summary.update(summary(metrics))
    logged = {
        "tables/metrics": _table(metrics_rows(metrics)),
        **({"tables/band": _table(band_rows(metrics, band))} if band else {}),
        **_charts(folder, config, band, spectra),
        **_pictures(folder / "figures"),
    }
    run.log(logged, step=step)
    for concept, answers in band.items():
        found = [f"{n}: {text}" for n in NETWORKS for text in answers.get(n, {}).get("alarms", [])]
        if found:
            run.alert(title=f"band of {concept}"[:63], text="\n".join(found), level="WARN")
    if artifacts:
        _upload(run, folder)


def summary(metrics: Mapping[str, float]) -> dict[str, float]:
    """The main metrics under W&B's section names; intervals and details are in the tables.

    >>> summary({"test/knn/teacher": 0.4, "test/knn/teacher/ci_low": 0.3, "band/mean/x/width": 0.2})
    {'probe/test/knn/teacher': 0.4, 'band/mean/x/width': 0.2}
    >>> summary({"test/features/teacher/rankme": 9.0, "reference/pixels/knn": 0.3})
    {'geometry/test/features/teacher/rankme': 9.0, 'probe/reference/pixels/knn': 0.3}
    """
    found = {}
    for key, value in metrics.items():
        where, kind, *rest = key.split("/")
        if where == "band":
            if rest[1:] in (["width"], ["plugin"], ["oracle", "excess"]):
                found[key] = value
        elif not key.endswith(("/ci_low", "/ci_high")):
            section = "geometry" if kind in ("features", "embeddings") else "probe"
            found[f"{section}/{key}"] = value
    return found


def metrics_rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """`metrics.json` as rows: metric, value and interval."""
    return [
        {
            "metric": key,
            "value": value,
            "ci_low": metrics.get(f"{key}/ci_low"),
            "ci_high": metrics.get(f"{key}/ci_high"),
        }
        for key, value in metrics.items()
        if not key.endswith(("/ci_low", "/ci_high"))
    ]


def band_rows(metrics: Mapping[str, float], band: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per concept and representation: width, errors against budgets, and alarms."""
    columns = {
        "certified": "width",
        "ci_low": "width/ci_low",
        "ci_high": "width/ci_high",
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
    return [
        {
            "concept": concept,
            "representation": owner,
            **{name: metrics.get(f"band/{concept}/{owner}/{key}") for name, key in columns.items()},
            "alarms": "; ".join(answer.get("alarms", [])),
        }
        for concept, owners in band.items()
        for owner, answer in owners.items()
    ]


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
    file = folder / "metrics.csv"
    weights = dict((config.get("objective") or {}).get("weights") or {})
    steps, shares = term_shares(_csv(file), weights) if file.exists() else ([], {})
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
    for concept, answers in list(band.items())[:CHARTS]:
        lines = {
            f"{owner}, {kind}" if kind != "oracle" else "oracle": curve
            for owner, answer in answers.items()
            for kind, curve in answer["curves"].items()
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

    captions = _json(folder / "captions.json")
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.png")):
        found[f"figures/{file.stem}"] = wandb.Image(str(file), caption=captions.get(file.stem))
    for file in sorted(folder.glob("*.svg")):  # W&B shows a vector graphic as a page
        found[f"figures/{file.stem}"] = wandb.Html(file.read_text(), inject=False)
    return found


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


def _csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}
