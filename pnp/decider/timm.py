"""Encoders from timm: any model by its name, at the size and normalisation it was trained with."""

from typing import Any

from pnp.backbones import backbone
from pnp.errors import UserError
from pnp.export.encoder import Encoder


def encoder_of(name: str, weights: str | None) -> tuple[Encoder, dict[str, Any]]:
    """A timm model as an encoder, and what `pnp.backbones.backbone` builds it from.

    Args:
        name: of the model, as timm spells it.
        weights: a .pt or .safetensors file; None takes timm's published weights, which are
            downloaded unless timm has them already.

    Raises:
        UserError: no such model, no published weights, or weights that do not fit.
    """
    import timm

    options = {"name": f"timm:{name}", "in_channels": 3}
    given = timm.get_pretrained_cfg(name)
    size = max(given.input_size[1:]) if given is not None else 224
    options["image_size"] = size
    if weights is None and given is not None and not given.has_weights:
        raise UserError(f"encoder=timm:{name} has no published weights: give weights=FILE.")
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
        _load(net, weights)
    mean, std = (given.mean, given.std) if given is not None else ((0.5,) * 3, (0.5,) * 3)
    encoder = Encoder(net, channels=3, size=size, mean=mean, std=std)
    return encoder.eval().requires_grad_(False), options


def _load(net: Any, file: str) -> None:
    """Load weights safely; a classifier's last layer may be left over."""
    import torch

    try:
        if file.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
    except Exception as error:  # whatever is wrong with the file, this is what the user needs
        raise UserError(f"weights={file} cannot be read: {error}") from error
    missing, unexpected = net.load_state_dict(state, strict=False)
    if missing or [
        key for key in unexpected if not key.startswith(("fc.", "head.", "classifier."))
    ]:
        raise UserError(
            f"weights={file} do not fit: {len(missing)} keys missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})."
        )
