"""What every page shares: templates, number formats, safe writing."""

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import pnp
from pnp.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["spread"] = spread
    return environment


def render(template: str, scripts: Sequence[str] = ("page.js",), **values: Any) -> str:
    """Fill a template into one page that loads nothing and runs only our own scripts."""
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=f"sha256-{digest}",
            version=pnp.__version__,
            **values,
        )
    )


def save(path: Path, text: str) -> Path:
    """Write `text` so that a reader sees the old file or the new one, never half of it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
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


def spread(std: float, mean: float) -> str:
    """A standard deviation with as many decimals as `number` gives the mean.

    >>> spread(0.00042, 0.889), spread(0.4, 57.2)
    ('0.000', '0.4')
    """
    shown = number(mean)
    plain = shown.lstrip("-").replace(".", "").replace(",", "").isdigit()
    return f"{std:.{len(shown.partition('.')[2])}f}" if plain and std < 1e7 else number(std)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one dictionary with dotted keys; lists become text.

    >>> flatten({"a": {"b": 1, "c": [1, 2]}})
    {'a.b': 1, 'a.c': '1, 2'}
    """
    if isinstance(tree, dict):
        leaves: dict[str, Any] = {}
        for key, value in tree.items():
            leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return leaves
    if isinstance(tree, list):
        tree = ", ".join(str(item) for item in tree)
    return {prefix: tree}
