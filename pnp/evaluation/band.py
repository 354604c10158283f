"""The band under the name it had in version 0.1; see `pnp.band`."""

from pnp.band import *  # noqa: F403
