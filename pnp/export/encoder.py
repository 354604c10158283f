"""Exported networks, loaded again: images in, features out, normalisation included.

This needs torch and safetensors, and timm or torchvision where the architecture is theirs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pnp.backbones import backbone
from pnp.errors import UserError
from pnp.files import read_json

FORMAT, VERSION = "pnp-export", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Encoder(nn.Module):
    """Images to features: checks them, normalises them, and runs the backbone.

    Args:
        backbone: normalised images (N, C, S, S) to features (N, dim), with `.dim`.
        channels: C.
        size: S, in pixels.
        mean: subtracted from values in [0, 1]: one number, or one per channel.
        std: divides them then: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        channels: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.channels, self.size = backbone, channels, size
        self.dim = int(backbone.dim)  # pyright: ignore[reportArgumentType]
        # Not in the state dict: the constants live in config.json.
        for name, values in (("mean", mean), ("std", std)):
            constant = torch.tensor(list(values), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, dim) in float32.

        Args:
            images: (N, C, S, S) on the network's device: uint8, or floats in [0, 1]. They are
                normalised here.

        Raises:
            UserError: images of another kind, shape, range or device.
        """
        weights = next(self.backbone.parameters())
        self._check(images, weights.device)
        x = images.float()
        x = x / 255.0 if images.dtype == torch.uint8 else x
        x = (x - self.mean.float()) / self.std.float()
        return self.backbone(x.to(weights.dtype)).float()

    def _check(self, images: Tensor, device: torch.device) -> None:
        shape = (self.channels, self.size, self.size)
        wanted = f"(N, {', '.join(map(str, shape))})"
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise UserError(
                f"images are {images.dtype}; expected torch.uint8 (0 to 255) or floats in [0, 1]."
            )
        if images.ndim != 4 or tuple(images.shape[1:]) != shape:
            shapes = f"images have the shape {tuple(images.shape)}; expected {wanted}."
            if tuple(images.shape) == shape:
                raise UserError(f"{shapes} Give one image as images[None].")
            if tuple(images.shape[-3:]) == (*shape[1:], shape[0]):
                raise UserError(f"{shapes} The channels come last here: move them with movedim.")
            if images.ndim == 4 and images.shape[1] == self.channels:
                raise UserError(
                    f"{shapes} Resize them first: torchvision.transforms.v2.functional.resize("
                    f"images, [{self.size}, {self.size}], antialias=True)."
                )
            raise UserError(shapes)
        if images.device != device:
            raise UserError(
                f"images are on {images.device}, the network is on {device}: move one with .to()."
            )
        # Whoever compiles or exports has no values yet.
        if images.is_floating_point() and images.numel() and not torch.compiler.is_compiling():
            low, high = (float(v) for v in images.detach().aminmax())
            if not (low >= 0 and high <= 1):  # so that NaN is refused too
                raise UserError(
                    f"float images range from {low:g} to {high:g}; expected values in [0, 1] that "
                    "are not normalised: the network does that. Values 0 to 255 go in as uint8."
                )


def load(path: str | Path) -> Encoder:
    """Load what `pnp-export` wrote; see `pnp.load`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = local(path, (CONFIG, WEIGHTS))
    config = read_config(folder)
    try:
        given = config["input"]
        constants = {key: given[key] for key in ("channels", "size", "mean", "std")}
        net = Encoder(backbone(**config["backbone"]), **constants)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / CONFIG} is damaged ({type(error).__name__}: {error}): export the run again."
        ) from error
    try:
        net.backbone.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{folder / WEIGHTS} is missing, damaged, or of another network than {CONFIG} says "
            f"({error}): export the run again."
        ) from error
    return net.eval().requires_grad_(False)


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of an export.

    Raises:
        UserError: there is none, or not one of this format.
    """
    file = folder / CONFIG
    if not file.is_file():
        hint = f"Export it first: pnp-export run={folder}."
        if (folder / "export" / CONFIG).is_file():
            hint = f"Load {folder / 'export'}."
        elif not (folder / "checkpoints").is_dir():
            hint = "Give a folder that pnp-export wrote, or hub:USER/NAME."
        raise UserError(f"{folder} is not an export: it has no {CONFIG}. {hint}")
    return of_format(file, FORMAT, VERSION, "pnp-export")


def of_format(file: Path, kind: str, version: int, writer: str) -> dict[str, Any]:
    """The content of a JSON file of ours.

    Args:
        file: to read.
        kind: its `format`.
        version: its `format_version`.
        writer: the command that writes it.

    Raises:
        UserError: it is damaged, not ours, or of another version.
    """
    try:
        content = read_json(file)
    except UserError as error:
        raise UserError(f"{error} Write it again with {writer}.") from error
    if content.get("format") != kind:
        raise UserError(f"{file} was not written by {writer}: it lacks format={kind!r}.")
    if content.get("format_version") != version:
        raise UserError(
            f"{file} has format_version {content.get('format_version')!r}, this program reads "
            f"{version}: update pnp-ssl, or write it again with {writer} of this version."
        )
    return content


def local(path: str | Path, files: Sequence[str]) -> Path:
    """The folder `path`; of `hub:USER/NAME` the folder that these files were downloaded to.

    Raises:
        UserError: the Hugging Face Hub refuses or cannot be reached.
    """
    if not str(path).startswith("hub:"):
        return Path(path).expanduser()
    from huggingface_hub import snapshot_download

    name = str(path).removeprefix("hub:")
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # no network, no such repository, no right to read it
        raise UserError(f"cannot load {name} from the Hugging Face Hub: {error}") from error
