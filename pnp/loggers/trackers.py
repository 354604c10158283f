"""Other trackers beside the csv: TensorBoard and MLflow by Lightning's loggers, and Trackio."""

import os
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from pnp.errors import UserError, choice
from pnp.files import flatten

KINDS = ("tensorboard", "mlflow", "trackio")


def tracker(
    folder: Path,
    config: Mapping[str, Any],
    kind: str,
    *,
    project: str = "pnp-ssl",
    uri: str | None = None,
) -> Logger:
    """The tracker of `logger=KIND`, told the configuration.

    Args:
        folder: the run directory; its name is that of the run.
        config: resolved.
        kind: `tensorboard`, `mlflow` or `trackio`.
        project: of Trackio; the experiment of MLflow.
        uri: of MLflow's server or store; None takes MLFLOW_TRACKING_URI, else `mlflow.db` here.

    Raises:
        UserError: an unknown tracker, or one that is not installed.
    """
    choice("logger", kind, KINDS)
    if find_spec(kind) is None:
        raise UserError(
            f"logger={kind} needs the package {kind}: pip install 'pnp-ssl[{kind}]'. "
            "logger=csv needs none."
        )
    if kind == "tensorboard":
        logger: Logger = TensorBoardLogger(
            folder, name="", version="", sub_dir="tensorboard", default_hp_metric=False
        )
    elif kind == "mlflow":
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        logger = MLFlowLogger(experiment_name=project, run_name=folder.name, tracking_uri=uri)
    else:
        logger = TrackioLog(project, folder.name)
    logger.log_hyperparams(flatten(dict(config)))
    return logger


def end(logger: Logger, metrics: Mapping[str, float], step: int) -> None:
    """Log the final numbers under their keys of metrics.json, and close the tracker."""
    logger.log_metrics(dict(metrics), step)
    logger.finalize("success")


class TrackioLog(Logger):
    """Metrics to Trackio, whose interface is W&B's; a resumed run goes on under its name.

    Args:
        project: of Trackio.
        run: name of the run.
    """

    name, version = "trackio", ""  # pyright: ignore

    def __init__(self, project: str, run: str) -> None:
        super().__init__()
        self.project, self.label = project, run
        self.config: dict[str, Any] = {}
        self.run: Any = None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Keep the configuration for the run that is begun."""
        self.config |= params if isinstance(params, dict) else vars(params)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log one row; the first one begins Trackio's run."""
        if self.run is None:
            import trackio  # pyright: ignore[reportMissingImports]

            self.run = trackio.init(
                project=self.project, name=self.label, config=self.config, resume="allow"
            )
        self.run.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End Trackio's run."""
        if self.run is not None:
            self.run.finish()
            self.run = None
