"""Evaluation of frozen networks: features, probes, geometry, bands, and pictures of them."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from pnp import geometry
from pnp.band.scores import clopper_pearson
from pnp.data import DataModule
from pnp.distributed import rank, world_size
from pnp.evaluation.band_figures import draw_bands
from pnp.evaluation.concept_bands import (
    ConceptBand,
    Targets,
    band_record,
    band_rows,
    concept_bands,
    concept_targets,
)
from pnp.evaluation.features import extract
from pnp.evaluation.figures import POINTS, TILES, draw_pca, draw_views, principal_plane
from pnp.evaluation.gaps import Gaps
from pnp.evaluation.probes import Space
from pnp.evaluation.protocol import Pixels, Protocol, probe, split_features
from pnp.files import write_json
from pnp.results import GAPS, OWNERS, PARTIAL, Row, better, find, main_network, to_metrics
from pnp.seeds import generator
from pnp.views import Views

PAIRED = 500  # images whose views are matched
PAIRS = 4000  # pairwise measures cost N²: this many test images are enough for two decimals
LONG = 10.0  # seconds after which a network is worth a line where nobody sees the bar


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
    main: str | None = None,
) -> list[Row]:
    """Evaluate every network and reference; write `folder/figures` and `folder/band.json`.

    Rows are kept in `folder/metrics.partial.json` as they come. What cannot be measured or drawn
    is a gap, named in `folder/gaps.json`, and costs nothing else.

    Every process of a distributed run calls this: all extract features, rank 0 does the rest and
    gets the rows.

    Args:
        folder: the run directory.
        networks: owner -> network; of one that returns (features, embeddings) both are measured.
        references: owner -> network; measured on test only.
        setting: how to run them.
        protocol: what to measure.
        main: the network that pictures show; None shows the better one on validation.
    """
    representations = _representations(networks, references, setting, protocol)
    if world_size() > 1:
        representations = list(representations)  # rank 0's probes keep nobody in a collective
    if rank() > 0:
        return []
    data = setting.data
    split = "test" if protocol.test else "validation"
    labels, budgets = data.splits[split].labels, protocol.budgets
    targets = band_targets(data, protocol)
    rows, gaps = list[Row](), Gaps()
    bands: dict[str, dict[str, ConceptBand]] = {}
    by_owner: dict[str, Tensor] = {}
    began = time.monotonic()
    for owner, stored, embeddings in representations:
        if odd := [name for name, part in stored.items() if not part.isfinite().all()]:
            gaps.add({owner: f"its features of {', '.join(odd)} are not all finite."})
            continue
        by_owner[owner] = stored[split]
        place = probe_device(stored, setting.device)
        features = {name: part.to(place) for name, part in stored.items()}
        space = Space.of(features["train"])
        rotated = {name: space(part) for name, part in features.items()}
        probes = probe(features, rotated, space, data, protocol, owner, gaps)
        if labels is None:
            network = networks[owner] if owner in networks else references[owner]
            asked = network, setting, protocol, owner
            probes += gaps.attempt(f"{owner}, matched views", match_views, *asked) or []
        rows += probes if owner in networks else find(probes, split="test")
        for kind, z in (("features", features), ("embeddings", embeddings)):
            if z is not None and owner in networks:
                some = z[split][:PAIRS]
                few = None if labels is None else labels[:PAIRS].to(some.device)
                rows += _geometry(some, few, split, kind, owner, gaps)
        if targets is not None and budgets is not None:
            arguments = rotated, space, targets, budgets, labels, protocol.l2, gaps
            own = gaps.attempt(f"{owner}, bands", concept_bands, *arguments)
            bands |= {owner: own} if own else {}
        write_json(folder / PARTIAL, to_metrics(rows))
        seconds, began = time.monotonic() - began, time.monotonic()
        if seconds > LONG and not sys.stdout.isatty():
            print(f"evaluation: {OWNERS.get(owner, owner)} in {seconds:.0f} s", flush=True)
    if bands:
        rows += band_rows(bands)
        write_json(folder / "band.json", band_record(bands))
        write_json(folder / PARTIAL, to_metrics(rows))
    else:
        (folder / "band.json").unlink(missing_ok=True)
    chosen = main_network(rows) or {}
    shown = main or str(chosen.get("network") or better(dict.fromkeys(networks, 0.0)))
    _draw(folder / "figures", shown, by_owner, bands, setting, protocol, gaps)
    (folder / GAPS).unlink(missing_ok=True)
    if gaps:
        write_json(folder / GAPS, gaps)
    return rows


def probe_device(features: Mapping[str, Tensor], device: torch.device) -> torch.device:
    """Device to fit probes on: a GPU if copies of all features fit there, else the CPU."""
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    # Features, the same in their space, train and validation joined, and chunks of similarities.
    wanted = 4 * sum(part.nbytes for part in features.values()) + 2**30
    return device if wanted < free else torch.device("cpu")


def _geometry(
    z: Tensor, labels: Tensor | None, split: str, kind: str, owner: str, gaps: Gaps
) -> list[Row]:
    """Rows of the measures of some vectors."""
    what = f"{owner}, geometry of {kind}"
    measures = gaps.attempt(what, geometry.describe_fully, z, labels) or {}
    return [Row("", split, kind, owner, "", key, value) for key, value in measures.items()]


def _draw(
    folder: Path,
    main: str,
    features: Mapping[str, Tensor],
    bands: Mapping[str, dict[str, ConceptBand]],
    setting: Setting,
    protocol: Protocol,
    gaps: Gaps,
) -> None:
    """Replace the pictures; `features` are those of the split that is reported, by owner."""
    folder.mkdir(exist_ok=True)
    for old in (*folder.glob("*.png"), *folder.glob("*.svg")):
        old.unlink()
    data, captions = setting.data, dict[str, str | None]()
    captions["views"] = gaps.attempt(
        "the picture of the views", _draw_views, folder / "views.png", setting
    )
    main = main if main in features else next(iter(features), "")
    if main:
        split = "test" if protocol.test else "validation"
        plane, share = principal_plane(features[main][:POINTS])
        labels = data.splits[split].labels
        few = None if labels is None else labels[:POINTS]
        drawn = folder / "pca.png", plane, share, few, data.classes, split
        captions["pca"] = gaps.attempt("the picture of the features", draw_pca, *drawn)
        if main in bands and protocol.budgets is not None:
            test = data.splits["test"]
            captions |= draw_bands(folder, bands, main, plane, test, protocol.budgets, gaps)
    write_json(folder / "captions.json", {k: v for k, v in captions.items() if v is not None})


def band_targets(data: DataModule, protocol: Protocol) -> Targets | None:
    """Targets of the protocol's concepts; None where no band is asked for, or there are no labels.

    Raises:
        UserError: concepts that these classes do not have; call it before training.
    """
    labelled = data.splits["train"].labels is not None
    if not protocol.test or protocol.budgets is None or not (labelled or protocol.concepts):
        return None
    return concept_targets(data, protocol.concepts)


def match_views(network: nn.Module, setting: Setting, protocol: Protocol, owner: str) -> list[Row]:
    """Share of images whose other view is the nearest, on validation and test: asks no labels."""
    rows = []
    for split in ("validation", "test") if protocol.test else ("validation",):
        images = setting.data.splits[split]
        images = images.subset(torch.arange(min(PAIRED, len(images))))
        draws = generator(0, device=setting.device)
        first, second = (
            extract(
                network,
                images,
                lambda x, draws=draws: setting.views(x, draws)[0],
                device=setting.device,
                memory_format=setting.memory_format,
                autocast=setting.autocast,
            )[0]
            for _ in range(2)
        )
        share = geometry.matched(first, second)
        low, high = clopper_pearson(round(share * len(images)), len(images))
        ends = (float(low), float(high)) if split == "test" else ()
        rows.append(Row("", split, "probe", owner, "", "views", share, *ends))
    return rows


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
    several, draws = copy(setting.views), generator(0, device=setting.device)
    several.count = protocol.views
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=rank() > 0) as bar:
        for name, network in {**networks, **references}.items():
            task = bar.add_task(f"{OWNERS.get(name, name)}: features", total=images)
            network = network.to(setting.device)
            network.to(memory_format=setting.memory_format)  # pyright: ignore[reportCallIssue]
            both = hasattr(network, "projector")
            count = 1 if isinstance(network, Pixels) else protocol.views
            outputs = split_features(
                network,
                setting.data,
                setting.views.plain if count == 1 else lambda x: several(x, draws).flatten(0, 1),
                protocol.splits,
                outputs=2 if both else 1,
                # Pixels are the images themselves: nothing to keep. Views are drawn anew.
                cache=None if isinstance(network, Pixels) or count > 1 else setting.cache,
                preprocessing=f"{setting.data.size} {setting.data.mean} {setting.data.std} "
                f"{setting.precision}",
                device=setting.device,
                memory_format=setting.memory_format,
                autocast=setting.autocast,
                views=count,
                batch_size=max(1, 500 // count),
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
