"""Networks to evaluate or to export: of a run, of a checkpoint, or of a file from elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from torch import nn

from pnp import __version__, files, weights
from pnp.backbones import SMALL_IMAGE, backbone
from pnp.data import DataModule
from pnp.errors import UserError, choice, whole
from pnp.evaluation.evaluate import Pixels
from pnp.export.encoder import Encoder
from pnp.method import SelfSupervised
from pnp.results import better
from pnp.runs import directory
from pnp.runs.config import build, checked, compose, option_names, plain
from pnp.runs.parts import parts
from pnp.views import Views

SECTIONS = ("data", "views", "model", "method", "objective", "optim")


@dataclass(frozen=True)
class Run:
    """A checkpoint with the objects of its configuration; `untrained` is the initial backbone."""

    file: Path
    checkpoint: dict[str, Any]
    data: DataModule
    module: SelfSupervised
    untrained: nn.Module


def open_run(path: str | Path, key: str = "resume") -> Run:
    """Load a checkpoint, and build what its configuration describes.

    Args:
        path: a checkpoint, or a run directory for its last one.
        key: name of the setting, for the message.

    Raises:
        UserError: it is none of pnp-train, or its data are not there any more, or changed.
    """
    file = directory.find_checkpoint(path, key)
    checkpoint = directory.load_checkpoint(file)
    config = checkpoint["config"]
    if lacking := [key for key in ("seed", *SECTIONS) if key not in config]:
        raise UserError(f"{file} is no checkpoint of pnp-train: its config lacks {lacking[0]}.")
    lightning.seed_everything(whole("seed", config["seed"], 0), workers=True, verbose=False)
    data, module, untrained = parts(config)
    directory.check_splits(file, checkpoint, data)
    found = weights.fit(module, checkpoint["state_dict"])
    directory.refuse_misfit(file, found)
    module.load_state_dict(found.state)
    return Run(file, checkpoint, data, module, untrained)


def from_backbone(config: Mapping[str, Any]) -> tuple[nn.Module, DataModule, Views]:
    """A backbone by name, with weights from a file or from timm, and data: `conf/evaluate.yaml`.

    Raises:
        UserError: a backbone without weights, or weights that do not fit.
    """
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    data = build(config["data"], "data")
    views = build(config["views"], "views", size=data.size, mean=data.mean, std=data.std)
    options = {"in_channels": data.channels, "image_size": data.size}
    options |= {k: v for k, v in (config["model"] or {}).items() if k != "projector"}
    name = config["backbone"]
    if name == "pixels":
        network: nn.Module = Pixels()
    else:
        options["name"] = options.get("name", "small_cnn") if name == "random" else name
        options["pretrained"] = bool(config["pretrained"])
        network = checked(backbone, "model", options)
    if config["state_dict"]:
        weights.load(network, Path(str(config["state_dict"])), partial=config["partial"])
    elif name not in ("pixels", "random") and not config["pretrained"]:
        raise UserError(
            f"backbone={name} has no weights: give state_dict=FILE or pretrained=true, or "
            f"backbone=random model='{{name: {name}}}' to evaluate it untrained."
        )
    return network, data, views


def other_data(
    trained: DataModule, name: str, options: Mapping[str, Any]
) -> tuple[DataModule, Views]:
    """An option of `conf/data` with further keys, resized to what networks were trained on.

    Raises:
        UserError: no such data set, or one with another number of channels.
    """
    choice("datasets", name, option_names("data"))
    config = plain(compose("evaluate", [f"data={name}"]))
    data = build({**config["data"], **options, "size": trained.size}, f"datasets.{name}")
    if data.channels != trained.channels:
        raise UserError(
            f"datasets={name} has {data.channels} channel(s), but the networks were trained on "
            f"{trained.channels}."
        )
    return data, build(config["views"], "views", size=data.size, mean=data.mean, std=data.std)


def encoder(run: Run, name: str | None) -> tuple[Encoder, dict[str, Any], str]:
    """A network of a run with its preprocessing, the options of its backbone, and its name.

    `name` None takes the main network, see `main_network`.

    Raises:
        UserError: the run has no such network.
    """
    data, views, config = run.data, run.module.views, run.checkpoint["config"]
    networks = run.module.networks
    name = choice("network", name or main_network(run), networks)
    options = {k: v for k, v in config["model"].items() if k not in ("projector", "pretrained")}
    options |= {"in_channels": data.channels, "image_size": data.size}
    if options.get("stem") == "auto":  # resolved, for readers and for other loaders
        options["stem"] = "small" if data.size <= SMALL_IMAGE else "large"
    network = networks[name]
    weights.refuse_odd(network.state_dict(), f"the {name} of {run.file}")
    net = Encoder(
        network.backbone, channels=data.channels, size=data.size, mean=views.mean, std=views.std
    )
    return net.eval().requires_grad_(False).cpu(), options, name


def main_network(run: Run) -> str:
    """The better network of a run on validation, as it was recorded.

    That of `run.json` for a run's last checkpoint, else that of the checkpoint. Runs of version 0.1
    recorded none: the teacher, if there is one.
    """
    facts = files.read_json(run.file.resolve().parent.parent / "run.json", dict, {})
    recorded = [run.checkpoint.get("main"), (facts.get("main") or {}).get("network")]
    if run.file.name == "last.ckpt":
        recorded.reverse()
    return next(filter(None, recorded), better(dict.fromkeys(run.module.networks, 0.0)))


def training_facts(run: Run, folder: Path | None, network: str) -> dict[str, Any]:
    """Entries about the training for the model card and `config.json`; no path of this machine.

    `folder` is None for a checkpoint without a run directory.
    """
    config = run.checkpoint["config"]
    facts = files.read_json(folder / "run.json", dict, {}) if folder else {}
    alarms = files.read_json(folder / "alarms.json", list, []) if folder else []
    choices, published = config.get("choices") or {}, config["model"].get("pretrained")
    commit = directory.commit()
    named = ("method", "objective", "model", "views", "optim", "experiment")
    return {
        "data": config["data"]["dataset"],
        "choices": {key: choices[key] for key in named if choices.get(key)},
        "scale": config.get("scale"),
        "seed": config["seed"],
        "checkpoint": run.file.name,
        "steps": int(run.checkpoint["global_step"]),
        "batch_size": run.data.batch_size,
        "started_from": "timm's published weights" if published else "random weights",
        "alarms": [
            f"epoch {a['epoch']}: {a['message']}" for a in alarms if a["network"] == network
        ],
        "splits": facts.get("splits", {}),
        **{key: facts.get(key) for key in ("protocol", "commit", "machine", "torch", "precision")},
        "exported_by": f"pnp-ssl {__version__}" + (f", commit {commit}" if commit else ""),
    }
