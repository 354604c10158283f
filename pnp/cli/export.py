"""`pnp-export`: a backbone or a decider as a folder to share, or on the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from pnp.errors import UserError


def export(cfg: Any) -> Path:
    """Write the backbone of a run or a checkpoint with its normalisation and its model card.

    A decider is a folder already: it gets a `model.onnx`, or goes to the Hub.

    Args:
        cfg: a composed `conf/export.yaml`.

    Returns:
        The folder that was written.

    Raises:
        UserError: nothing or more than one thing to export, a network that the run does not have,
            data other than the run's, or a folder that contains something else.
    """
    from pnp.export import hub
    from pnp.runs.config import only_one, plain, words

    config = plain(cfg)
    words(config, "run", "ckpt", "decider", "network", "out", "license", "hub")
    source = only_one(config, run="DIR", ckpt="FILE", decider="DIR")
    from pnp import files, plugins
    from pnp.export import card

    plugins.allow(config["plugins"])
    if config["hub"] is not None:
        hub.check_name(str(config["hub"]))
    if source == "decider":
        return _share_decider(config)
    from pnp.export.folder import refuse_foreign, save
    from pnp.runs import directory, reopen

    file = directory.find_checkpoint(config[source], source)
    folder = Path(config["run"]) if config["run"] else None
    out = Path(config["out"] or (folder / "export" if folder else f"{file.with_suffix('')}_export"))
    refuse_foreign(out)
    run = reopen.open_run(file, source)
    net, options, name = reopen.encoder(run, config["network"])
    training = reopen.training_facts(run, folder, name)
    facts = {"network": name, "training": training}
    metrics = files.read_json(folder / "metrics.json", dict, {}) if folder else {}
    bands = files.read_json(folder / "band.json", dict, {}) if folder else {}
    text = card.write(
        net, options, facts, metrics, bands, license=config["license"], hub=config["hub"]
    )
    save(net, out, options, facts, text, onnx=config["onnx"])
    print(f"wrote {out}: {', '.join(f'{f.name} ({_size(f)})' for f in sorted(out.iterdir()))}")
    for alarm in training["alarms"]:
        print(f"ALARM of this run, {alarm}")
    print(f"the {name} after {training['steps']} steps; load it with:")
    print(f'  import pnp\n  net = pnp.load("{out}")\n  features = net(images)')
    if config["hub"]:
        print(f"uploaded to {hub.upload(out, str(config['hub']), private=config['private'])}")
    return out


def _share_decider(config: dict[str, Any]) -> Path:
    """Add what others need to the folder of a decider, and upload it."""
    from pnp.decider import card, folder
    from pnp.export import hub
    from pnp.files import write_text

    for key in ("network", "out", "license"):
        if config[key] is not None:
            raise UserError(f"{key}= has no effect with decider=: its folder is written already.")
    place = Path(config["decider"])
    decider = folder.read(place)
    if config["onnx"]:
        folder.add_onnx(place)
        print(f"wrote {place / 'model.onnx'}: images to score and region (1 P, 0 notP, -1 band)")
    if config["hub"]:
        name = str(config["hub"])
        write_text(place / "README.md", card.write(decider, f"hub:{name}"))
        print(f"uploaded to {hub.upload(place, name, private=config['private'])}; load it with:")
        print(f'  decider = pnp.load_decider("hub:{name}")')
    return place


def _size(file: Path) -> str:
    count = file.stat().st_size
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def main() -> None:
    """Console script `pnp-export`."""
    from pnp.runs.launch import launch

    launch("export", export)


if __name__ == "__main__":
    main()
