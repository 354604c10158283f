"""A trained backbone as a folder that anybody can load: weights, normalisation, model card.

The folder holds `model.safetensors` (the backbone's own state dict), `config.json` and `README.md`;
`pnp.export.encoder` loads it.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pnp import files
from pnp.errors import UserError
from pnp.export.encoder import CONFIG, FORMAT, VERSION, WEIGHTS, Encoder, read_config

CARD, ONNX = "README.md", "model.onnx"


def save(
    net: Encoder,
    out: Path,
    options: Mapping[str, Any],
    facts: Mapping[str, Any],
    card: str,
    *,
    onnx: bool = False,
) -> Path:
    """Write an export; readers see the old folder or the whole new one.

    Args:
        net: the network, on the CPU.
        out: the folder; an older export there is replaced.
        options: what `pnp.backbones.backbone` builds the architecture from.
        facts: further entries of `config.json`.
        card: text of `README.md`.
        onnx: write `model.onnx` too: float images in [0, 1] to features.

    Raises:
        UserError: `out` is something else than an export, or the ONNX export fails.
    """
    from safetensors.torch import save_file

    config = {
        "format": FORMAT,
        "format_version": VERSION,
        "backbone": dict(options),
        "dim": net.dim,
        "input": {
            "images": "(N, channels, size, size), uint8 or float in [0, 1], not normalised",
            "channels": net.channels,
            "size": net.size,
            "mean": net.mean.flatten().tolist(),
            "std": net.std.flatten().tolist(),
        },
        **facts,
        **_for_timm(net, str(options["name"])),
    }
    refuse_foreign(out)
    with files.replacing_folder(out) as part:
        # Clones: safetensors refuses tensors that share memory, as tied weights do.
        state = {k: v.detach().clone().contiguous() for k, v in net.backbone.state_dict().items()}
        save_file(state, part / WEIGHTS, metadata={"format": "pt"})
        files.write_json(part / CONFIG, config)
        files.write_text(part / CARD, card)
        # safetensors lets the owner alone read; the folder is there to be shared.
        (part / WEIGHTS).chmod((part / CONFIG).stat().st_mode)
        if onnx:
            save_onnx(net, part / ONNX, (net.channels, net.size, net.size))
    return out


def save_onnx(
    net: nn.Module, file: Path, shape: Sequence[int], outputs: Sequence[str] = ("features",)
) -> float:
    """Write a network as ONNX: `images` (N, C, S, S), floats in [0, 1], to its outputs.

    Args:
        net: the network, on the CPU.
        file: to write.
        shape: (C, S, S).
        outputs: names of what the network returns.

    Returns:
        The largest difference between onnxruntime and torch in the first output, relative to its
        largest value.

    Raises:
        UserError: onnx, onnxscript or onnxruntime are missing, torch cannot convert the network, or
            onnxruntime computes something else.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"onnx=true needs the package {error.name}: pip install 'pnp-ssl[onnx]'."
        ) from error
    for chatty in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    images = torch.rand(3, *shape)
    try:
        torch.onnx.export(
            net,
            (images,),
            file,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes={"images": {0: torch.export.Dim("n")}},
        )
    except Exception as error:  # the exporter has many ways to fail; all mean this
        raise UserError(f"torch cannot convert this network to ONNX: {error}") from error
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    computed = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        expected = net(images)
    expected = expected if isinstance(expected, Tensor) else expected[0]
    difference = float((computed - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not difference < 1e-3:
        raise UserError(
            f"onnxruntime computes other {outputs[0]} than torch (by {difference:.1e} of the "
            "largest): do not use ONNX with this network."
        )
    return difference


def refuse_foreign(
    out: Path,
    kind: str = "an export",
    files: Sequence[str] = (WEIGHTS, CONFIG, CARD, ONNX),
    mark: str = CONFIG,
) -> None:
    """Refuse to overwrite what is neither an empty folder nor one of ours.

    Args:
        out: may exist.
        kind: of folder, in words.
        files: that such a folder may hold.
        mark: the one that it always holds.

    Raises:
        UserError: `out` is a file or holds other files.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"out={out} is a file; give a folder that is new, empty or {kind}.")
    names = {file.name for file in out.iterdir()}
    foreign = sorted(names - set(files))
    if foreign or (names and mark not in names):
        raise UserError(
            f"out={out} contains files that are not part of {kind} "
            f"({', '.join((foreign or sorted(names))[:3])}); refusing to overwrite it. Give "
            "another folder."
        )
    if names and mark == CONFIG:
        read_config(out)  # a config.json and weights of another program


def _for_timm(net: Encoder, name: str) -> dict[str, Any]:
    """Entries of `config.json` that `timm.create_model("local-dir:FOLDER", …)` reads."""
    if not name.startswith("timm:"):
        return {}
    theirs: Any = net.backbone
    cfg = {
        key: value
        for key, value in theirs.pretrained_cfg.items()
        if key in ("pool_size", "interpolation", "first_conv", "classifier", "fixed_input_size")
    }
    shape = (net.channels, net.size, net.size)
    mean, std = (v.flatten().expand(net.channels).tolist() for v in (net.mean, net.std))
    return {
        "architecture": name.removeprefix("timm:"),
        "num_classes": 0,
        "num_features": net.dim,
        "model_args": {"in_chans": net.channels},
        "pretrained_cfg": {**cfg, "input_size": shape, "mean": mean, "std": std, "num_classes": 0},
    }
