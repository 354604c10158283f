"""Keys of a run's configuration: those that change no number, and those of earlier versions."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pnp.errors import UserError
from pnp.files import flatten

# Two runs that differ only in keys that begin so are one job: no number of theirs differs.
NEUTRAL = (
    "run_dir", "resume", "wandb", "logger", "hydra", "choices", "data.num_workers", "data.resident",
    "evaluation.cache", "callbacks.checkpoints.every_n_steps", "trainer.enable_",
    "method.log_every", "method.cuda_graphs",
)  # fmt: skip
# These change no weight: a run may be resumed with other ones.
BESIDE_TRAINING = ("callbacks", "evaluation", "data.root")
# Keys of earlier versions, with the only value that still exists.
RETIRED = {"objective.queue": 0}
# Keys of earlier versions, with their place today.
MOVED: dict[str, str] = {}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of an earlier version in today's form.

    Use it wherever a saved configuration is read; today's form is left as it is.

    Raises:
        UserError: a value that this version cannot reproduce.
    """
    config = deepcopy(dict(config))
    for key, left in RETIRED.items():
        node, name = _section(config, key)
        if name in node and (value := node.pop(name)) != left:
            raise UserError(
                f"{key}={value!r} is gone; only {left} is left of it. Version 0.1 has it."
            )
    for key, place in MOVED.items():
        (node, name), (target, new) = _section(config, key), _section(config, place)
        if name in node and (value := node.pop(name)) is not None:
            target[new] = value
    return config


def original(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in the form of version 0.1, flat: job identities are hashes of that form."""
    flat = flatten(dict(config))
    for key, place in MOVED.items():
        if place in flat:
            flat[key] = flat.pop(place) if flat.get(key) is None else flat[key]
            flat.pop(place, None)
    if flat.get("objective._target_") == "pnp.objectives.PNP":
        flat = RETIRED | flat
    return flat


def _section(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section that holds a dotted key, empty where there is none, and the key's last word."""
    section, _, name = key.rpartition(".")
    node: Any = config
    for word in section.split("."):
        node = node.get(word) if isinstance(node, dict) else None
    return (node if isinstance(node, dict) else {}), name
