"""Checks of the data options, with messages that help."""

import difflib
from collections.abc import Iterable
from typing import cast

from pnp.errors import UserError


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Raise unless `data.<name>` is one of the known values; the message names the nearest."""
    names = list(known)
    if value not in names:
        near = difflib.get_close_matches(str(value), [str(k) for k in names], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        choices = ", ".join(str(k) for k in names)
        raise UserError(f"data.{name}={value} is unknown; choose from {choices}.{hint}")


def at_least(name: str, value: object, least: int) -> None:
    """Raise unless `data.<name>` is None or a whole number of at least `least`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or cast(int, value) < least:
        raise UserError(f"data.{name}={value!r}: give a whole number, at least {least}.")
