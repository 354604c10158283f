"""Encoders for deciders, of a run or from elsewhere, and the labelled images to fit them on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp import __version__, files
from pnp.backbones import backbone
from pnp.band.concepts import metric_names, parse_concepts
from pnp.band.inputs import Budgets
from pnp.data import DataModule
from pnp.decider import card, folder
from pnp.decider.fit import fit
from pnp.decider.labels import Shares
from pnp.decider.parts import HEAD, Question, part_of_set, questions_of_folder
from pnp.errors import UserError
from pnp.evaluation.concept_bands import concept_targets
from pnp.evaluation.protocol import Protocol
from pnp.export import encoder as exported
from pnp.export.encoder import Encoder
from pnp.runs import reopen
from pnp.runs.config import only_one
from pnp.weights import load

DEFAULT_HEAD = 10_000  # images of each split for the decider that ends a run
if TYPE_CHECKING:
    import torch

    from pnp.decider.decider import Decider

KEYS = ("run", "ckpt", "encoder", "weights", "network")  # of `source`
SPLITS = {
    "train": "head", "validation": "validation", "calibration": "calibration", "test": "test",
}  # fmt: skip
PARTS_OF_A_CONCEPT = {"positive", "negative", "ambiguous", "ignore"}


@dataclass(frozen=True)
class Source:
    """An encoder, what its backbone is built from, entries of `decider.json`, and a run's data."""

    encoder: Encoder
    options: Mapping[str, Any]
    facts: Mapping[str, Any]
    data: DataModule | None = None


def source(config: Mapping[str, Any]) -> Source:
    """The encoder that `conf/decide_fit.yaml` names.

    Raises:
        UserError: none or more than one is named, or it cannot be loaded.
    """
    key = only_one(config, run="DIR", ckpt="FILE", encoder="FOLDER or timm:NAME")
    name, weights = str(config[key]), config["weights"]
    if key == "encoder" and not Path(name).is_dir():
        return _of_timm(name.removeprefix("timm:"), weights)
    if weights is not None:
        raise UserError("weights= goes with encoder=timm:NAME; a run and an export have their own.")
    if key == "encoder":
        facts = exported.read_config(Path(name))
        words = f"{facts['backbone'].get('name')} of an export ({facts.get('network', 'network')})"
        entries = {"network": "encoder", "encoder": words, "run": None}
        return Source(exported.load(name), facts["backbone"], entries)
    run = reopen.open_run(name, key)
    return of_run(run, Path(name) if key == "run" else None, config["network"])


def of_run(run: reopen.Run, folder: Path | None, network: str | None = None) -> Source:
    """The encoder of a run, with its data.

    `folder` is None for a checkpoint without a run directory. Of student and teacher, `network`
    None takes the better one on validation.
    """
    net, options, name = reopen.encoder(run, network)
    config = run.checkpoint["config"]
    identity = files.read_json(folder / "job.json", dict, {}).get("identity") if folder else None
    facts = {
        "network": name,
        "encoder": f"the {name}'s {options['name']} of a run on {config['data']['dataset']}",
        "run": identity or (folder.resolve().name if folder else run.file.name),
        "seed": config["seed"],
        "steps": int(run.checkpoint["global_step"]),
    }
    return Source(net, options, facts, run.data)


def own_images(source: Source, config: Mapping[str, Any], images: str) -> list[Question]:
    """The questions that csv files of labels ask of images in a folder; `conf/decide_fit.yaml`."""
    labels, concept = config["labels"], config["concept"]
    first = labels if isinstance(labels, str) else labels[0]
    asked = {str(concept or Path(first).stem): "label"}
    if isinstance(concept, list) and concept:
        columns = [str(column) for column in concept]
        asked = dict(zip(metric_names(columns), columns, strict=True))
    elif not isinstance(concept, str | None):
        raise UserError(
            f"concept={concept}: with labels= the concept is just a name, concept=cracks, or the "
            "columns of several, concept='[cracks, rust]'; the labels say what is P."
        )
    shares = Shares(*(config[key] for key in ("calibration", "validation", "test")))
    return questions_of_folder(source.encoder, labels, images, shares, asked, config["groups"])


def own_classes(source: Source, concept: Any, most: int = HEAD) -> list[Question]:
    """The questions that concepts ask of the classes of a run's data.

    Args:
        source: the encoder and the data.
        concept: `{name: classes, …}` as in `parse_concepts`, classes alone, or None for the concept
            that comes with the data.
        most: images to use of each split.
    """
    data = source.data
    if data is None:
        raise UserError("labels= is not set: an encoder without a run has no classes of its own.")
    asked = _concepts(concept, data)
    meanings = _meanings(asked, data)
    targets = concept_targets(data, asked, seed=source.facts["seed"])
    split_parts = {
        part: part_of_set(
            source.encoder, data.splits[split], targets.y[split] > 0.5, targets.keep[split], most
        )
        for split, part in SPLITS.items()
    }
    questions = []
    first = len(targets.names) - len(meanings)  # a concept that comes with the data stands before
    for k, meaning in enumerate(meanings, first):
        name = targets.names[k]
        parts = {part: found[k] for part, found in split_parts.items()}
        seen = {h for part in ("head", "validation") for h in parts[part].hashes.tolist()}
        again = sum(h in seen for h in parts["calibration"].hashes.tolist())
        notes = [f"repeated: {again:,} calibration images are also among the head's."]
        questions.append(Question(name, meaning, parts, notes if again else []))
    return questions


def write(
    source: Source, questions: Sequence[Question], budgets: Budgets, shares: Shares, out: Path
) -> "dict[Path, Decider]":
    """Fit deciders and write their folders: `out`, or `out/CONCEPT` for several."""
    facts = {**source.facts, "shares": asdict(shares), "version": __version__}
    several = len(questions) > 1
    places = [out / question.name if several else out for question in questions]
    for place in places:
        folder.refuse_foreign(place)
    deciders = fit(source.encoder, questions, budgets, facts)
    source.encoder.cpu()
    network = {"network": source.facts["network"]}
    for decider, place in zip(deciders, places, strict=True):
        folder.write(decider, place, source.options, network, card.write(decider))
    return dict(zip(places, deciders, strict=True))


def write_own(
    run: reopen.Run, place: Path, protocol: Protocol, device: "torch.device"
) -> Path | None:
    """End a run with a decider in `place/decider`, if it was evaluated on one concept.

    Returns:
        The folder; None without a concept, or where the data cannot make a decider.
    """
    own = run.data.splits["train"].concept is not None and protocol.concepts is None
    one = protocol.concepts is not None and len(protocol.concepts) == 1
    if protocol.budgets is None or not protocol.test or not (own or one):
        return None
    source = of_run(run, place)
    source.encoder.to(device)
    try:
        questions = own_classes(source, protocol.concepts, most=DEFAULT_HEAD)
        write(source, questions, protocol.budgets, Shares(), place / "decider")
    except UserError as error:
        print(f"no decider: {error}")
        return None
    return place / "decider"


def _concepts(given: Any, data: DataModule) -> dict[str, Any] | None:
    """Section `concepts` for what is asked; None for the data's own concept."""
    classes = list(data.classes)
    if given is None and data.splits["train"].concept is not None:
        return None
    if given is None and len(classes) == 2:
        given = [1]
    if given is None:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(classes[:20]))
        raise UserError(
            "concept= is not set: name the classes that are P, for instance "
            "concept='{footwear: [5, 7, 9]}'. "
            + (f"Classes: {listed}." if classes else "These images have no classes: give labels=.")
        )
    if isinstance(given, Mapping) and given:
        return {"concept": dict(given)} if set(given) <= PARTS_OF_A_CONCEPT else dict(given)
    chosen = given if isinstance(given, list) else [given]
    names = [classes[c] if isinstance(c, int) and 0 <= c < len(classes) else str(c) for c in chosen]
    return {"+".join(names): chosen}


def _meanings(asked: dict[str, Any] | None, data: DataModule) -> list[str]:
    """The classes that are P, in words, for each concept."""
    if asked is None:
        return [f"the concept of the data set {data.dataset}"]
    meanings = []
    for concept in parse_concepts(asked, data.classes).values():
        words = [str(data.classes[i]) for i in sorted(concept.positive)]
        words += [f"{data.classes[i]} with probability {p:g}" for i, p in concept.ambiguous.items()]
        ignored = [str(data.classes[i]) for i in sorted(concept.ignore)]
        meanings.append(
            ", ".join(words) + (f" (left out: {', '.join(ignored)})" if ignored else "")
        )
    return meanings


def _of_timm(name: str, weights: str | None) -> Source:
    """Any timm model, at the size and normalisation that it was trained with."""
    import timm

    if not timm.is_model(name):
        backbone(f"timm:{name}")  # says which names are near
    given = timm.get_pretrained_cfg(name)
    if weights is None and (given is None or not given.has_weights):
        raise UserError(f"encoder=timm:{name} has no published weights: give weights=FILE.")
    size = 224 if given is None else max(given.input_size[1:])
    options = {"name": f"timm:{name}", "in_channels": 3, "image_size": size}
    try:
        net = backbone(**options, pretrained=weights is None)
    except UserError:
        raise
    except Exception as error:  # no network, no such file: the library has a class for each
        raise UserError(
            f"encoder=timm:{name}: its published weights cannot be loaded ({error}). Give "
            "weights=FILE, or run where they can be downloaded."
        ) from error
    if weights is not None:
        load(net, Path(weights), "weights")
    mean, std = ((0.5,), (0.5,)) if given is None else (given.mean, given.std)
    encoder = Encoder(net, channels=3, size=size, mean=mean, std=std).eval().requires_grad_(False)
    words = f"{name} of timm, " + ("weights of a file" if weights else "published weights")
    return Source(encoder, options, {"network": "encoder", "encoder": words, "run": None})
