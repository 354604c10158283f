"""The user's own packages: names in a config are imported from those that the user allows.

Importing runs code, so the list comes from the command line (`plugins=[my_package]`), from Python
(`allow`) or from the environment (PNP_PLUGINS=my_package,other), and never from a saved config.
"""

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from pnp.errors import UserError

ENVIRONMENT = "PNP_PLUGINS"
_allowed: set[str] = set()


def allow(packages: Iterable[str]) -> None:
    """Allow imports from these top-level packages, in this process."""
    _allowed.update(packages)


def find(name: str, key: str) -> Any:
    """The object of a name such as `my_package.nets:Tiny` or `my_package.nets.Tiny`.

    Args:
        name: the name; its package must be allowed. It may lie in the working directory.
        key: the setting that gives the name, for messages.

    Raises:
        UserError: a package that is not allowed, or that has no such object.
    """
    place, _, attribute = name.replace(":", ".").rpartition(".")
    package = place.split(".")[0]
    named = {word.strip() for word in os.environ.get(ENVIRONMENT, "").split(",")}
    if not package or package not in _allowed | named:
        raise UserError(
            f"{key}={name!r} is not allowed: building it runs code of {package or name!r}. If you "
            f"trust that package, give plugins=[{package or 'PACKAGE'}] on the command line or "
            f"{ENVIRONMENT}={package or 'PACKAGE'} in the environment."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}={name!r} does not exist: {error}.") from error
