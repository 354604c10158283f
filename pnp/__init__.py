"""P¬P SSL: alignment is local, dispersion is global and explicit.

Importing this package is light: torch comes with the modules that need it.
"""

from typing import TYPE_CHECKING, Any

from pnp.cpu import sleep_at_barriers

if TYPE_CHECKING:
    from pnp.api import Run, evaluate, open_run, save, train
    from pnp.decider.decider import Decider
    from pnp.export.encoder import Encoder

__version__ = "0.1.0"
__all__ = ["Run", "evaluate", "load", "load_decider", "open_run", "save", "train"]
sleep_at_barriers()  # here, since torch's runtime reads the environment when it is loaded


def __getattr__(name: str) -> Any:
    """Import the functions of `pnp.api` on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pnp import api

    return getattr(api, name)


def load(path: Any) -> "Encoder":
    """Load a network that `pnp-export` wrote: `features = pnp.load(path)(images)`.

    It comes in evaluation mode and without gradients; `net.requires_grad_(True).train()` is for
    those who fine-tune. It takes images (N, C, S, S), uint8 or floats in [0, 1], normalises them
    itself, and gives float32 features (N, `net.dim`).

    Args:
        path: the folder, or `hub:USER/NAME` for one on the Hugging Face Hub.

    Raises:
        pnp.errors.UserError: not an export, or a damaged one.
    """
    from pnp.export import encoder

    return encoder.load(path)


def load_decider(path: Any) -> "Decider":
    """Load a decider that `pnp-decide fit` wrote: `answers = pnp.load_decider(path)(images)`.

    `images` is a uint8 tensor (N, C, H, W), a uint8 array (N, H, W, C) or (N, H, W), PIL images or
    paths. The answers have `.scores`, `.regions` (1 = P, 0 = not-P, -1 = uncertain), `.words` and
    `.guarantee`.

    Args:
        path: the folder, or `hub:USER/NAME` for one on the Hugging Face Hub.

    Raises:
        pnp.errors.UserError: not a decider, or a damaged one.
    """
    from pnp.decider import folder

    return folder.read(path)
