"""Weights and checkpoints of any origin: read without running code, fitted by name, or refused."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pnp.errors import UserError

# Entries that usually hold the weights, the one to take first.
ENTRIES = (
    "state_dict", "model_state_dict", "teacher", "state_dict_ema", "model_ema", "model", "student",
    "network", "net", "encoder", "backbone", "module",
)  # fmt: skip
# Of two networks that fit equally, the one whose name holds the earlier word.
PREFERRED = ("teacher", "ema", "encoder_q", "student", "online")
HEADS = ("fc.", "head.", "heads.", "classifier.", "head_dist.")  # of a classifier; left over
SHOWN = 5


def read(file: Path, key: str) -> Any:
    """The content of a .safetensors file, or of what `torch.save` wrote; no code in it runs.

    Args:
        file: as given.
        key: of the setting, for messages.

    Raises:
        UserError: it cannot be read; says why and what to do.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        # A plain record that DINO, MAE and others save beside their weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{key}={file}: cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # zip, pickle and safetensors have a class each
        if found := re.search(
            r"GLOBAL ([\w.]+)|Unsupported (?:global|class)\S* ([\w.]+)", str(error)
        ):
            raise UserError(
                f"{key}={file} holds Python objects beside tensors ({found[1] or found[2]}), which "
                "are not loaded, since that runs code from the file. Save the weights alone where "
                "you trust it: torch.save(model.state_dict(), 'weights.pt')."
            ) from error
        raise UserError(
            f"{key}={file} is no file of weights, or was cut off ({file.stat().st_size:,} bytes; "
            f"{type(error).__name__}). Expected .safetensors, or what torch.save wrote."
        ) from error


def state_of(content: Any, file: Path, key: str) -> tuple[dict[str, Tensor], str]:
    """The tensors by name in a file's content, and the entries that led to them.

    Raises:
        UserError: there are none.
    """
    path: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        below = [k for k, v in content.items() if isinstance(v, Mapping) and v]
        named = [k for k in ENTRIES if k in below]
        if not named and tensors:
            return tensors, ".".join(path)
        if not named and len(below) != 1:
            break
        path.append(str((named or below)[0]))
        content = content[(named or below)[0]]
    words = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        words = f"the entries {', '.join(map(str, content))[:200]}"
    raise UserError(
        f"{key}={file} holds {words}; expected a state dict, tensors by name, alone or under "
        f"{', '.join(ENTRIES[:3])}, …"
    )


@dataclass(frozen=True)
class Fit:
    """Fit of the tensors of a file to a module.

    Args:
        state: those that fit, under the module's names.
        prefix: what was taken off their names.
        missing: of the module, not in the file.
        shapes: name -> shapes in the file and here, where they differ.
        left: of the file, without a place here; a classifier's last layer does not count.
    """

    state: dict[str, Tensor]
    prefix: str
    missing: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    left: list[str]

    @property
    def whole(self) -> bool:
        """True where nothing is missing, left over or of another shape."""
        return not (self.missing or self.shapes or self.left)

    def describe(self) -> str:
        """Tensors that fit and that do not, on one screen."""
        lines = [
            f"  fit: {len(self.state)}" + (f" (prefix {self.prefix!r})" if self.prefix else ""),
            *(f"  {name}: {theirs} in the file, {ours} here"
              for name, (theirs, ours) in list(self.shapes.items())[:SHOWN]),
        ]  # fmt: skip
        for words, names in (("missing", self.missing), ("left over", self.left)):
            if names:
                more = ", …" if len(names) > SHOWN else ""
                lines.append(f"  {words}: {len(names)} ({', '.join(names[:SHOWN])}{more})")
        if len(self.shapes) > SHOWN:
            lines.append(f"  and {len(self.shapes) - SHOWN} more of another shape")
        return "\n".join(lines)


def fit(module: nn.Module, state: Mapping[str, Any]) -> Fit:
    """Match tensors to a module by name, under the prefix of theirs that fits most of it."""
    wanted = module.state_dict()
    counts: dict[str, int] = {"": 0}
    for name in state:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:i])
                counts[prefix] = counts.get(prefix, 0) + 1

    def rank(prefix: str) -> tuple[int, bool, int, int]:
        taste = next((i for i, w in enumerate(PREFERRED) if w in prefix), len(PREFERRED))
        return counts[prefix], prefix == "", -taste, -len(prefix)

    prefix = max(counts, key=rank)
    mine = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    known = {k: v for k, v in mine.items() if k in wanted and isinstance(v, Tensor)}
    shapes = {
        k: (tuple(v.shape), tuple(wanted[k].shape))
        for k, v in known.items()
        if v.shape != wanted[k].shape
    }
    # torch counts batches since 1.0; older files lack the counter.
    late = {k for k in wanted if k.endswith("num_batches_tracked") and k not in mine}
    missing = [k for k in wanted if k not in known and k not in late]
    left = [k for k in mine if k not in wanted and not k.startswith(HEADS)]
    return Fit({k: v for k, v in known.items() if k not in shapes}, prefix, missing, shapes, left)


def load(network: nn.Module, file: Path, key: str = "state_dict", *, partial: bool = False) -> None:
    """Load weights into a network; prefixes such as `module.` are taken off and named.

    Args:
        network: the network.
        file: as given.
        key: of the setting, for messages.
        partial: load what fits, and say what does not.

    Raises:
        UserError: the file cannot be read, its weights are not finite, or do not fit.
    """
    state, entry = state_of(read(file, key), file, key)
    found = fit(network, state)
    place = f"{key}={file}" + (f", {entry}" if entry else "")
    refuse_odd(found.state, place)
    if not found.whole and not (partial and found.state):
        more = (
            " Or load what fits with partial=true." if found.state and key == "state_dict" else ""
        )
        raise UserError(
            f"{place} does not fit {type(network).__name__}:\n{found.describe()}\n"
            f"{_advice(found)}{more}"
        )
    network.load_state_dict(found.state, strict=False)
    if entry or found.prefix or not found.whole:
        print(f"weights of {place}:\n{found.describe()}")


def refuse_odd(state: Mapping[str, Tensor], place: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        UserError: names the first.
    """
    odd = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise UserError(
            f"the weights of {place} hold NaN or infinity, in {odd[0]}{more}: their training "
            "diverged. Take an earlier checkpoint."
        )


def _advice(found: Fit) -> str:
    theirs, ours = found.shapes.get("conv1.weight", ((), ()))
    if theirs[2:] == (7, 7) and ours[2:] == (3, 3):
        return (
            "These weights have the large stem, for images above 64 px: model='{stem: large}' "
            "data.size=96."
        )
    if any("pos_embed" in name for name in found.shapes):
        return "These weights are for images of another size: set data.size to theirs."
    if any(a[1:2] != b[1:2] for name, (a, b) in found.shapes.items() if len(a) == 4 == len(b)):
        return "These weights are for images with other channels, or for another architecture."
    return "Name the architecture that they were trained with."
