"""`pnp-export`: the backbone of a run as a folder to share, or on the Hugging Face Hub."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError

if TYPE_CHECKING:
    from pnp.export.encoder import Encoder


def export(cfg: Any) -> Path:
    """Write the backbone of a run or a checkpoint, with its normalisation and its model card.

    Args:
        cfg: a composed `conf/export.yaml`.

    Returns:
        The folder that was written.

    Raises:
        UserError: nothing or more than one thing to export, a network the run has not, data that
            is not the run's, or a folder that is not ours to replace.
    """
    from pnp.runs.config import plain

    config = plain(cfg)
    file, folder = _source(config)
    hub = config["hub"]
    if hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(hub), re.ASCII):
        raise UserError(f"hub={hub}: expected USER/NAME, for instance hub=ada/shapes.")
    from pnp.export import card
    from pnp.export.folder import refuse_foreign, save
    from pnp.runs import directory

    out = Path(config["out"] or (folder / "export" if folder else f"{file.with_suffix('')}_export"))
    refuse_foreign(out)
    checkpoint = directory.load_checkpoint(file)
    net, options, name = _network(file, checkpoint, config["network"])
    facts = {"network": name, "training": _training(file, checkpoint, folder, name)}
    measured = _json(folder / "metrics.json") if folder else {}
    bands = _json(folder / "band.json") if folder else {}
    text = card.write(net, options, facts, measured, bands, license=config["license"], hub=hub)
    save(net, out, options, facts, text, onnx=config["onnx"])
    print(f"wrote {out}: {', '.join(f'{f.name} ({_size(f)})' for f in sorted(out.iterdir()))}")
    for alarm in facts["training"]["alarms"]:
        print(f"ALARM of this run, {alarm}")
    print(f"the {name} after {facts['training']['steps']} steps; load it with:")
    print(f'  import pnp\n  net = pnp.load("{out}")\n  features = net(images)')
    if hub:
        print(f"uploaded to {upload(out, str(hub), private=config['private'])}")
    return out


def upload(folder: Path, name: str, *, private: bool) -> str:
    """Put an export on the Hugging Face Hub, as one commit.

    Args:
        folder: what `pnp-export` wrote.
        name: `USER/NAME`; the repository is made if it is not there.
        private: of a repository that is made; an older one stays as it is.

    Returns:
        The address of the repository.

    Raises:
        UserError: huggingface-hub is missing, or the Hub refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError(
            "hub= needs the package huggingface-hub: pip install 'pnp-ssl[hub]'."
        ) from error
    api = HfApi()  # the token is the environment's HF_TOKEN or the one of `hf auth login`
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="pnp-export")
    except Exception as error:  # no token, no right, no network: the library has a class for each
        raise UserError(
            f"the upload to {name} failed; {folder} is written and can be uploaded again. Check "
            f"the token (HF_TOKEN or `hf auth login`) and its right to write.\n{error}"
        ) from error
    return str(address)


def _source(config: dict[str, Any]) -> tuple[Path, Path | None]:
    """The checkpoint, and the run directory whose measurements describe it."""
    given = [key for key in ("run", "ckpt") if config[key]]
    if len(given) != 1:
        raise UserError(
            f"give exactly one of run=DIR, ckpt=FILE; got {' and '.join(given) or 'none'}."
        )
    folder = Path(config["run"]) if config["run"] else None
    file = folder / "checkpoints" / "last.ckpt" if folder else Path(config["ckpt"])
    if not file.is_file():
        raise UserError(
            f"{given[0]}={config[given[0]]}: there is no checkpoint at {file}. Give a directory "
            "that pnp-train made (run=) or a .ckpt file (ckpt=)."
        )
    return file, folder


def _network(
    file: Path, checkpoint: dict[str, Any], asked: str | None
) -> tuple["Encoder", dict[str, Any], str]:
    """The chosen network with the run's own preprocessing, what it is built from, and its name."""
    from pnp.backbones import SMALL_IMAGE
    from pnp.export.encoder import Encoder
    from pnp.runs.parts import parts

    trained = checkpoint["config"]
    data, module, _ = parts(trained)
    _same_data(file, data)
    module.load_state_dict(checkpoint["state_dict"])
    networks: dict[str, Any] = {"student": module.student.backbone}
    if module.teacher is not None:
        networks["teacher"] = module.teacher.network.backbone
    name = asked or ("teacher" if "teacher" in networks else "student")
    if name not in networks:
        raise UserError(f"network={name}: this run has {' and '.join(sorted(networks))} only.")
    options = {k: v for k, v in trained["model"].items() if k not in ("projector", "pretrained")}
    options |= {"in_channels": data.channels, "image_size": data.size}
    if options.get("stem") == "auto":  # said outright, for readers and for other loaders
        options["stem"] = "small" if data.size <= SMALL_IMAGE else "large"
    views = module.views
    constants = {"mean": views.mean, "std": views.std}
    net = Encoder(networks[name], channels=data.channels, size=data.size, **constants)
    return net.eval().requires_grad_(False).cpu(), options, name


def _same_data(file: Path, data: Any) -> None:
    """The normalisation comes from the training images: they must be the ones of the run."""
    folder = file.resolve().parents[1] if len(file.resolve().parents) > 1 else file.parent
    recorded = _json(folder / "splits.json").get("train", {}).get("digest")
    if recorded is not None and recorded != data.splits["train"].digest():
        raise UserError(
            f"the images of {data.dataset} are not those that {folder} was trained on, and the "
            "normalisation would not fit the weights. Put the data back as it was."
        )


def _training(
    file: Path, checkpoint: dict[str, Any], folder: Path | None, network: str
) -> dict[str, Any]:
    """What the card and `config.json` say about the training; no path of this machine."""
    from pnp import __version__
    from pnp.runs.directory import commit

    config = checkpoint["config"]
    facts = _json(folder / "run.json") if folder else {}
    choices = config.get("choices") or {}
    named = ("method", "objective", "model", "views", "optim", "experiment")
    return {
        "data": config["data"]["dataset"],
        "choices": {key: choices[key] for key in named if choices.get(key)},
        "scale": config.get("scale"),
        "seed": config["seed"],
        "checkpoint": file.name,
        "steps": int(checkpoint["global_step"]),
        "batch_size": config["data"]["batch_size"],
        "started_from": "timm's published weights"
        if config["model"].get("pretrained")
        else "random weights",
        "alarms": [
            f"epoch {alarm['epoch']}: {alarm['message']}"
            for alarm in (_json(folder / "alarms.json") if folder else [])
            if alarm["network"] == network
        ],
        "splits": facts.get("splits", {}),
        "protocol": facts.get("protocol"),
        "commit": facts.get("commit"),
        "machine": facts.get("machine"),
        "torch": facts.get("torch"),
        "precision": facts.get("precision"),
        "exported_by": f"pnp-ssl {__version__}"
        + (f", commit {made}" if (made := commit()) else ""),
    }


def _json(file: Path) -> Any:
    """A JSON file of the run; empty where there is none."""
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file} is not JSON ({error}): write it anew with pnp-evaluate run={file.parent}."
        ) from error


def _size(file: Path) -> str:
    count = file.stat().st_size
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def main() -> None:
    """Console script `pnp-export`."""
    from pnp.runs.launch import launch

    launch("export", export)


if __name__ == "__main__":
    main()
