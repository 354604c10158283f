"""`pnp-doctor`: is this configuration exact and healthy here, and what takes its time?"""

import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any


def examine(cfg: Any) -> tuple[list[Any], dict[str, float]]:
    """Run every check on a composed `conf/train.yaml`.

    Returns:
        The checks (`pnp.runs.checks.Check`), and milliseconds per batch by part.

    Raises:
        UserError: the configuration itself cannot work.
    """
    import torch
    from rich.console import Console

    from pnp import keys
    from pnp.runs import checks, directory, timing
    from pnp.runs.config import plain
    from pnp.runs.parts import ignore_known_warnings, parts, quieten

    quieten()
    config = keys.upgrade(plain(cfg)) | {"choices": {}}
    keys.check_effects(config, directory.overrides())
    console, results = Console(stderr=True), []
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        console.status("reading the data") as status,
    ):
        ignore_known_warnings()
        torch.manual_seed(config["seed"])
        data, module, _ = parts(config)
        student, shape = module.student, (data.channels, data.size, data.size)
        z = student.projector(student.backbone(torch.zeros(2, *shape)))
        dims = student.outputs(z[None]).shape[-1]
        views = module.views.count + module.views.local
        objective = partial(checks.objective_of, config)
        work = {
            "views": partial(checks.views_like_torchvision, data.channels, data.size),
            "micro-batches": partial(checks.same_in_pieces, module, data.channels, data.size),
            "ranks": partial(checks.same_over_ranks, objective, views, dims, student.normalize),
            "resumption": partial(checks.resumes, config, Path(folder)),
        }
        for name, check in work.items():
            status.update(f"checking {name}")
            results.append(check())
        status.update("timing the first steps")
        finite, times = timing.finite_and_timed(config, Path(folder))
    return [*results, finite], times


def run(cfg: Any) -> None:
    """Print the tables; exit with 1 if a check failed."""
    from rich.console import Console
    from rich.table import Table

    results, spent = examine(cfg)
    table = Table("check", "", "error", "limit", "")
    for check in results:
        mark = "[green]passed[/]" if check.passed else "[bold red]FAILED[/]"
        table.add_row(check.name, mark, f"{check.error:.1e}", f"{check.limit:.0e}", check.note)
    Console().print(table)
    speed = spent.pop("images per second")
    total = sum(spent.values())
    times = Table("part of the step", "ms", "share")
    for part, ms in spent.items():
        times.add_row(part, f"{ms:.1f}", f"{ms / total:.0%}")
    Console().print(times)
    print(f"{speed:,.0f} images per second, parts one after another")
    if not all(check.passed for check in results):
        sys.exit(1)


def main() -> None:
    """Console script `pnp-doctor`: pnp-train's configuration, examined."""
    from pnp.runs.launch import launch

    sys.argv[1:] = [
        *sys.argv[1:],
        "hydra.help.app_name=pnp-doctor",
        "hydra.help.header='pnp-doctor: is this configuration exact and healthy here?'",
        "hydra.help.footer='Takes what pnp-train takes. Exit status: 0 passed, 1 a check failed.'",
        f"hydra.run.dir={tempfile.gettempdir()}",
    ]
    launch("train", run)


if __name__ == "__main__":
    main()
