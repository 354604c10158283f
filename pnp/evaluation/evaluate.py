"""Evaluation of frozen networks: features, probes, geometry, bands, and pictures of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from pnp import geometry
from pnp.data import DataModule
from pnp.distributed import rank, world_size
from pnp.evaluation.band_figures import draw_bands
from pnp.evaluation.concept_bands import (
    ConceptBand,
    band_record,
    band_rows,
    concept_bands,
    concept_targets,
)
from pnp.evaluation.figures import POINTS, TILES, draw_pca, draw_views, principal_plane
from pnp.evaluation.probes import Space
from pnp.evaluation.protocol import Pixels, Protocol, probe, split_features
from pnp.files import write_json
from pnp.results import OWNERS, Row, find
from pnp.seeds import generator
from pnp.views import Views

PAIRS = 4000  # pairwise measures cost N²: this many test images are enough for two decimals


@dataclass(frozen=True)
class Setting:
    """Images, device and precision that networks are run with."""

    data: DataModule
    views: Views
    device: torch.device
    memory_format: torch.memory_format = torch.channels_last
    autocast: Callable[[], Any] = nullcontext
    precision: str = "32-true"
    cache: Path | None = None


def evaluate_networks(
    folder: Path,
    networks: Mapping[str, nn.Module],
    references: Mapping[str, nn.Module],
    setting: Setting,
    protocol: Protocol,
) -> list[Row]:
    """Evaluate every network and reference; write `folder/figures` and `folder/band.json`.

    Every process of a distributed run calls this: all extract features, rank 0 does the rest and
    gets the rows.

    Args:
        folder: the run directory.
        networks: owner -> network; of one that returns (features, embeddings) both are measured.
        references: owner -> network; measured on test only.
        setting: how to run them.
        protocol: what to measure.
    """
    representations = _representations(networks, references, setting, protocol)
    if world_size() > 1:
        representations = list(representations)  # rank 0's probes keep nobody in a collective
    if rank() > 0:
        return []
    data = setting.data
    split = "test" if protocol.test else "validation"
    labels, budgets = data.splits[split].labels, protocol.budgets
    labelled = data.splits["train"].labels is not None
    targets = None
    if protocol.test and budgets is not None and (labelled or protocol.concepts):
        targets = concept_targets(data, protocol.concepts)
    rows: list[Row] = []
    bands: dict[str, dict[str, ConceptBand]] = {}
    by_owner: dict[str, Tensor] = {}
    for owner, stored, embeddings in representations:
        place = probe_device(stored, setting.device)
        features = {name: part.to(place) for name, part in stored.items()}
        space = Space.of(features["train"])
        rotated = {name: space(part) for name, part in features.items()}
        probes = probe(features, rotated, space, data, protocol, owner)
        rows += probes if owner in networks else find(probes, split="test")
        for kind, z in (("features", features), ("embeddings", embeddings)):
            if z is not None and owner in networks:
                some = z[split][:PAIRS]
                few = None if labels is None else labels[:PAIRS].to(some.device)
                measures = geometry.describe_fully(some, few)
                rows += [Row("", split, kind, owner, "", k, value) for k, value in measures.items()]
        if targets is not None and budgets is not None:
            bands[owner] = concept_bands(rotated, space, targets, budgets, labels, protocol.l2)
        by_owner[owner] = stored[split]
    main = next(owner for owner in ("teacher", *networks) if owner in networks)
    plane, share = principal_plane(by_owner[main][:POINTS])
    pictures = folder / "figures"
    pictures.mkdir(exist_ok=True)
    few = None if labels is None else labels[:POINTS]
    captions = {
        "views": _draw_views(pictures / "views.png", setting),
        "pca": draw_pca(pictures / "pca.png", plane, share, few, data.classes, split),
    }
    if bands and bands[main] and budgets is not None:
        rows += band_rows(bands)
        write_json(folder / "band.json", band_record(bands))
        captions |= draw_bands(pictures, bands, main, plane, data.splits["test"], budgets)
    write_json(pictures / "captions.json", captions)
    return rows


def probe_device(features: Mapping[str, Tensor], device: torch.device) -> torch.device:
    """Where to fit probes: on a GPU if copies of all features fit there, else on the CPU."""
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    # Features, the same in their space, train and validation joined, and chunks of similarities.
    wanted = 4 * sum(part.nbytes for part in features.values()) + 2**30
    return device if wanted < free else torch.device("cpu")


def references(protocol: Protocol, untrained: nn.Module) -> dict[str, nn.Module]:
    """References that the protocol asks for; none without test, where nothing reports them."""
    networks: dict[str, nn.Module] = {"pixels": Pixels(), "random": untrained}
    return {name: networks[name] for name in protocol.references if protocol.test}


def _representations(
    networks: Mapping[str, nn.Module],
    references: Mapping[str, nn.Module],
    setting: Setting,
    protocol: Protocol,
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor] | None]]:
    """Owner, features by split and embeddings by split or None; rank 0 alone gets them."""
    images = sum(len(setting.data.splits[name]) for name in protocol.splits)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=rank() > 0) as bar:
        for name, network in {**networks, **references}.items():
            task = bar.add_task(f"{OWNERS.get(name, name)}: features", total=images)
            network = network.to(setting.device)
            network.to(memory_format=setting.memory_format)  # pyright: ignore[reportCallIssue]
            both = hasattr(network, "projector")
            outputs = split_features(
                network,
                setting.data,
                setting.views.plain,
                protocol.splits,
                outputs=2 if both else 1,
                # Pixels are the images themselves: nothing to keep.
                cache=None if isinstance(network, Pixels) else setting.cache,
                preprocessing=f"{setting.data.size} {setting.data.mean} {setting.data.std} "
                f"{setting.precision}",
                device=setting.device,
                memory_format=setting.memory_format,
                autocast=setting.autocast,
                advance=lambda done, task=task: bar.advance(task, done),
            )
            bar.update(task, description=f"{OWNERS.get(name, name)}: probes and bands", total=None)
            if outputs:
                yield name, outputs[0], outputs[1] if both else None
            bar.remove_task(task)


def _draw_views(file: Path, setting: Setting) -> str:
    data = setting.data
    validation = data.splits["validation"]
    images = validation.batch(torch.arange(min(TILES, len(validation))))
    views = setting.views(images.to(setting.device), generator(0, device=setting.device))
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return draw_views(file, images.cpu(), views[:4].cpu(), mean, std)
