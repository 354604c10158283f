"""The model card of an export: what the network is, what was measured, and how to load it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pnp.export.encoder import Encoder

ROWS = {
    "teacher": ("the teacher", "test/{}/teacher"),
    "student": ("the student", "test/{}/student"),
    "pixels": ("raw pixels", "reference/pixels/{}"),
    "random": ("the same backbone, untrained", "reference/random/{}"),
}


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
    choices = training["choices"]
    how = ", ".join(f"{key} `{value}`" for key, value in choices.items()) or "P¬P SSL"
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
        _measured(facts["network"], measured, bands, training["protocol"]),
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
    """How to load the weights without this package, where the architecture is another's."""
    constants = "x = (images / 255 - mean) / std  # uint8 images; constants from config.json"
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
    stem = []
    if options["stem"] == "small":
        stem = [
            f"net.conv1 = nn.Conv2d({net.channels}, 64, 3, stride=1, padding=1, bias=False)",
            "net.maxpool = nn.Identity()",
        ]
    elif net.channels != 3:
        stem = [f"net.conv1 = nn.Conv2d({net.channels}, 64, 7, stride=2, padding=3, bias=False)"]
    code = [
        "import json",
        "from pathlib import Path",
        "import torch",
        "from safetensors.torch import load_file",
        "from torch import nn",
        f"from torchvision.models import {name}",
        f"net = {name}()",
        *stem,
        "net.fc = nn.Identity()",
        'net.load_state_dict(load_file("PATH/model.safetensors"))',
        "net.eval()",
        'given = json.loads(Path("PATH/config.json").read_text())["input"]',
        'mean, std = (torch.tensor(given[k]).view(-1, 1, 1) for k in ("mean", "std"))',
        constants,
        "features = net(x)",
    ]
    kind = "3×3 stem without pooling" if options["stem"] == "small" else "stem"
    return "\n".join(
        [f"With torchvision alone ({name} with the {kind}):", "", "```python", *code, "```"]
    )


def _measured(
    network: str, measured: dict[str, float], bands: dict[str, Any], protocol: str | None
) -> str:
    """The run's own table; the exported network's row is bold."""
    from pnp.report.single import markdown_table

    columns = {"linear probe": "linear", "kNN": "knn"}
    concepts = list(bands)
    # Of one concept there is an interval; of several, the mean over them.
    owner = concepts[0] if len(concepts) == 1 else "mean"
    which = f"“{owner}”" if len(concepts) == 1 else f"mean of {len(concepts)} concepts"
    rows = []
    for key, (label, pattern) in ROWS.items():
        cells = [_cell(measured, pattern.format(probe)) for probe in columns.values()]
        cells += [_cell(measured, f"band/{owner}/{key}/{kind}") for kind in ("width", "plugin")]
        if any(cells):
            label = f"**{label} (this network)**" if key == network else label
            rows.append([label, *(cell or "–" for cell in cells)])
    if not rows:
        return (
            "Nothing was measured for these weights. `pnp-evaluate run=RUN` or "
            "`pnp-evaluate ckpt=FILE` measures them."
        )
    header = ["frozen features of", *columns]
    if concepts:
        header += [f"band, certified ({which})", "band, plug-in"]
    else:
        rows = [row[: len(header)] for row in rows]
    lines = [markdown_table(header, rows)]
    lines.append(
        "Accuracies: higher is better; bands: lower is better. In brackets: 95 % intervals."
    )
    lines += [f"Protocol. {protocol}"] if protocol else []
    for concept in concepts[:1]:
        guarantee = bands[concept].get(network, {}).get("guarantee")
        lines += [f"Certified band, concept “{concept}”. {guarantee}"] if guarantee else []
    return "\n\n".join(lines)


def _cell(measured: dict[str, float], key: str) -> str:
    if key not in measured:
        return ""
    ends = [measured.get(f"{key}/ci_{end}") for end in ("low", "high")]
    interval = "" if None in ends else f" [{ends[0]:.4f}, {ends[1]:.4f}]"
    return f"{measured[key]:.4f}{interval}"


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
