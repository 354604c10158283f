"""The model card of an export: what the network is, what was measured, and how to load it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pnp.metrics import describe
from pnp.results import OWNERS, Row, main_table, to_rows

if TYPE_CHECKING:
    from pnp.export.encoder import Encoder


def write(
    net: "Encoder",
    options: dict[str, Any],
    facts: dict[str, Any],
    measured: dict[str, float],
    bands: dict[str, Any],
    *,
    license: str | None = None,
    hub: str | None = None,
) -> str:
    """The text of `README.md`, with the metadata that the Hugging Face Hub reads on top.

    Args:
        net: the network.
        options: what its architecture is built from.
        facts: `network` and `training` of `config.json`.
        measured: `metrics.json` of the run; empty if nothing was measured.
        bands: `band.json` of the run, for the guarantees.
        license: of the weights.
        hub: USER/NAME where the card will be read.
    """
    training, name = facts["training"], str(options["name"])
    title = hub.split("/")[1] if hub else f"{name.removeprefix('timm:')} · {training['data']}"
    image = f"{net.channels}×{net.size}×{net.size}"
    count = sum(p.numel() for p in net.backbone.parameters())
    choices = (f"{key} `{value}`" for key, value in training["choices"].items())
    how = ", ".join(choices) or "P¬P SSL"
    sections = [
        _front(name, license),
        f"# {title}",
        f"Backbone `{name}` ({count:,} parameters) that turns {image} images into {net.dim} "
        f"features. Its weights are the {facts['network']}'s of a self-supervised run with P¬P "
        f"SSL on `{training['data']}` ({how}), started from {training['started_from']}; no labels "
        "were used in training. The projector is not part of it.",
        "## Load it",
        _three_lines(net, hub),
        _theirs(net, name, options, hub),
        "## Measured",
        _measured(facts["network"], to_rows(measured), bands, training["protocol"]),
        "\n".join(f"- **Alarm** in training, {alarm}" for alarm in training["alarms"]),
        "## Trained",
        _trained(training),
        "## Licence",
        (f"Weights: {license}. " if license else "Weights: not stated by whoever exported them. ")
        + "The code that made them, P¬P SSL, is Apache-2.0.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front(name: str, license: str | None) -> str:
    library = "timm" if name.startswith("timm:") else "pnp-ssl"
    lines = ["---", *([f"license: {license}"] if license else []), f"library_name: {library}"]
    lines += ["pipeline_tag: image-feature-extraction", "tags:", "- self-supervised-learning"]
    return "\n".join([*lines, "- pnp-ssl", "---"])


def _three_lines(net: "Encoder", hub: str | None) -> str:
    mean, std = ([round(v, 4) for v in t.flatten().tolist()] for t in (net.mean, net.std))
    return f"""\
```python
import pnp  # pip install pnp-ssl
net = pnp.load("{f"hub:{hub}" if hub else "PATH"}")
features = net(images)
```

`images` is (N, {net.channels}, {net.size}, {net.size}), uint8 or floats in [0, 1], **not**
normalised: the network does that itself (mean {mean}, std {std}; exactly in `config.json`).
Other shapes and ranges are refused. `features` is (N, {net.dim}), float32. The network comes
frozen and in evaluation mode."""


def _theirs(net: "Encoder", name: str, options: dict[str, Any], hub: str | None) -> str:
    """Instructions for loading the weights with timm or torchvision alone."""
    if name.startswith("timm:"):
        source = f"hf-hub:{hub}" if hub else "local-dir:PATH"
        return f"""\
With timm alone (images normalised by you, with `net.pretrained_cfg`'s mean and std):

```python
import timm
net = timm.create_model("{source}", pretrained=True).eval()
```"""
    if not name.startswith("resnet"):
        return ""
    kind, stem = "stem", ""
    if options["stem"] == "small":
        kind = "3×3 stem without pooling"
        stem = f"""\
net.conv1 = nn.Conv2d({net.channels}, 64, 3, stride=1, padding=1, bias=False)
net.maxpool = nn.Identity()
"""
    elif net.channels != 3:
        stem = f"""\
net.conv1 = nn.Conv2d({net.channels}, 64, 7, stride=2, padding=3, bias=False)
"""
    return f"""\
With torchvision alone ({name} with the {kind}):

```python
import json
from pathlib import Path
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import {name}
net = {name}()
{stem}net.fc = nn.Identity()
net.load_state_dict(load_file("PATH/model.safetensors"))
net.eval()
given = json.loads(Path("PATH/config.json").read_text("utf-8"))["input"]
mean, std = (torch.tensor(given[k]).view(-1, 1, 1) for k in ("mean", "std"))
x = (images / 255 - mean) / std  # uint8 images; constants from config.json
features = net(x)
```"""


def _measured(
    network: str, rows: Sequence[Row], bands: dict[str, Any], protocol: str | None
) -> str:
    """The run's main table, the exported network's row in bold, and what its columns mean."""
    from pnp.report.page import markdown_table

    metrics, lines, note = main_table(rows)
    if not lines:
        return (
            "Nothing was measured for these weights. `pnp-evaluate run=RUN` or "
            "`pnp-evaluate ckpt=FILE` measures them."
        )
    table = []
    for owner, cells in lines.items():
        label = f"**{OWNERS[owner]} (this network)**" if owner == network else OWNERS[owner]
        table.append([label, *(_cell(cell) if cell else "–" for cell in cells)])
    words = [describe(metric) for metric in metrics]
    paragraphs = [
        markdown_table(["frozen features of", *(metric.heading for metric in words)], table),
        "\n".join(
            f"- {metric.heading}: {metric.meaning}; "
            f"{'higher' if metric.higher_is_better else 'lower'} is better"
            for metric in words
        ),
        f"{note} In brackets: 95 % intervals.".strip(),
    ]
    paragraphs += [f"Protocol. {protocol}"] if protocol else []
    for concept in list(bands)[:1]:
        guarantee = bands[concept].get(network, {}).get("guarantee")
        paragraphs += [f"Certified band, concept “{concept}”. {guarantee}"] if guarantee else []
    return "\n\n".join(paragraphs)


def _cell(row: Row) -> str:
    interval = "" if row.low is None or row.high is None else f" [{row.low:.4f}, {row.high:.4f}]"
    return f"{row.value:.4f}{interval}"


def _trained(training: dict[str, Any]) -> str:
    facts = {
        "Data": f"`{training['data']}`",
        "Steps": f"{training['steps']:,} of {training['batch_size']} images per process",
        "Seed": training["seed"],
        "Checkpoint": f"`{training['checkpoint']}`",
        "Commit": training["commit"],
        "Machine": training["machine"],
        "torch": training["torch"],
        "Evaluated in": training.get("precision"),
        "Exported by": training["exported_by"],
    }
    lines = [f"- {key}: {value}" for key, value in facts.items() if value is not None]
    for name, split in training["splits"].items():
        lines.append(
            f"- Split {name}: {split['count']:,} images, digest `{split['digest']}`"
            + (f" ({split['role']})" if split.get("role") else "")
        )
    return "\n".join(lines)
