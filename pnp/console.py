"""The console: every text can be printed, whatever characters the terminal or the file takes."""

import codecs
import io
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Plain words for what this program prints beyond ASCII.
PLAIN = {
    "¬": "n", "σ": "sigma", "√": "sqrt", "δ": "delta", "η": "eta", "λ": "lambda", "·": "-",
    "×": "x", "…": "...", "–": "-", "—": "-", "−": "-", "“": '"', "”": '"', "’": "'", "≡": "==",
    "→": "->", "≥": ">=", "≤": "<=", "±": "+-", "‖": "|", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip


def fall_back() -> None:
    """Have stdout and stderr print plain letters where their encoding lacks a character."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


@contextmanager
def bar(
    title: str, total: int, done: int = 0, *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal; gives `advance(count)`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = TimeElapsedColumn(), TimeRemainingColumn()
    quiet = quiet or not console.is_terminal
    with Progress(*columns, *times, console=console, disable=quiet, transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def printable(name: str) -> str:
    r"""A file name as UTF-8 can write it: bytes that are no UTF-8 become escapes.

    >>> printable("caf\udce9")
    'caf\\udce9'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def one_line(name: str) -> str:
    r"""A name as one line that a picture can show: control characters become escapes, too.

    >>> one_line("two\nlines")
    'two\\nlines'
    """
    odd = {letter for letter in name if unicodedata.category(letter) in ("Cc", "Cs")}
    return "".join(repr(letter)[1:-1] if letter in odd else letter for letter in name)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    return "".join(_letter(letter) for letter in letters), error.end


def _letter(letter: str) -> str:
    drawn = "-" if "─" <= letter <= "╿" else "*" if "⠀" <= letter <= "⣿" else None
    return drawn or PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode()
