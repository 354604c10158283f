"""Judge frozen networks: features, probes, geometry, bands, pictures, and the files they fill."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from pnp import files, geometry
from pnp.data import DataModule
from pnp.distributed import rank, world_size
from pnp.evaluation import concept_bands, figures
from pnp.evaluation.figures import draw_pca, draw_views, principal_plane
from pnp.evaluation.probes import Space
from pnp.evaluation.protocol import TEXT, Pixels, Protocol, probe, split_features
from pnp.report import write_report
from pnp.seeds import generator
from pnp.views import Views

# Pairwise measures cost N²: this many test images are enough for two decimals.
PAIRS = 4000


@dataclass(frozen=True)
class Setting:
    """How networks are run: where, in which precision, and on which images."""

    data: DataModule
    views: Views
    device: torch.device
    memory_format: torch.memory_format = torch.channels_last
    autocast: Callable[[], Any] = nullcontext
    precision: str = "32-true"
    cache: Path | None = None


def judge(
    folder: Path,
    networks: Mapping[str, nn.Module],
    references: Mapping[str, nn.Module],
    setting: Setting,
    protocol: Protocol,
) -> dict[str, float]:
    """Evaluate every network and reference, draw into `folder/figures`, and return flat metrics.

    Args:
        folder: the run directory.
        networks: name -> network; one that returns (features, embeddings) has both looked at.
        references: name -> network, reported as `reference/<name>/<probe>`.
        setting: how to run them.
        protocol: what is asked.

    Every process of a distributed run calls this: all extract features, rank 0 does the rest and
    has the metrics.
    """
    found = _features(networks, references, setting, protocol)
    if world_size() > 1:
        found = list(found)  # nobody waits for rank 0's probes inside a collective
    if rank() > 0:
        return {}
    data = setting.data
    labelled = data.splits["train"].labels is not None
    asked = None
    if protocol.test and protocol.budgets is not None and (labelled or protocol.concepts):
        asked = concept_bands.questions(data, protocol.concepts)
    metrics: dict[str, float] = {}
    answers: dict[str, dict[str, concept_bands.Answer]] = {}
    shown: dict[str, Tensor] = {}
    for name, features, embeddings in found:
        space = Space.of(features["train"])
        rotated = {part: space(values) for part, values in features.items()}
        for key, value in probe(features, rotated, space, data, protocol).items():
            where, kind, *rest = key.split("/")
            if name in networks:
                metrics["/".join([where, kind, name, *rest])] = value
            elif where == "test":
                metrics["/".join(["reference", name, kind, *rest])] = value
        where = "test" if protocol.test else "validation"
        for what, z in (("features", features), ("embeddings", embeddings)):
            if z is not None and name in networks:
                metrics |= _geometry(f"{where}/{what}/{name}", z[where], data, where)
        if asked is not None and protocol.budgets is not None:
            labels = data.splits["test"].labels
            answers[name] = concept_bands.answer(
                rotated, space, asked, protocol.budgets, labels, protocol.l2
            )
        shown[name] = features[where]
    main = next(name for name in ("teacher", *networks) if name in networks)
    captions = _draw(folder / "figures", shown[main], setting, protocol)
    if answers and answers[main]:
        metrics |= concept_bands.flatten(answers)
        files.write_json(folder / "band.json", concept_bands.record(answers))
        captions |= _draw_bands(folder / "figures", answers, main, shown[main], setting, protocol)
    files.write_json(folder / "figures" / "captions.json", captions)
    return metrics


def write(folder: Path, metrics: dict[str, float], facts: dict[str, Any]) -> Path:
    """Write `metrics.json`, `run.json` and `report.html`, print the table, return the report."""
    files.write_json(folder / "metrics.json", metrics)
    files.write_json(folder / "run.json", {**facts, "protocol": TEXT})
    report = write_report(folder)
    _say(metrics)
    print(f"report: {report}")
    return report


def references(protocol: Protocol, untrained: nn.Module) -> dict[str, nn.Module]:
    """The references that the protocol asks for."""
    known: dict[str, nn.Module] = {"pixels": Pixels(), "random": untrained}
    return {name: known[name] for name in protocol.references}


def _features(
    networks: Mapping[str, nn.Module],
    references: Mapping[str, nn.Module],
    setting: Setting,
    protocol: Protocol,
) -> Any:
    """(name, features by split, embeddings by split or None), with a progress bar."""
    images = sum(len(setting.data.splits[name]) for name in protocol.splits)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=rank() > 0) as bar:
        for name, network in {**networks, **references}.items():
            task = bar.add_task(f"{name}: features", total=images)
            moved = network.to(setting.device)
            moved.to(memory_format=setting.memory_format)  # pyright: ignore[reportCallIssue]
            both = hasattr(network, "projector")
            outputs = split_features(
                moved,
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
            bar.update(task, description=f"{name}: probes and bands", total=None)
            if outputs:
                yield name, outputs[0], outputs[1] if both else None
            bar.remove_task(task)


def _geometry(prefix: str, z: Tensor, data: DataModule, split: str) -> dict[str, float]:
    labels = data.splits[split].labels
    few = None if labels is None else labels[:PAIRS]
    return {f"{prefix}/{k}": v for k, v in geometry.describe_fully(z[:PAIRS], few).items()}


def _draw(folder: Path, features: Tensor, setting: Setting, protocol: Protocol) -> dict[str, str]:
    data, views = setting.data, setting.views
    validation = data.splits["validation"]
    images = validation.batch(torch.arange(min(10, len(validation))))
    draws = generator(0, device=setting.device)
    sheet = views(images.to(setting.device), draws)[:4].cpu()
    folder.mkdir(exist_ok=True)
    draw_views(
        folder / "views.png", images.cpu(), sheet, torch.tensor(data.mean), torch.tensor(data.std)
    )
    split = data.splits["test" if protocol.test else "validation"]
    labels = None if split.labels is None else split.labels[:2000]
    draw_pca(folder / "pca.png", features[:2000], labels, data.classes)
    return {
        "views": "Validation images (top) and the views that networks are trained on.",
        "pca": f"Backbone features of {split.name} images on their first two principal axes.",
    }


def _draw_bands(
    folder: Path,
    answers: Mapping[str, Mapping[str, concept_bands.Answer]],
    main: str,
    features: Tensor,
    setting: Setting,
    protocol: Protocol,
) -> dict[str, str]:
    test = setting.data.splits["test"]
    mine = answers[main]
    first, found = next(iter(mine.items()))
    budgets = protocol.budgets
    assert budgets is not None
    captions = {
        "band_width": "Share of test images in the band against the allowed error: plug-in "
        "(solid), certified (dashed), and where η is known the oracle (dotted).",
        "band_scores": f"Test logits of the {main}: ¬P and P, log counts, certified band shaded.",
        "band_images": f"Concept {first}: images through the band by score, worst false positives "
        "(asserted P), worst false negatives.",
        "band_regions": f"Concept {first}: the plane of principal axes, coloured by region.",
    }
    figures.draw_curves(folder / "band_width.svg", answers)
    figures.draw_scores(folder / "band_scores.svg", mine)
    eta = None
    if test.eta is not None:
        eta = test.eta.numpy()[found.index]
        file = folder / "band_eta.svg"
        figures.draw_posterior(file, found, eta, budgets.max_fp, budgets.max_fn)
        captions["band_eta"] = "Share of each η bin in the certified band, beside the oracle's."
    if test.classes:
        figures.draw_classes(folder / "band_classes.svg", mine, test.classes)
        captions["band_classes"] = "Share of each original class in the band of each concept."
    pictures = test.batch(torch.arange(len(test))).permute(0, 2, 3, 1).cpu().numpy()
    figures.draw_sheet(folder / "band_images.png", found, pictures, eta)
    plane = principal_plane(features)[0].numpy()[found.index]
    figures.draw_regions(folder / "band_regions.png", plane, found)
    return captions


def _say(metrics: Mapping[str, float]) -> None:
    """The final table on the terminal."""
    owners = {
        "teacher": "test/{}/teacher",
        "student": "test/{}/student",
        "network": "test/{}/network",
        "pixels": "reference/pixels/{}",
        "random": "reference/random/{}",
    }
    table = Table("frozen features of", "linear probe", "kNN", "band, certified", "plug-in")
    for owner, pattern in owners.items():
        keys = [pattern.format("linear"), pattern.format("knn")]
        keys += [f"band/mean/{owner}/width", f"band/mean/{owner}/plugin"]
        if keys[0] in metrics:
            table.add_row(owner, *(f"{metrics[k]:.4f}" if k in metrics else "" for k in keys))
    if table.row_count:
        Console().print(table)
    oracle = [v for k, v in metrics.items() if k.endswith("/oracle/width")]
    if oracle:
        print(f"irreducible band (oracle): {oracle[0]:.4f}")
