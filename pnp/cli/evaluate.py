"""`pnp-evaluate`: probes, geometry and band on the frozen features of any network."""

import sys
import time
from pathlib import Path
from typing import Any

from pnp.errors import UserError, whole


def evaluate(cfg: Any) -> dict[str, float]:
    """Evaluate a run, a checkpoint, or a network trained elsewhere, and write its report.

    Args:
        cfg: a composed `conf/evaluate.yaml`.

    Returns:
        The flat metrics, as `pnp.cli.train.train` does; a network from elsewhere is `network`.

    Raises:
        UserError: nothing or more than one thing to evaluate, or weights that do not fit.
    """
    started = time.time()
    from dataclasses import replace
    from functools import partial

    import torch

    from pnp import files, plugins
    from pnp.cpu import keep_freed_memory
    from pnp.evaluation import evaluate
    from pnp.runs import directory, reopen
    from pnp.runs.config import build, mapping, only_one, plain, words
    from pnp.runs.finish import mark_finished, write_results
    from pnp.runs.hints import without_effect
    from pnp.runs.parts import placement

    keep_freed_memory()
    facts: dict[str, Any] = directory.provenance()
    config = plain(cfg)
    words(config, "run", "ckpt", "backbone", "state_dict", "run_dir")
    config["model"] = mapping("model", config["model"] or {})
    plugins.allow(config["plugins"])
    for sentence in without_effect(directory.overrides()).values():
        raise UserError(sentence)
    source = only_one(config, run="DIR", ckpt="FILE", backbone="NAME")
    further = _datasets(config)
    whole("seed", config["seed"], 0, 2**32 - 1)
    protocol = build(config["evaluation"], "evaluation")
    in_place = config["run"] and not config["run_dir"]
    folder = Path(str(config["run"])) if in_place else directory.run_directory(cfg)
    layout = torch.channels_last
    if source == "backbone":
        network, data, views = reopen.from_backbone(config)
        networks, references, trained = {"network": network}, {}, config
    else:
        run = reopen.open_run(config[source], source)
        data, views, networks = run.data, run.module.views, run.module.networks
        references = evaluate.references(protocol, run.untrained)
        layout = run.module.memory_format
        trained = {**run.checkpoint["config"], "evaluation": config["evaluation"]}
    device, precision, autocast = placement(config["accelerator"], config["precision"], "")
    cache = folder / "features" if protocol.cache else None
    setting = evaluate.Setting(data, views, device, layout, autocast, precision, cache)
    main = (files.read_json(folder / "run.json", dict, {}).get("main") or {}).get("network")
    measure = partial(evaluate.evaluate_networks, networks=networks, references=references,
                      protocol=protocol, main=main)  # fmt: skip
    rows = measure(folder, setting=setting)
    for name, options in further.items():
        (folder / name).mkdir(exist_ok=True)
        other, plain_views = reopen.other_data(data, name, options)
        more = measure(folder / name, setting=replace(setting, data=other, views=plain_views))
        rows += [replace(row, data=name) for row in more]
    record = data.split_record()
    if not in_place:  # what the networks were trained with: reports compare and pair by it
        directory.save_config(folder, {**trained, "run_dir": str(folder)})
        files.write_json(folder / "splits.json", record)
    seconds = round(time.time() - started, 1)
    facts |= {"evaluation_seconds": seconds, "precision": precision, "splits": record}
    if in_place:  # config.yaml tells what was trained: resuming and the job's identity need it
        facts["evaluation"] = config["evaluation"]
    if training := files.read_json(folder / "run.json", dict, {}):  # its own facts stay
        facts = {**training, "evaluated": facts}
    metrics = write_results(folder, rows, facts, protocol)
    mark_finished(folder)
    return metrics


def _datasets(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The further data sets with their options; `probes` is an older name of `datasets`."""
    from pnp.runs.config import mapping

    if config["probes"]:
        if config["datasets"]:
            raise UserError("probes is the older name of datasets: give datasets alone.")
        print("probes= is the older name of datasets=.", file=sys.stderr)
    datasets = config["datasets"] or config["probes"] or {}
    if isinstance(datasets, str):
        datasets = [datasets]
    if not isinstance(datasets, dict | list):
        raise UserError(f"datasets={datasets}: give a list of names, as in datasets=[cifar10].")
    if isinstance(datasets, list):
        return {str(name): {} for name in datasets}
    return {name: mapping(f"datasets.{name}", keys or {}) for name, keys in datasets.items()}


def main() -> None:
    """Console script `pnp-evaluate`."""
    from pnp.runs.launch import launch

    launch("evaluate", evaluate)


if __name__ == "__main__":
    main()
