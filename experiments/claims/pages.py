"""README.md, figures and hashes of the ledger, from its csv files."""

import hashlib
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import pandas as pd
from evidence import HERE, IDS, SCALES, Contrast

MARK, END = "<!-- verdicts -->", "<!-- end of verdicts -->"
PAGE = HERE.parents[1] / "README.md"
NAMES = {
    "quick": "256 or 1,024 drawn images, width 8, 50 to 400 steps; a first look",
    "contest": "the finals of 004_contest: three sets, 2 to 3 epochs",
    "laptop": "three sets, 10 epochs or more",
    "gpu": "ResNet-18, 100 epochs",
}


def verdicts(name: str, folder: Path = HERE) -> dict[tuple[str, str], tuple[str, list[Contrast]]]:
    """Verdict and contrasts by scale and case; empty where no run has been made."""
    content, rows = evidence.claim(name), evidence.read(folder / f"{name}.csv")
    found = {}
    for scale in (s for s in SCALES if s in content["budget"]):
        for case, lines in content["cases"].items():
            contrasts = evidence.decide(rows[rows["scale"] == scale], lines, content["rule"])
            budget = content["budget"][scale]
            planned = len(budget.get("data", [])) or budget.get("sets", 1)
            sets = content["rule"]["sets"]
            found[scale, case] = evidence.verdict(contrasts, lines, sets, planned), contrasts
    return found


def compare(name: str, scale: str, folder: Path, left: int) -> str:
    """Whether the verdicts of these rows are the committed ones."""
    lines = [f"{left} runs are left"] if left else []
    committed = verdicts(name)
    for (own, case), (answer, contrasts) in verdicts(name, folder).items():
        if own != scale:
            continue
        before = committed[own, case][0]
        same = "reproduced" if answer == before else f"not reproduced: committed is {before}"
        same = "no committed verdict" if before == "not run" else same
        same = f"committed is {before}" if answer == "not run" or left else same
        lines.append(f"{name}, {case}, {scale}: {answer} ({same})")
        lines += [f"  {c.data}  {text(c)}" for c in contrasts]
    return "\n".join(lines)


def text(contrast: Contrast) -> str:
    """One contrast in a line: words, effect, interval, verdict."""
    seeds = contrast.seeds_to_decide
    more = (
        "" if seeds is None else f"; {seeds if seeds <= 1000 else 'over 1,000'} seeds would decide"
    )
    half = f"{contrast.half:.3f}" if np.isfinite(contrast.half) else "∞"
    return (
        f"`{contrast.words}`: {contrast.mean:+.3f} ± {half} (n={len(contrast.effects)}, "
        f"p={contrast.p:.2g}): {contrast.verdict}{more}"
    )


def readme() -> str:
    """The ledger at a glance, then each claim."""
    head = "claim | scale, case | data | seeds | verdict | weakest effect | figure | command"
    table = [f"| {head} |", "|" + " --- |" * 8]
    parts: list[str] = []
    for name in IDS:
        content, rows = evidence.claim(name), evidence.read(HERE / f"{name}.csv")
        found, picture = verdicts(name), (HERE / f"{name}.svg").is_file()
        parts += ["", f"## {name} {content['article']}", "", content["statement"].strip(), ""]
        parts += [f"*Measure.* {content['measure'].strip()}", ""]
        parts += [f"*Refuted by* {content['refuted_by'].strip()}.", ""]
        parts += [f"![{content['article']}]({name}.svg)", ""] * picture
        for scale in (s for s in SCALES if s in content["budget"]):
            own, budget = rows[rows["scale"] == scale], content["budget"][scale]
            planned = len(evidence.jobs(name, scale, {"cifar": ""}))
            if own.empty:
                parts += [f"- **{scale}** ({NAMES[scale]}): not run. Cost: {budget['cost']}."]
                continue
            if planned > len(own):
                parts += [f"- **{scale}**: {len(own)} of {planned} runs so far."]
            for case in content["cases"]:
                answer, contrasts = found[scale, case]
                parts += [f"- **{scale}, {case}: {answer}**"]
                parts += [f"    - {c.data}: {text(c)}" for c in contrasts]
                table.append(glance(name, content, scale, case, found[scale, case], picture))
            parts += [facts(scale, own)]
    intro = (HERE / "intro.md").read_text()
    scales = [f"- `{scale}`: {words}" for scale, words in NAMES.items()]
    return "\n".join([intro, *scales, "", *table, *parts]).rstrip() + "\n"


def glance(
    name: str,
    content: dict[str, Any],
    scale: str,
    case: str,
    found: tuple[str, list[Contrast]],
    picture: bool,
) -> str:
    """A row of the first table; the weakest effect is the one closest to failing, or failed."""
    answer, contrasts = found
    if not contrasts:
        return f"| {name} {content['article']} | {scale}, {case} | – | – | {answer} | – | – | – |"
    weakest = min(contrasts, key=lambda c: (c.mean - c.indifference) / max(c.half, 1e-9))
    data = ", ".join(dict.fromkeys(c.data for c in contrasts))
    seeds = min(len(c.effects) for c in contrasts)
    return (
        f"| [{name}](#{anchor(name, content)}) {content['article']} | {scale}, {case} | {data} "
        f"| {seeds} | **{answer}** | {weakest.words}: {weakest.mean:+.3f} ± {weakest.half:.3f} "
        f"| {f'[{name}.svg]({name}.svg)' * picture or '–'} "
        f"| `make claim ID={name} SCALE={scale}` |"
    )


def facts(scale: str, rows: pd.DataFrame) -> str:
    """Seconds, machine and commits of these runs."""
    commits = rows.get("commit", pd.Series(dtype=str)).dropna().astype(str)
    words = [f"{rows['seconds'].sum() / 60:.0f} min in all"]
    words += [", ".join(dict.fromkeys(rows["machine"].dropna()))]
    words += [f"commit {', '.join(dict.fromkeys(commits))}"] * (len(commits) > 0)
    return f"- {scale}: {len(rows)} runs; {'; '.join(words)}."


def summary() -> str:
    """The verdicts in a few lines, for README.md of the repository."""
    lines = ["| claim | scale | verdict by case |", "| --- | --- | --- |"]
    for name in IDS:
        content, found = evidence.claim(name), verdicts(name)
        run = [
            scale
            for scale in content["budget"]
            if any(found[scale, c][1] for c in content["cases"])
        ]
        said = (
            [f"{case}: **{found[run[-1], case][0]}**" for case in content["cases"]] if run else []
        )
        lines.append(
            f"| {name} {content['article']} | {run[-1] if run else '–'} "
            f"| {'; '.join(said) or 'not decided yet'} |"
        )
    return "\n".join(lines)


def filled(text: str) -> str:
    """A page with the verdicts between its two marks."""
    first, rest = text.split(MARK)
    return f"{first}{MARK}\n{summary()}\n{END}{rest.split(END)[1]}"


def anchor(name: str, content: dict[str, Any]) -> str:
    """GitHub's anchor of a claim's heading."""
    words = f"{name} {content['article']}".lower()
    return "".join(c for c in words if c.isalnum() or c in " -_").replace(" ", "-")


def hashes() -> str:
    """Lines of sha256sum, one for each csv file."""
    files = sorted(HERE.glob("C*.csv"))
    return "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)


def write() -> None:
    """Write figures, hashes and README.md, and print the verdicts."""
    for name in IDS:
        if (HERE / f"{name}.csv").is_file():
            figure(name)
    (HERE / "sha256").write_text(hashes())
    (HERE / "README.md").write_text(readme())
    PAGE.write_text(filled(PAGE.read_text()))
    for name in IDS:
        for (scale, case), (answer, contrasts) in verdicts(name).items():
            if contrasts:
                print(f"{name} {scale:8} {case:16} {answer}")


def figure(name: str) -> None:
    """One picture: curves of σ·√D, a phase diagram, or all effects with their intervals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    content, rows = evidence.claim(name), evidence.read(HERE / f"{name}.csv")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        picture = Figure(figsize=(7.5, 3.4), layout="constrained")
        draw = {"curves": curves, "phase": phases}.get(content.get("figure", ""), forest)
        draw(picture, name, rows)
        picture.savefig(HERE / f"{name}.svg", metadata={"Date": None, "Creator": None})


def curves(picture: Any, name: str, rows: pd.DataFrame) -> None:
    """σ·√D over the run, a line per run, an axis per data set and kind of start."""
    rows = rows.dropna(subset=["sigma_curve"])
    rows = rows[rows["scale"] == rows["scale"].iloc[-1]].copy()
    starts = rows["arm"].str.extract("_(complete|cone|dimensional)$")[0].fillna("")
    rows["panel"] = rows["data"] + starts.map(lambda start: f", {start} start" if start else "")
    panels = list(dict.fromkeys(rows["panel"]))
    axes = np.atleast_1d(picture.subplots(1, len(panels), sharey=True))
    arms = rows["arm"].str.replace("_(complete|cone|dimensional)$", "", regex=True)
    for axis, panel in zip(axes, panels, strict=True):
        for i, arm in enumerate(dict.fromkeys(arms)):
            own = rows[(arms == arm) & (rows["panel"] == panel)]
            for k, line in enumerate(own.itertuples()):
                y = [float(word) for word in str(line.sigma_curve).split()]
                x = np.linspace(0, float(str(line.steps)), len(y))
                axis.plot(x, y, color=f"C{i}", linewidth=0.9, label=arm if k == 0 else None)
        axis.set(title=panel, xlabel="optimizer step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("σ·√D of a batch")
    lines, labels = axes[0].get_legend_handles_labels()
    picture.legend(lines, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)


def phases(picture: Any, name: str, rows: pd.DataFrame) -> None:
    """Mean certified band over batch × width (rows) and steps (columns), a panel per method."""
    scale = rows["scale"].iloc[-1]
    rows = rows[rows["scale"] == scale]
    parts = rows["arm"].str.rsplit("_", n=1, expand=True)
    mean = rows.groupby([parts[0], parts[1]], sort=False)["band_student"].mean()
    budget = evidence.claim(name)["budget"][scale]
    places = {cell: place(words) for cell, words in budget["cells"].items()}
    heights = sorted({(batch, width) for batch, width, _ in places.values()})
    lengths = sorted({steps for *_, steps in places.values()})
    labels = [f"batch {b}" + f", width {w}" * (w > 0) for b, w in heights]
    axes = np.atleast_1d(picture.subplots(1, len(budget["arms"]), sharey=True))
    colours = None
    for axis, arm in zip(axes, budget["arms"], strict=True):
        grid = np.full((len(heights), len(lengths)), np.nan)
        for cell, (batch, width, steps) in places.items():
            at = heights.index((batch, width)), lengths.index(steps)
            grid[at] = mean.get((arm, cell), np.nan)
        colours = axis.imshow(
            grid, cmap="viridis_r", vmin=mean.min(), vmax=mean.max(), aspect="auto", origin="lower"
        )
        for (y, x), value in np.ndenumerate(grid):
            bright = value > (mean.min() + mean.max()) / 2
            said = f"{value:.2f}" if np.isfinite(value) else ""
            axis.text(x, y, said, ha="center", va="center", color="w" if bright else "k")
        axis.set(title=arm, xticks=range(len(lengths)), xticklabels=lengths, xlabel="steps")
        axis.set(yticks=range(len(heights)), yticklabels=labels)
    picture.colorbar(colours, ax=list(axes), label="certified band")


def place(words: list[str]) -> tuple[int, int, int]:
    """Batch, width (0 where it is the scale's own) and steps of a cell's overrides."""
    given = dict(word.split("=") for word in words)
    keys = ("data.batch_size", "model.width", "trainer.max_steps")
    batch, width, steps = (int(given.get(key, 0)) for key in keys)
    return batch, width, steps


def forest(picture: Any, name: str, rows: pd.DataFrame) -> None:
    """Every effect with its corrected interval; grey is the region of no practical difference."""
    found = [
        (f"{scale}, {case}, {c.data}  {c.words}", c)
        for (scale, case), (_, contrasts) in verdicts(name).items()
        for c in contrasts
    ]
    picture.set_size_inches(9, 1 + 0.3 * len(found))
    axis = picture.subplots()
    colours = {"supported": "C2", "refuted": "C3", "undecided": "0.4"}
    for i, (_, c) in enumerate(found):
        scale = max(abs(c.mean) + c.half, 1e-9) if np.isfinite(c.half) else max(abs(c.mean), 1e-9)
        style = {"color": colours[c.verdict], "capsize": 2}
        axis.errorbar(c.mean / scale, -i, xerr=min(c.half / scale, 2), fmt="o", **style)
        axis.fill_betweenx([-i - 0.3, -i + 0.3], 0, c.indifference / scale, color="0.85")
        axis.text(1.05, -i, f"{c.mean:+.3f} ± {c.half:.3f}", va="center", fontsize=8)
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.set(yticks=[-i for i in range(len(found))], yticklabels=[words for words, _ in found])
    axis.set(xlim=(-1.1, 1.6), xticks=[], xlabel="← against the claim   for the claim →")
    axis.spines[["top", "right", "left"]].set_visible(False)
