"""`pnp-report`: one page for a run, one page and table for any set of runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pnp import console
from pnp.errors import UserError

EXAMPLES = """\
examples:
  pnp-report runs/2026-01-01/12-00-00          the page of one run
  pnp-report multirun/ablation                 one page and table over all runs below
  pnp-report runs/a runs/b --out comparison    chosen runs, written to comparison/
  pnp-report runs --by objective,lr            rows by these keys instead of all that differ
  pnp-report runs --only model=resnet18        the runs with this value only
  pnp-report runs --x seconds                  curves at equal compute, not at equal steps
  pnp-report runs --baseline "objective=full lr=0.004"

A run is a folder with config.yaml and metrics.csv or metrics.json, as pnp-train writes it.
Runs that differ only in their seed make one row: mean ± half of its 95 % interval.
Runs without metrics.json have not finished: they are listed with their state and not counted.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="pnp-report",
        description="Turn run directories into self-contained pages and tables. "
        "For one run: report.html. For several: report.html, table.csv and table.md.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("dirs", metavar="DIR", nargs="*", type=Path, help="a run, or a folder of runs")
    add("--out", type=Path, help="folder to write to (default: the folder given)")
    add("--by", metavar="KEY,KEY", help="config keys to group by (default: all that differ)")
    add(
        "--only", metavar="KEY=VALUE", action="append", default=[],
        help="keep the runs with this value, or one of VALUE,VALUE; repeat for several keys",
    )  # fmt: skip
    add("--baseline", metavar="WORDS", help="row that others are compared with, by key=value")
    add(
        "--x",
        choices=("step", "images", "forwards", "seconds"),
        default="step",
        help="what curves are drawn against: optimizer steps, images seen, forward passes per "
        "training image, or seconds of training",
    )
    add("--open", action="store_true", help="open the page in a browser")
    add("--wandb", metavar="ENTITY/PROJECT", help="save a W&B workspace for that project instead")
    return command


def report(args: argparse.Namespace) -> tuple[Path, str]:
    """Write the report that was asked for; return the page and the text to print.

    Raises:
        UserError: no run found, or a file that cannot be read or written; the message names it.
    """
    from pnp.report.compare import compare_runs
    from pnp.report.reading import find_runs
    from pnp.report.single import final_markdown, write_report

    dirs: list[Path] = args.dirs
    if len(dirs) == 1 and find_runs(dirs) == [dirs[0].resolve()]:
        for key in ("by", "only", "baseline"):
            if getattr(args, key):
                raise UserError(f"--{key} goes with several runs; {dirs[0]} is one.")
        page = write_report(dirs[0], args.out / "report.html" if args.out else None, args.x)
        return page, f"{final_markdown(dirs[0])}\nwrote {page}"
    by = args.by.split(",") if args.by else None
    written = compare_runs(dirs, args.out, baseline=args.baseline, by=by, only=args.only, x=args.x)
    states = ", ".join(f"{count} {state}" for state, count in written.states.items())
    files = [f"wrote {path}" for path in (written.report, written.csv, written.markdown)]
    return written.report, "\n".join([written.table, *files, f"runs: {states}"])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's mistake ends in one line and exit status 2."""
    console.fall_back()
    command = parser()
    args = command.parse_args(argv)
    if not args.dirs and not args.wandb:
        command.error("give a run, or a folder of runs.")
    try:
        if args.wandb:
            from pnp.loggers.wandb_workspace import publish

            print(publish(args.wandb))
            return
        page, text = report(args)
    except (UserError, OSError) as error:
        print(f"pnp-report: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(text)
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
