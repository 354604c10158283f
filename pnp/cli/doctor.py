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
        The checks (`pnp.runs.checks.Check`), and milliseconds per step by part.

    Raises:
        UserError: the configuration itself cannot work.
    """
    import torch
    from rich.console import Console

    from pnp.runs import checks
    from pnp.runs.config import plain
    from pnp.runs.parts import hardware, ignore_known_warnings, parts, quieten

    quieten()
    config = {key: value for key, value in plain(cfg).items() if key != "hydra"}
    config["choices"] = {}
    accelerator, precision = hardware(
        config["trainer"]["accelerator"], config["trainer"]["precision"]
    )
    device = torch.device("cuda" if accelerator in ("gpu", "cuda") else accelerator)

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    console, found = Console(stderr=True), []
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        console.status("reading the data") as status,
    ):
        ignore_known_warnings()
        torch.manual_seed(config["seed"])
        data, module, _ = parts(config)
        z = module.student.projector(module.student.backbone(torch.zeros(2, *_shape(data))))
        dims = module.student.outputs(z[None]).shape[-1]
        views = module.views.count + module.views.local
        objective = partial(checks.objective_of, config)
        work = {
            "views": partial(checks.views_like_torchvision, data.channels, data.size),
            "micro-batches": partial(checks.same_in_pieces, module, data.channels, data.size),
            "ranks": partial(
                checks.same_over_ranks, objective, views, dims, module.student.normalize
            ),
            "resumption": partial(checks.resumes, config, Path(folder)),
        }
        for name, check in work.items():
            status.update(f"checking {name}")
            found.append(check())
        status.update("timing the first steps")
        finite, clock = checks.finite_and_timed(data, module, device, autocast)
    return [*found, finite], clock


def _shape(data: Any) -> tuple[int, int, int]:
    return data.channels, data.size, data.size


def run(cfg: Any) -> None:
    """Print the tables; exit with 1 if a check failed."""
    from rich.console import Console
    from rich.table import Table

    found, clock = examine(cfg)
    table = Table("check", "", "error", "limit", "")
    for check in found:
        mark = "[green]passed[/]" if check.passed else "[bold red]FAILED[/]"
        table.add_row(check.name, mark, f"{check.error:.1e}", f"{check.limit:.0e}", check.note)
    Console().print(table)
    speed = clock.pop("images per second")
    whole = sum(clock.values())
    times = Table("part of a step", "ms", "share")
    for part, spent in clock.items():
        times.add_row(part, f"{spent:.1f}", f"{spent / whole:.0%}")
    Console().print(times)
    print(f"{speed:,.0f} images per second, parts one after another")
    if not all(check.passed for check in found):
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
