"""The console: every text can be printed, whatever characters the terminal or the file takes."""

import codecs
import io
import sys
import unicodedata

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
