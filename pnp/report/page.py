"""Parts that every page shares: templates, formats of numbers, markdown, safe writing."""

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import pnp
from pnp.errors import UserError
from pnp.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "spread": spread, "measure": measure}
    return environment


def render(
    template: str, scripts: Sequence[str] = (), folder: Path = TEMPLATES, **values: Any
) -> str:
    """Fill a template of a folder into one page that loads nothing and runs these scripts only."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    policy = f"script-src {' '.join(hashes) or chr(39) + 'none' + chr(39)}"
    filled = _environment(folder).get_template(template)
    return filled.render(scripts=scripts, policy=policy, version=pnp.__version__, **values)


def save(path: Path, text: str) -> Path:
    """Write `text` so that a reader sees the old file or the new one, never half of it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def number(value: float | None) -> str:
    """A metric for people: three decimals where they carry it, else three digits.

    >>> number(0.88951), number(59.2), number(12345.6), number(2e-05), number(None)
    ('0.890', '59.2', '12,346', '2e-05', '–')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}" if size < 1e7 else f"{value:.3g}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if size >= 0.001 or size == 0 else f"{value:.2g}"


def measure(value: float, unit: str) -> str:
    """A result in its unit: shares in percent, with a decimal where they carry one.

    >>> measure(0.574, "share"), measure(0.0097, "share"), measure(0.0004, "share")
    ('57.4', '1.0', '0.04')
    >>> measure(59.2, "dimensions")
    '59.2'
    """
    if unit != "share" or not math.isfinite(value):
        return number(value)
    return f"{100 * value:.1f}" if abs(value) >= 0.00095 or value == 0 else f"{100 * value:.1g}"


def spread(std: float, mean: float) -> str:
    """A standard deviation with as many decimals as `number` gives the mean.

    >>> spread(0.00042, 0.889), spread(0.4, 57.2)
    ('0.000', '0.4')
    """
    shown = number(mean)
    plain = shown.lstrip("-").replace(".", "").replace(",", "").isdigit()
    return f"{std:.{len(shown.partition('.')[2])}f}" if plain and std < 1e7 else number(std)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table whose source is aligned, so that it reads in a terminal too.

    >>> print(markdown_table(["run", "n"], [["full", 3]]))
    | run  | n   |
    | ---- | --- |
    | full | 3   |
    """
    table = [[" ".join(str(c).replace("|", "\\|").split()) for c in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(lines)
