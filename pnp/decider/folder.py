"""The folder of a decider: an export of its encoder with head, thresholds and certificate.

`config.json` and `model.safetensors` are those of an export, so that `pnp.load` takes the folder
too; `head.safetensors` and `reference.safetensors` hold tensors, `decider.json` the rest.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pnp.decider.decider import Decider, Scorer
from pnp.errors import UserError
from pnp.export import encoder as exported
from pnp.export import folder as export
from pnp.export.folder import CARD, ONNX, save, save_onnx
from pnp.files import replacing, replacing_folder, write_json

FORMAT, VERSION = "pnp-decider", 1
FACTS, HEAD, REFERENCE = "decider.json", "head.safetensors", "reference.safetensors"
FILES = (exported.CONFIG, exported.WEIGHTS, CARD, FACTS, HEAD, REFERENCE, ONNX)
refuse_foreign = partial(export.refuse_foreign, kind="a decider", files=FILES, mark=FACTS)
SECTIONS = ("files", "thresholds", "budgets", "concept", "shares", "parts", "measured")
TENSORS = (exported.WEIGHTS, HEAD, REFERENCE)


def write(
    decider: Decider, out: Path, options: Mapping[str, Any], source: Mapping[str, Any], card: str
) -> Path:
    """Write a decider; readers see the old folder or the whole new one.

    Args:
        decider: on the CPU.
        out: the folder; an older decider there is replaced.
        options: what `pnp.backbones.backbone` builds the encoder from.
        source: further entries of the encoder's `config.json`: where its weights come from.
        card: text of `README.md`.

    Raises:
        UserError: `out` is something else than a decider or an empty folder.
    """
    from safetensors.torch import save_file

    refuse_foreign(out)
    with replacing_folder(out) as part:
        plain = decider.encoder.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        save(plain, part, options, source, card)
        head = {"weight": decider.weight, "bias": torch.tensor(decider.bias).double()}
        save_file(head, part / HEAD)
        save_file({k: v.contiguous() for k, v in decider.reference.items()}, part / REFERENCE)
        facts = {
            "format": FORMAT,
            "format_version": VERSION,
            **{key: value for key, value in decider.facts.items() if key != "digest"},
            "files": {name: _digest(part / name) for name in (exported.CONFIG, *TENSORS)},
        }
        write_json(part / FACTS, {**facts, "digest": _digest_of(facts)})
        for name in (HEAD, REFERENCE):  # safetensors lets the owner alone read
            (part / name).chmod((part / FACTS).stat().st_mode)
    return out


def read(path: str | Path) -> Decider:
    """Load a decider from a folder, or from `hub:USER/NAME`.

    Raises:
        UserError: no decider, one of another format version, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = exported.local(path, FILES)
    facts = _facts(folder)
    missing = [name for name in TENSORS if not (folder / name).is_file()]
    exported.read_config(folder)
    if missing:
        raise UserError(f"{folder} is incomplete: {', '.join(missing)} missing. Fit it again.")
    names = {*TENSORS, *({exported.CONFIG} & set(facts["files"]))}  # early ones knew no config's
    changed = sorted(n for n in names if _digest(folder / n) != facts["files"].get(n))
    if changed:
        raise UserError(
            f"{folder} is damaged: {', '.join(changed)} changed since it was written (cut off in "
            "copying?). Copy it again, or fit it again."
        )
    try:
        head, reference = (load_file(folder / name) for name in (HEAD, REFERENCE))
        encoder = exported.load(folder)
        if head["weight"].shape != (encoder.dim,):
            raise ValueError("the head does not fit the encoder")
        if not (head["weight"].isfinite().all() and head["bias"].isfinite()):
            raise ValueError("the head is not finite")
        return Decider(encoder, head["weight"], float(head["bias"]), facts, reference)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder} is damaged ({type(error).__name__}: {error}): fit it again."
        ) from error


def add_onnx(folder: Path) -> None:
    """Write `model.onnx` into the folder of a decider: `images` to `score` and `region`.

    Raises:
        UserError: as `read` and `save_onnx`.
    """
    decider = read(folder)
    net = decider.encoder.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    with replacing(folder / ONNX) as part:
        save_onnx(
            Scorer(decider).eval(), part, (net.channels, net.size, net.size), ("score", "region")
        )


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / FACTS
    if not file.is_file():
        hint = "Give a folder that pnp-decide fit wrote."
        if (folder / "decider" / FACTS).is_file():
            hint = f"Give {folder / 'decider'}."
        raise UserError(f"{folder} is not a decider: it has no {FACTS}. {hint}")
    facts = exported.of_format(file, FORMAT, VERSION, "pnp-decide fit")
    lacking = [key for key in SECTIONS if not isinstance(facts.get(key), dict)]
    if lacking or not isinstance(facts.get("guarantee"), str):
        raise UserError(
            f"{file} is damaged: it lacks {', '.join(lacking) or 'guarantee'}. Fit it again."
        )
    # Early ones have no digest.
    if "digest" in facts and facts["digest"] != _digest_of(facts):
        raise UserError(
            f"{file} was changed since it was written, and what was certified is what pnp-decide "
            "fit wrote. Copy it again, or fit it again."
        )
    return facts


def _digest_of(facts: Mapping[str, Any]) -> str:
    entries = {key: value for key, value in facts.items() if key != "digest"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
