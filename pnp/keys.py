"""Keys of a run's configuration: those that change no number, and those of earlier versions."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pnp.errors import UserError, whole
from pnp.files import flatten

# Two runs that differ only in keys that begin so are one job: no number of theirs differs.
NEUTRAL = (
    "run_dir", "resume", "wandb", "logger", "hydra", "choices", "data.num_workers", "data.resident",
    "evaluation.cache", "callbacks.checkpoints.every_n_steps", "callbacks.checkpoints.max_share",
    "trainer.enable_", "method.log_every", "method.cuda_graphs", "plugins",
    "callbacks.gradients", "callbacks.guard",
)  # fmt: skip
# These change no weight: a run may be resumed with other ones.
BESIDE_TRAINING = ("callbacks", "evaluation", "data.root")
# Keys of earlier versions, with the only value that still exists.
RETIRED = {"objective.queue": 0}
# Keys of earlier versions, with their place today.
MOVED = {"objective.global_batch": "method.global_batch"}

# Keys of later versions, with the value that does what earlier ones did.
ADDED = {
    "data.votes": None,
    "evaluation.views": 1,
    "objective.t": 2.0,
    "objective.beta": 1.0,
    "objective.temperature": 0.2,
    "objective.decoupled": True,
    "objective.target": "pairs",
    "objective.distortion": 0.2,
    "objective.weights.coding_rate": 0,
    "method.momentum_warmup": False,
    "method.average": None,
    "trainer.benchmark": False,
    "trainer.tf32": True,
}

# Values of today that change no number beside the earlier one.
ALIKE = {
    "callbacks.checkpoints.monitor": ("auto", "probe/teacher/knn"),
    "callbacks.monitor.every_n_epochs": ("auto", 1),
}


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
        if name in node and ((value := node.pop(name)) is not None or new not in target):
            target[new] = value
    return config


def renamed(overrides: Sequence[str]) -> list[str]:
    """Overrides of a command line with today's keys; each replacement prints one line."""
    words: list[str] = []
    for word in overrides:
        key, equals, value = word.partition("=")
        bare = key.lstrip("+~")
        if place := MOVED.get(bare):
            print(f"{bare} is now {place}; the old name still works.")
            word = f"{key[: -len(bare)]}{place}{equals}{value}"
        words.append(word)
    return words


def check_effects(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Refuse a seed that is none, and settings that would change nothing in this composition.

    Args:
        config: the composed configuration.
        overrides: words of the command line.

    Raises:
        UserError: names the key and what to do.
    """
    whole("seed", config["seed"], 0, 2**32 - 1)
    own = config["method"].get("projector") or {}
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        section, _, name = key.rpartition(".")
        if section == "model.projector" and name in own and value != str(own[name]):
            raise UserError(
                f"{word} has no effect: this method sets method.projector.{name}={own[name]}. "
                "Set that key instead."
            )
    objective, views, optim = config["objective"], config["views"], config["optim"]
    if config.get("scale", "sphere") != "sphere" and "scale" not in objective:
        raise UserError(
            f"scale={config['scale']} has no effect: {objective['_target_']} has no scale. Remove "
            "it, or choose an objective of P¬P, such as objective=full."
        )
    if not views.get("local") and views.get("local_size") is not None:
        raise UserError(
            f"views.local_size={views['local_size']} has no effect: views.local is 0. Set "
            "views.local to a number of small crops, or remove it."
        )
    idle = {"adamw": "momentum", "sgd": "betas", "lars": "betas"}.get(str(optim.get("name")))
    if idle in optim:
        raise UserError(f"optim.{idle} has no effect on optim={optim.get('name')}. Remove it.")


def original(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in the form of version 0.1, flat: job identities are hashes of that form."""
    flat = flatten(dict(config))
    for key, place in MOVED.items():
        if place in flat:
            flat[key] = flat.pop(place) if flat.get(key) is None else flat[key]
            flat.pop(place, None)
    ours = flat.get("objective._target_") == "pnp.objectives.PNP"
    for key, constant in ADDED.items():
        known = ours or not key.startswith("objective.")
        if known and key in flat and flat[key] == constant:
            del flat[key]
    for key, (value, earlier) in ALIKE.items():
        if flat.get(key) == value:
            flat[key] = earlier
    return RETIRED | flat if ours else flat


def _section(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section of a key, empty where there is none, and the key's last word."""
    section, name = key.split(".")
    node = config.get(section)
    return (node if isinstance(node, dict) else {}), name
