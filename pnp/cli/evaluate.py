"""`pnp-evaluate`: probes, geometry and band on the frozen features of any network."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from pnp.evaluation.evaluate import Setting


def evaluate(cfg: Any) -> dict[str, float]:
    """Judge a run, a checkpoint, or a network trained elsewhere, and write its report.

    Args:
        cfg: a composed `conf/evaluate.yaml`.

    Returns:
        The flat metrics, as `pnp.cli.train.train` does; a network from elsewhere is `network`.

    Raises:
        UserError: nothing or more than one thing to judge, or weights that do not fit.
    """
    started = time.time()
    from pnp.cpu import keep_freed_memory
    from pnp.evaluation import evaluate
    from pnp.runs import directory
    from pnp.runs.config import build, plain

    keep_freed_memory()
    facts: dict[str, Any] = directory.facts()
    config = {key: value for key, value in plain(cfg).items() if key != "hydra"}
    given = [key for key in ("run", "ckpt", "backbone") if config[key]]
    if len(given) != 1:
        raise UserError(
            "give exactly one of run=DIR, ckpt=FILE, backbone=NAME; got "
            f"{', '.join(given) or 'none'}."
        )
    protocol = build(config["evaluation"], "evaluation")
    source = Path(config["run"] or config["ckpt"] or "")
    folder = source if config["run"] and not config["run_dir"] else directory.run_directory(cfg)
    networks, references, setting = (
        _from_backbone(config, protocol) if config["backbone"] else _from_run(config, protocol)
    )
    setting = _with_cache(setting, folder if protocol.cache else None)
    metrics = evaluate.judge(folder, networks, references, setting, protocol)
    for name in config["probes"] or ():
        options = config["probes"][name] if isinstance(config["probes"], dict) else {}
        other = _with_data(setting, name, options)
        other = _with_cache(other, folder if protocol.cache else None)
        (folder / name).mkdir(exist_ok=True)
        found = evaluate.judge(folder / name, networks, references, other, protocol)
        metrics |= {f"{name}/{key}": value for key, value in found.items()}
    if not (folder / "config.yaml").exists():
        directory.save_config(folder, config)
    facts["evaluation_seconds"] = round(time.time() - started, 1)
    facts["precision"] = setting.precision
    facts["splits"] = setting.data.split_record()
    old = folder / "run.json"
    if old.exists():  # the training's own facts stay
        import json

        facts = {**json.loads(old.read_text()), "evaluated": facts}
    evaluate.write(folder, metrics, facts)
    return metrics


def _from_run(config: dict[str, Any], protocol: Any) -> tuple[Any, Any, "Setting"]:
    """Student, teacher and references of a run directory or a checkpoint."""
    import lightning

    from pnp.evaluation import evaluate
    from pnp.runs import directory
    from pnp.runs.parts import parts

    file = directory.find_checkpoint(config["run"] or config["ckpt"])
    checkpoint = directory.load_checkpoint(file)
    trained = checkpoint["config"]
    lightning.seed_everything(trained["seed"], workers=True, verbose=False)
    data, module, initial = parts(trained)
    module.load_state_dict(checkpoint["state_dict"])
    setting = _setting(config, data, module.views, module.memory_format)
    return module.networks, evaluate.references(protocol, initial), setting


def _from_backbone(config: dict[str, Any], protocol: Any) -> tuple[Any, Any, "Setting"]:
    """A backbone by name, with weights from a file or from timm, on a data set of the config."""
    import lightning
    import torch

    from pnp.backbones import backbone
    from pnp.evaluation import evaluate
    from pnp.runs.config import build

    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    data = build(config["data"], "data")
    views = build(config["views"], "views", size=data.size, mean=data.mean, std=data.std)
    options = {"in_channels": data.channels, "image_size": data.size}
    options |= {k: v for k, v in (config["model"] or {}).items() if k != "projector"}
    name = config["backbone"]
    if name == "pixels":
        network: nn.Module = evaluate.Pixels()
    else:
        options["name"] = options.get("name", "small_cnn") if name == "random" else name
        network = backbone(**options, pretrained=config["pretrained"])
    if config["state_dict"]:
        _load(network, Path(config["state_dict"]))
    elif name not in ("pixels", "random") and not config["pretrained"]:
        raise UserError(
            f"backbone={name} has no weights: give state_dict=FILE or pretrained=true, or say "
            f"backbone=random model.name={name} to judge it untrained."
        )
    return {"network": network}, {}, _setting(config, data, views, torch.channels_last)


def _load(network: "nn.Module", file: Path) -> None:
    """Load weights into a backbone, safely; a classifier's last layer may be left over."""
    import torch

    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
    except Exception as error:  # whatever is wrong with the file, this is what the user needs
        raise UserError(f"state_dict={file} cannot be read: {error}") from error
    missing, unexpected = network.load_state_dict(state, strict=False)
    heads = ("fc.", "head.", "classifier.")
    if missing or [key for key in unexpected if not key.startswith(heads)]:
        raise UserError(
            f"state_dict={file} does not fit {type(network).__name__}: {len(missing)} keys missing "
            f"({', '.join(missing[:3])}…), {len(unexpected)} unexpected "
            f"({', '.join(unexpected[:3])}…). Strip prefixes such as 'backbone.' from its keys."
        )


def _setting(config: dict[str, Any], data: Any, views: Any, memory_format: Any) -> "Setting":
    import torch

    from pnp.evaluation import evaluate
    from pnp.runs.parts import hardware

    accelerator, precision = hardware(config["accelerator"], config["precision"])
    device = torch.device("cuda" if accelerator in ("gpu", "cuda") else accelerator)

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    return evaluate.Setting(data, views, device, memory_format, autocast, str(precision))


def _with_cache(setting: "Setting", folder: Path | None) -> "Setting":
    from dataclasses import replace

    return replace(setting, cache=folder / "features" if folder else None)


def _with_data(setting: "Setting", name: str, options: dict[str, Any]) -> "Setting":
    """The same networks on another data set: its own images, resized to what the networks saw."""
    from dataclasses import replace

    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException

    from pnp.runs.config import build, plain
    from pnp.runs.launch import conf_dir

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            config = plain(compose("evaluate", [f"data={name}"]))
        except MissingConfigException as error:
            known = ", ".join(sorted(file.stem for file in (conf_dir() / "data").glob("*.yaml")))
            raise UserError(f"probes={name} is no data set; choose from {known}.") from error
    chosen = {**config["data"], **options, "size": setting.data.size}
    data = build(chosen, f"probes.{name}")
    if data.channels != setting.data.channels:
        raise UserError(
            f"probes={name} has {data.channels} channel(s), but the networks were trained on "
            f"{setting.data.channels}."
        )
    views = build(config["views"], "views", size=data.size, mean=data.mean, std=data.std)
    return replace(setting, data=data, views=views)


def main() -> None:
    """Console script `pnp-evaluate`."""
    from pnp.runs.launch import launch

    launch("evaluate", evaluate)


if __name__ == "__main__":
    main()
