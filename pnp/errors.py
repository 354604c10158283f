"""The error for mistakes that a user can mend, and the checks of single values that raise it."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Bad input; the message says what was seen, what was expected and what to do."""


def near(word: object, known: Iterable[object]) -> str:
    """A sentence that names the known word closest to `word`; empty where none is close.

    >>> near("hnge", ["hinge", "softplus"])
    ' Did you mean hinge?'
    """
    by_lower = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(str(word).lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]}?" if close else ""


def choice(key: str, value: T, known: Iterable[object]) -> T:
    """Return `value` if it is one of the known ones.

    Args:
        key: full name of the setting, for the message.
        value: as given.
        known: what it may be.

    Raises:
        UserError: it is none of them; names the nearest.
    """
    words = list(known)
    # True == 1: a switch is no number.
    if not any(value == word and type(value) is type(word) for word in words):
        raise UserError(
            f"{key}={value} is unknown; choose from {', '.join(map(str, words))}."
            f"{near(value, words)}"
        )
    return value


def whole(key: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Return `value` if it is a whole number in [least, most].

    Args:
        key: full name of the setting, for the message.
        value: as given.
        least: smallest one allowed.
        most: largest one allowed; None for no limit.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key}={value}: give a whole number, at least {least}.")
    if most is not None and value > most:
        raise UserError(f"{key}={value}: give a whole number, at most {most}.")
    return value


def number(
    key: str,
    value: object,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a float if it is a finite number between `least` and `most`.

    Args:
        key: full name of the setting, for the message.
        value: as given.
        least: smallest one allowed.
        most: largest one allowed.
        open_low: exclude `least` itself.
        open_high: exclude `most` itself.

    Raises:
        UserError: it is not.

    >>> number("optim.lr", 1, 0, open_low=True)
    1.0
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        above = value > least if open_low else value >= least
        below = value < most if open_high else value <= most
        if above and below:
            return float(value)
    if most == math.inf:
        expected = f"{'above' if open_low else 'of at least'} {least:g}"
        expected = f"a finite number {expected}" if least > -math.inf else "a finite number"
    else:
        low, high = "(" if open_low else "[", ")" if open_high else "]"
        expected = f"a number in {low}{least:g}, {most:g}{high}"
    raise UserError(f"{key}={value}: give {expected}.")
