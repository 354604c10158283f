"""Gaps: what of an evaluation could not be measured or drawn, and why; the rest goes on."""

import logging
from collections.abc import Callable
from typing import TypeVar

from pnp.errors import UserError

T = TypeVar("T")


class Gaps(dict[str, str]):
    """Reasons by what is missing: `{"teacher, linear": "…"}`; `gaps.json` of a run directory."""

    def add(self, what: str, reason: str) -> None:
        """Note a gap, and say so."""
        self[what] = reason
        logging.getLogger(__name__).warning("%s is left out: %s", what, reason)

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """Return `work()`, or None where it fails: then the gap is noted."""
        try:
            return work()
        except Warning:  # python -W error asked for it
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else ""
            self.add(what, reason or f"{type(error).__name__}: {error}")
            return None
