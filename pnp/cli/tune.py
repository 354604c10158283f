"""`pnp-tune`: search over overrides of `pnp-train`, on validation, with Optuna."""

import sys
from collections.abc import Sequence

from pnp.errors import UserError
from pnp.signals import Interrupted, requeue

HELP = """\
pnp-tune: search over any keys of pnp-train, on validation; the same command goes on.

Examples
  pnp-tune tune.space='{optim.lr: {low: 1e-4, high: 1e-2, log: true}}'
  pnp-tune tune.space=space.yaml tune.name=shapes tune.n_trials=50 data=fashion_mnist
  pnp-tune tune.space='{objective: [full, no_repulsion], optim.lr: [0.001, 0.004]}' tune.prune=null

Each trial is a run directory in <tune.dir>/<tune.name>, evaluated on validation and trained on the
training split only (evaluation.test=false data.pretrain_on=[train]).

"""


def main(argv: Sequence[str] | None = None) -> None:
    """Console script `pnp-tune`."""
    from pnp import console
    from pnp.runs import launch

    console.fall_back()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(HELP + (launch.conf_dir() / "tune.yaml").read_text(encoding="utf-8"))
        return
    from hydra.errors import HydraException

    from pnp.cli.train import train
    from pnp.runs.hints import hints
    from pnp.runs.search import search

    settings = [word.removeprefix("tune.") for word in arguments if word.startswith("tune.")]
    overrides = [word for word in arguments if not word.startswith("tune.")]
    try:
        status = search(launch.compose("tune", settings), overrides, train)
    except UserError as error:
        launch.complain(str(error))
        status = 2
    except HydraException as error:
        launch.complain(str(error))
        for line in hints("train", overrides):
            launch.complain(line)
        status = 2
    except Interrupted as stop:
        print(f"{stop}; run the same command again to go on.", file=sys.stderr)
        requeue(stop.signum)
        status = stop.status
    except KeyboardInterrupt:
        status = 130
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
