"""`pnp-report`: one page for a run, one table and page for any set of runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pnp.errors import UserError

EXAMPLES = """\
examples:
  pnp-report runs/2026-01-01/12-00-00          the page of one run
  pnp-report multirun/ablation                 one table and page over all runs below
  pnp-report runs/a runs/b --out comparison    chosen runs, written to comparison/

A run is a folder with config.yaml and metrics.csv or metrics.json, as pnp-train writes it.
Runs that differ only in their seed make one row: mean ± sample standard deviation.
Runs without metrics.json have not finished: they are listed and not counted.
"""


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
        "dirs", metavar="DIR", nargs="+", type=Path, help="a run, or a folder of runs"
    )
    made.add_argument("--out", type=Path, help="folder to write to (default: the folder given)")
    made.add_argument("--open", action="store_true", help="open the page in a browser")
    return made


def run(dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Report on `dirs`, print the table and what was written, and return the page's path.

    Raises:
        UserError: no run found, or a file that cannot be read or written; the message names it.
    """
    from pnp.report import compare_runs, find_runs, write_report
    from pnp.report.single import final_markdown

    found = find_runs(dirs)
    if len(dirs) == 1 and found == [dirs[0].resolve()]:
        page = write_report(dirs[0], out / "report.html" if out else None)
        print(final_markdown(dirs[0]))
        written = [page]
    else:
        page, table_csv, table_md, table = compare_runs(dirs, out)
        print(table)
        written = [page, table_csv, table_md]
    print("\n".join(f"wrote {path}" for path in written))
    return page


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's mistake ends in one line and exit status 2."""
    args = parser().parse_args(argv)
    try:
        page = run(args.dirs, args.out)
    except UserError as error:
        print(f"pnp-report: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
