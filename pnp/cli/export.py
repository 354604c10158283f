"""`pnp-export`: the backbone of a run as a folder to share, or on the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from pnp.errors import UserError


def export(cfg: Any) -> Path:
    """Write the backbone of a run or a checkpoint, with its normalisation and its model card.

    Args:
        cfg: a composed `conf/export.yaml`.

    Returns:
        The folder that was written.

    Raises:
        UserError: nothing or more than one thing to export, a network that the run does not have,
            data other than the run's, or a folder that contains something else.
    """
    from pnp.runs.config import plain

    config = plain(cfg)
    given = [key for key in ("run", "ckpt") if config[key]]
    if len(given) != 1:
        raise UserError(
            f"give exactly one of run=DIR, ckpt=FILE; got {' and '.join(given) or 'none'}."
        )
    from pnp import files, plugins
    from pnp.export import card, hub
    from pnp.export.folder import refuse_foreign, save
    from pnp.runs import directory, reopen

    plugins.allow(config["plugins"])
    file = directory.find_checkpoint(config[given[0]], given[0])
    folder = Path(config["run"]) if config["run"] else None
    if config["hub"] is not None:
        hub.check_name(str(config["hub"]))
    out = Path(config["out"] or (folder / "export" if folder else f"{file.with_suffix('')}_export"))
    refuse_foreign(out)
    run = reopen.open_run(file)
    net, options, name = reopen.encoder(run, file, config["network"])
    training = reopen.training_facts(run, file, folder, name)
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


def _size(file: Path) -> str:
    count = file.stat().st_size
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def main() -> None:
    """Console script `pnp-export`."""
    from pnp.runs.launch import launch

    launch("export", export)


if __name__ == "__main__":
    main()
