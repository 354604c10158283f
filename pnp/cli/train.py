"""`pnp-train`: config -> data, network, trainer -> checkpoints, metrics.json, report.html."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning import Callback


def train(cfg: Any, callbacks: Sequence["Callback"] = ()) -> dict[str, float]:
    """Train, evaluate and report one run, as the config says.

    Args:
        cfg: a composed `conf/train.yaml`.
        callbacks: Lightning callbacks beside those of the config.

    Returns:
        The flat metrics of `metrics.json`: `test/<probe>/<network>`, `reference/<name>/<probe>`.

    Raises:
        UserError: anything about the input that cannot work.
        pnp.signals.Interrupted: stopped by a signal (Ctrl-C, SIGTERM, …); the state is saved.
    """
    from pnp import keys, plugins
    from pnp.runs import directory, processes
    from pnp.runs.config import plain
    from pnp.runs.jobs import claim
    from pnp.runs.training import fit

    provenance = directory.provenance()
    config = keys.upgrade(plain(cfg)) | {"choices": directory.choices()}
    plugins.allow(config.get("plugins") or ())
    processes.check(config["trainer"], directory.in_multirun())
    processes.end_with_parent()
    keys.check_effects(config, directory.overrides())
    job = claim(directory.run_directory(cfg), config)
    if job.metrics is not None:
        directory.check_images(job.folder, config)
        print(f"already finished: {job.folder}")
        return job.metrics
    with job:
        return fit(job.folder, config, job.checkpoint, provenance, callbacks)


def run(cfg: Any) -> float | None:
    """Train, for Hydra; returns the number that a sweep may optimise (never a test number)."""
    from pnp.results import main_network, to_rows

    main = main_network(to_rows(train(cfg)))
    return main[main["network"]] if main else None


def main() -> None:
    """Console script `pnp-train`."""
    from pnp.runs.launch import launch

    launch("train", run)


if __name__ == "__main__":
    main()
