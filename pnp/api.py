"""The library in Python: train, reopen, evaluate and save, with one's own arrays and networks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pnp import files
from pnp.backbones import backbone as build_backbone
from pnp.cli.train import train as train_config
from pnp.data import DataModule, ImageSet
from pnp.errors import UserError
from pnp.evaluation.gaps import Gaps
from pnp.evaluation.probes import Space
from pnp.evaluation.protocol import Pixels, Protocol, probe, split_features
from pnp.export import folder as exports
from pnp.export.encoder import Encoder
from pnp.results import find, to_metrics
from pnp.runs import directory, reopen
from pnp.runs.config import option_names, quoted
from pnp.runs.launch import compose

if TYPE_CHECKING:
    from lightning import Callback


class Run:
    """A finished or stopped run of `pnp.train` or pnp-train, read when asked.

    Args:
        path: the run directory.

    Raises:
        UserError: not a run directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        config = directory.saved_config(self.path)
        if config is None:
            raise UserError(f"{path} is not a run directory: it has no config.yaml.")
        self.config: dict[str, Any] = config

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def results(self) -> dict[str, float]:
        """The numbers of metrics.json; empty while the run has not finished."""
        return files.read_json(self.path / "metrics.json", dict, {})

    @cached_property
    def data(self) -> DataModule:
        """Data of the run."""
        return self._opened.data

    @property
    def splits(self) -> dict[str, ImageSet]:
        """Splits of the data, by name."""
        return self.data.splits

    @cached_property
    def networks(self) -> dict[str, Encoder]:
        """Student and, if there is one, teacher: images to features, normalisation included."""
        names = self._opened.module.networks
        return {name: reopen.encoder(self._opened, name)[0] for name in names}

    @property
    def network(self) -> Encoder:
        """The main network: the better one on validation."""
        return self.networks[reopen.main_network(self._opened)]

    @cached_property
    def _opened(self) -> reopen.Run:
        return reopen.open_run(self.path)


def open_run(path: str | Path) -> Run:
    """Open a run directory: `.config`, `.networks`, `.network`, `.splits`, `.results`."""
    return Run(path)


def train(
    data: Any,
    *overrides: str,
    run_dir: str | Path | None = None,
    callbacks: Sequence["Callback"] = (),
) -> Run:
    """Train, evaluate and report a run as pnp-train does.

    Args:
        data: what `DataModule.from_arrays` gives; images, or (images, labels); a folder of images;
            a .npy or .npz file; or the name of a data set. Arrays are kept in the run directory,
            so that the run can be opened again.
        overrides: as on the command line: `"model=resnet18"`, `"trainer.max_epochs=20"`.
        run_dir: the run directory; None makes one below `runs`.
        callbacks: Lightning callbacks beside those of the config.

    Returns:
        The run, opened.
    """
    folder = Path(run_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S}_python")
    words = _data_words(data, folder)
    if not any(word.startswith("logger=") for word in overrides):
        words.append("logger=csv")
    words += [*overrides, f"run_dir={quoted(folder)}"]
    train_config(compose("train", words, as_job=True), callbacks)
    return Run(folder)


def evaluate(
    net: nn.Module,
    train: tuple[Any, Any],
    test: tuple[Any, Any] | None = None,
    *,
    references: Sequence[str] = ("pixels",),
    protocol: Protocol | None = None,
) -> dict[str, float]:
    """Judge frozen features by kNN and linear probes, as the final table of a run does.

    Args:
        net: float images (N, C, S, S) in [0, 1] to features (N, F), or a network of `pnp.load`.
        train: images and labels; a tenth of them chooses the regularisation.
        test: images and labels that the numbers are about; None takes a fifth of `train`.
        references: beside it: `pixels`.
        protocol: probes and their settings.

    Returns:
        The keys of metrics.json: `test/knn/network`, `test/linear/network`, `…/ci_low`, …
    """
    data = DataModule.from_arrays(*train, test=test)
    if not data.classes:
        raise UserError("train has no labels: probes need the class of each image.")
    protocol = replace(protocol or Protocol(), band=None, test=True)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    rows = []
    others = {name: Pixels() for name in references if name == "pixels"}
    for owner, network in {"network": net, **others}.items():
        features = split_features(network, data, _floats, protocol.splits, device=device)[0]
        features = {name: part.flatten(1) for name, part in features.items()}
        space = Space.of(features["train"])
        turned = {name: space(part) for name, part in features.items()}
        found = probe(features, turned, space, data, protocol, owner, Gaps())
        rows += found if owner == "network" else find(found, split="test")
    return to_metrics(rows)


def save(
    net: nn.Module,
    out: str | Path,
    *,
    backbone: str,
    channels: int,
    size: int,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write a backbone of one's own as a folder for `pnp.load`: weights, no code.

    Loading builds the architecture by its importable name, from a package that the reader allows:
    a file that carries code could run anything.

    Args:
        net: normalised images (N, C, S, S) to features, for instance `module.student.backbone`.
        out: the folder.
        backbone: `small_cnn`, `timm:NAME`, or `my_package.nets:Tiny`; see `pnp.backbones`.
        channels: C.
        size: S.
        mean: of the images in training, from 0 to 1.
        std: likewise.
        facts: further entries of config.json.

    Raises:
        UserError: the name builds something that the weights do not fit.
    """
    options = {"name": backbone, "in_channels": channels, "image_size": size}
    built = build_backbone(**options)
    try:
        built.load_state_dict(net.state_dict())
    except RuntimeError as error:
        raise UserError(f"backbone={backbone} is another network than net: {error}") from error
    encoder = Encoder(built, channels=channels, size=size, mean=mean, std=std).eval()
    card = f"# {backbone}\n\nFrozen features by P¬P SSL: `pnp.load(FOLDER)(images)`.\n"
    return exports.save(encoder, Path(out), options, {"network": "backbone", **(facts or {})}, card)


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255


def _data_words(data: Any, folder: Path) -> list[str]:
    """Overrides that describe the data; arrays are written into the run directory."""
    if isinstance(data, str | Path):
        path = Path(data).expanduser()
        if path.is_dir():
            return ["data=image_folder", f"data.root={quoted(path.resolve())}"]
        if path.suffix in (".npy", ".npz"):
            return ["data=array", f"data.images={quoted(path.resolve())}"]
        names = option_names("data")
        if str(data) not in names:
            raise UserError(
                f"data={data!r} is no folder, no .npy or .npz file and none of {', '.join(names)}."
            )
        return [f"data={data}"]
    if not isinstance(data, DataModule):
        data = DataModule.from_arrays(*(data if isinstance(data, tuple) else (data,)))
    if data.arrays is None:
        raise UserError("data is not from arrays: give its name or folder instead.")
    file = (folder / "data.npz").resolve()
    arrays: dict[str, np.ndarray] = {}
    for part, images in data.arrays.items():
        assert isinstance(images.images, Tensor)
        arrays[f"{part}_images"] = images.images.numpy()
        if images.labels is not None:
            arrays |= {f"{part}_labels": images.labels.numpy(), "classes": np.array(images.classes)}
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(file) as part, part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    given = [f"data.{key}={value}".replace("None", "null") for key, value in data.options.items()]
    return ["data=array", f"data.images={quoted(file)}", *(f"++{word}" for word in given)]
