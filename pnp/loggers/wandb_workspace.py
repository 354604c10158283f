"""A W&B workspace made by code: the panels that tell a good run from a collapsed one, in order."""

from typing import Any

from pnp.errors import UserError

TERMS = ("alignment", "variance", "covariance", "repulsion")
STEP = "progress/step"
# Section -> panels: title, metrics, x axis.
LINES: dict[str, list[tuple[str, list[str], str]]] = {
    "Health": [
        ("Collapse alarms so far", ["health/alarms"], STEP),
        ("All logged values finite (1 = yes)", ["health/finite"], STEP),
        ("Effective rank", ["geometry/student/effective_rank", "geometry/teacher/effective_rank"],
         STEP),
        ("Length of the mean embedding (cone: above 0.7)",
         ["geometry/student/mean_norm", "geometry/teacher/mean_norm"], STEP),
    ],
    "Quality": [
        ("Online kNN", ["probe/teacher/knn", "probe/student/knn"], STEP),
        ("Online kNN against images seen", ["probe/teacher/knn", "probe/student/knn"],
         "progress/images"),
        ("Online kNN against seconds of training", ["probe/teacher/knn", "probe/student/knn"],
         "progress/seconds"),
    ],
    "Geometry": [
        ("σ·√D on the batch (1 = spread evenly)", ["geometry/batch/sigma"], STEP),
        ("Mean cosine of different images",
         ["geometry/batch/mean_cosine", "geometry/student/mean_cosine",
          "geometry/teacher/mean_cosine"], STEP),
        ("Cosine within and between classes, teacher",
         ["geometry/teacher/within_cosine", "geometry/teacher/between_cosine"], STEP),
        ("Alignment of two views", ["geometry/student/alignment", "geometry/teacher/alignment"],
         STEP),
    ],
    "Loss": [
        ("Loss", ["loss/total"], STEP),
        ("Terms, unweighted", [f"loss/{term}" for term in TERMS], STEP),
        ("Learning rate", ["optim/lr"], STEP),
        ("Teacher momentum", ["optim/momentum"], STEP),
    ],
    "Speed": [
        ("Images per second", ["speed/images_per_second"], STEP),
        ("Seconds per step", ["speed/seconds_per_step"], STEP),
    ],
}  # fmt: skip
BARS = {
    "Linear probe and kNN on test": ["probe/test/linear/teacher", "probe/test/knn/teacher"],
    "Uncertainty band, mean over concepts": ["band/mean/teacher/width", "band/mean/teacher/plugin"],
}
CURVES = {  # logged tables, drawn by W&B's line series
    "Share of each term in the loss": ("loss/term_shares_table", "step"),
    "log10 share of the variance on each principal axis": ("geometry/spectra_table", "axis"),
}
PINNED = ("probe/test/linear/teacher", "probe/test/knn/teacher", "band/mean/teacher/width")


def workspace(entity_project: str) -> Any:
    """The workspace as an object of `wandb_workspaces`; nothing is sent.

    Args:
        entity_project: `ENTITY/PROJECT`.

    Raises:
        UserError: no such form, or the package is missing.
    """
    entity, _, project = entity_project.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"--wandb {entity_project!r}: give ENTITY/PROJECT, as in me/pnp-ssl.")
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError("--wandb needs one more package: pip install wandb-workspaces.") from error
    sections = [
        ws.Section(
            name=section,
            is_open=section in ("Health", "Quality", "Geometry"),
            panels=[wr.LinePlot(title=title, x=x, y=list(y)) for title, y, x in panels],
        )
        for section, panels in LINES.items()
    ]
    curves = [
        wr.CustomChart.from_table(
            table,
            chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
            chart_strings={"title": title, "xname": xname},
        )
        for title, (table, xname) in CURVES.items()
    ]
    for chart in curves:
        chart.chart_name = "wandb/lineseries/v0"
    results = ws.Section(
        name="Results",
        is_open=True,
        panels=[
            *(wr.BarPlot(title=title, metrics=list(keys)) for title, keys in BARS.items()),
            wr.ScatterPlot(
                title="Spread against quality",
                x="geometry/test/embeddings/teacher/between_cosine",
                y="probe/test/linear/teacher",
            ),
            *curves,
        ],
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name="PnP SSL",  # W&B takes no ¬
        sections=[results, *sections],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=30),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("choices.method"), ws.Config("choices.objective")],
            pinned_columns=[f"summary:{key}" for key in PINNED],
        ),
        auto_generate_panels=True,  # figures, tables and band curves, whatever the concepts are
    )


def publish(entity_project: str) -> str:
    """Save the workspace in a W&B project as a new view, and return its address.

    Raises:
        UserError: as `workspace`, or W&B refused.
    """
    view = workspace(entity_project)
    import wandb

    try:
        return view.save().url
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(
            f"W&B did not take the workspace for {entity_project}: {error}. Run `wandb login`, and "
            "sync or log a run there first, so that the project exists."
        ) from error
