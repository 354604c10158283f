"""Gaps: what of an evaluation could not be measured or drawn, and why; the rest goes on."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pnp.errors import UserError
from pnp.files import is_disk_full
from pnp.signals import Interrupted, listener

T = TypeVar("T")


class Gaps(dict[str, str]):
    """Reasons by what is missing: `{"teacher, linear": "…"}`; `gaps.json` of a run directory."""

    def add(self, reasons: Mapping[str, str]) -> None:
        """Note gaps, and say in one line which of them are new."""
        new = [what for what in reasons if what not in self]
        self.update(reasons)
        if not new:
            return
        names = ", ".join(new[:3]) + f" and {len(new) - 3} more" * (len(new) > 3)
        verb = "is" if len(new) == 1 else "are"
        logging.getLogger(__name__).warning("%s %s left out: %s", names, verb, reasons[new[0]])

    def attempt(self, what: str, work: Callable[..., T], *args: Any, **options: Any) -> T | None:
        """Return `work(*args, **options)`, or None where it fails: then the gap is noted.

        Raises:
            Interrupted: a signal came, also where C code has put its own exception in its place.
        """
        try:
            return work(*args, **options)
        except Warning:  # python -W error asked for it
            raise
        except Exception as error:
            if listener.raised:  # matplotlib makes a ValueError of it
                raise Interrupted(listener.raised) from error
            if is_disk_full(error):  # nothing else can be written either
                raise
            reason = str(error) if isinstance(error, UserError) else ""
            self.add({what: reason or f"{type(error).__name__}: {error}"})
            return None
