"""The card of a decider: question, promise, measured table, and how to use it."""

from typing import Any

from pnp.decider.decider import Decider


def write(decider: Decider, path: str = "DECIDER") -> str:
    """The text of `README.md`."""
    facts = decider.facts
    concept, budgets, parts = facts["concept"], facts["budgets"], facts["parts"]
    image = f"{decider.encoder.channels}×{decider.encoder.size}×{decider.encoder.size}"
    sections = [
        f"# Decider: {concept['name']}",
        f"Answers **P**, **notP** or **uncertain** for an image. P means: {concept['meaning']}.",
        f"> {facts['guarantee']}",
        *(f"**Warning.** {warning}" for warning in facts["warnings"]),
        "## Use it",
        f"""\
```text
pnp-decide apply decider={path} images=FOLDER
```

```python
import pnp  # pip install pnp-ssl

decider = pnp.load_decider("{path}")
answers = decider(images)  # uint8 (N, {decider.encoder.channels}, H, W), PIL images or paths
answers.scores, answers.regions, answers.guarantee  # regions: 1 = P, 0 = notP, -1 = uncertain
```""",
        "## Measured",
        table(facts["measured"], budgets),
        _reading(facts["measured"], budgets),
        "## Made of",
        "\n".join(
            [
                f"- Encoder: {facts['encoder']}, {image} images to {decider.encoder.dim} features.",
                *(
                    f"- {name.capitalize()}: {part['images']:,} images, {part['positives']:,} P, "
                    f"digest `{part['digest']}`"
                    for name, part in parts.items()
                ),
                f"- Budgets: max_fp {budgets['max_fp']:g}, max_fn {budgets['max_fn']:g}, delta "
                f"{budgets['delta']:g}, {budgets['budget']}, {budgets['method']}.",
                f"- Thresholds: notP below {float(facts['thresholds']['t_lo']):.6g}, P above "
                f"{float(facts['thresholds']['t_hi']):.6g}.",
                *(f"- {note}" for note in facts["notes"]),
                f"- Made by pnp-ssl {facts['version']}.",
            ]
        ),
        "The promise holds for images drawn as the calibration images were. `pnp-decide check` "
        "tests it on labelled images that come later; `pnp-decide apply` compares features.",
    ]
    return "\n\n".join(sections) + "\n"


def table(measured: dict[str, Any], budgets: dict[str, Any]) -> str:
    of = {"joint": "all", "class_conditional": "the class", "answered": "these answers"}[
        budgets["budget"]
    ]
    lines = [
        f"| part | images | P | notP | uncertain | wrong P, of {of} | wrong notP, of {of} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in measured.items():
        shares = [f"{row[key] / row['images']:.1%}" for key in ("P", "notP", "uncertain")]
        errors = [
            f"{row[side]} of {row[f'{side}_of']:,} (at most {row[f'{side}_at_most']:.2%})"
            for side in ("fp", "fn")
        ]
        lines.append(" | ".join([f"| {name}", f"{row['images']:,}", *shares, *errors]) + " |")
    return "\n".join(lines)


def _reading(measured: dict[str, Any], budgets: dict[str, Any]) -> str:
    sure = f"{1 - budgets['delta'] / 2:.1%}"
    text = f"At most: Clopper-Pearson upper bound at {sure}."
    if "test" in measured:
        return f"{text} The thresholds were cut on the calibration part; test is unseen."
    return (
        f"{text} The thresholds were cut on this part, so its errors are the allowed ones; the "
        "share of uncertain images is what to expect. `test=.2` measures on images kept aside."
    )
