"""`pnp-report`: one page for a run, one dashboard and table for any set of runs."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pnp.errors import UserError

EXAMPLES = """\
examples:
  pnp-report runs/2026-01-01/12-00-00          the page of one run
  pnp-report multirun/ablation                 one dashboard and table over all runs below
  pnp-report runs/a runs/b --out comparison    chosen runs, written to comparison/
  pnp-report multirun/ablation --watch         again whenever a run writes, until Ctrl-C
  pnp-report runs --baseline "objective=full lr=0.004"

A run is a folder with config.yaml and metrics.csv or metrics.json, as pnp-train writes it.
Runs that differ only in their seed make one row: mean ± half of its 95 % interval.
Runs without metrics.json have not finished: they are listed with their state and not counted.
"""
PERIOD = 5.0  # seconds between looks at the files
WATCHED = ("config.yaml", "metrics.csv", "metrics.json", "alarms.json", "error.txt", "report.html")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="pnp-report",
        description="Turn run directories into self-contained pages and tables. "
        "For one run: report.html. For several: report.html, table.csv and table.md.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "dirs", metavar="DIR", nargs="*", type=Path, help="a run, or a folder of runs"
    )
    made.add_argument("--out", type=Path, help="folder to write to (default: the folder given)")
    made.add_argument("--baseline", metavar="WORDS", help="what differences are to, by key=value")
    made.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const=str(PERIOD),
        help=f"write again whenever a run writes, and let the page reload (default: {PERIOD:g})",
    )
    made.add_argument("--open", action="store_true", help="open the page in a browser")
    made.add_argument(
        "--wandb", metavar="ENTITY/PROJECT", help="save a W&B workspace for that project instead"
    )
    return made


def run(
    dirs: Sequence[Path],
    out: Path | None = None,
    baseline: str | None = None,
    reload: float | None = None,
) -> tuple[Path, str, str]:
    """Report on `dirs`; return the page, its table in markdown, and what was written, in words.

    Raises:
        UserError: no run found, or a file that cannot be read or written; the message names it.
    """
    from pnp.report import compare_runs, find_runs, write_report
    from pnp.report.single import final_markdown

    found = find_runs(dirs)
    if len(dirs) == 1 and found == [dirs[0].resolve()]:
        page = write_report(dirs[0], out / "report.html" if out else None, reload=reload)
        return page, final_markdown(dirs[0]), f"wrote {page}"
    made = compare_runs(dirs, out, baseline=baseline, reload=reload)
    states = ", ".join(f"{count} {state}" for state, count in made.states.items())
    said = [f"wrote {path}" for path in (made.report, made.csv, made.markdown)]
    return made.report, made.table, "\n".join([*said, f"runs: {states}"])


def watch(
    dirs: Sequence[Path], out: Path | None, baseline: str | None, period: float, show: bool
) -> None:
    """Report again whenever a run has written; ends with Ctrl-C, leaving a page that stays still.

    A problem (no run yet, a file somebody is just writing) is said once and looked at again.
    """
    before: object = None
    problem = ""
    page: Path | None = None
    print(f"watching {', '.join(map(str, dirs))}; Ctrl-C ends it", flush=True)
    try:
        while True:
            try:
                now = fingerprint(dirs)
                if now != before:
                    made, _, said = run(dirs, out, baseline, reload=period)
                    before, problem = now, ""
                    print(f"{time.strftime('%H:%M:%S')} {said.splitlines()[-1]}", flush=True)
                    if page is None:
                        print(f"page: {made}", flush=True)
                        if show:
                            _open(made)
                    page = made
            except UserError as error:
                if str(error) != problem:
                    problem = str(error)
                    print(f"pnp-report: {problem} Still watching.", file=sys.stderr, flush=True)
            time.sleep(period)
    except KeyboardInterrupt:
        if page is not None:
            try:
                print(f"\n{run(dirs, out, baseline)[2]}")
            except UserError as error:
                print(f"\npnp-report: {error}", file=sys.stderr)


def fingerprint(dirs: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What changes whenever one of the watched files does, or a run goes quiet.

    Raises:
        UserError: no run yet.
    """
    from pnp.report import find_runs
    from pnp.report.reading import FRESH, last_written

    marks = []
    own = {(d / "report.html").resolve() for d in dirs}
    for path in find_runs(dirs):
        for file in (path / name for name in WATCHED):
            try:
                found = file.stat()
            except OSError:
                continue
            if file not in own:  # what we write ourselves is no news
                marks.append((str(file), found.st_mtime_ns, found.st_size))
        marks.append((str(path), int(time.time() - last_written(path) < FRESH), 0))
    return marks


def seconds(text: str) -> float | None:
    """A number of seconds, or None where the text is something else."""
    try:
        return float(text)
    except ValueError:
        return None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's mistake ends in one line and exit status 2."""
    made = parser()
    args = made.parse_args(argv)
    if args.watch is not None and seconds(args.watch) is None:  # `pnp-report --watch DIR`
        args.dirs.insert(0, Path(args.watch))
        args.watch = str(PERIOD)
    if not args.dirs and not args.wandb:
        made.error("give a run, or a folder of runs.")
    try:
        if args.wandb:
            from pnp.loggers.wandb_workspace import publish

            print(publish(args.wandb))
            return
        if args.watch is not None:
            period = seconds(args.watch)
            if period is None or not 0.1 <= period <= 86400:
                raise UserError(f"--watch {args.watch}: give seconds between 0.1 and 86400.")
            watch(args.dirs, args.out, args.baseline, period, args.open)
            return
        page, table, said = run(args.dirs, args.out, args.baseline)
    except UserError as error:
        print(f"pnp-report: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{table}\n{said}")
    if args.open:
        _open(page)


def _open(page: Path) -> None:
    import webbrowser

    webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
