"""Claims with rules fixed beforehand: their runs, and what the rows of csv files say of them."""

import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

HERE = Path(__file__).parent
IDS = ("C1", "C2", "C3", "C4", "C5", "C6")
SCALES = ("quick", "contest", "laptop", "gpu")
KEY = ["scale", "data", "arm", "seed"]
LEAST_SEEDS, MOST_SEEDS = 5, 1000


@dataclass(frozen=True)
class Contrast:
    """One decided comparison: paired effects over seeds, turned so that the claim says positive.

    Args:
        data: the data set.
        words: measure and claim, as in `sigma_late: on − off > 0`.
        effects: one number per seed.
        indifference: effects up to this one make no practical difference.
        level: of the interval, after Holm's correction.
        p: two-sided, of no effect; corrected.
        seeds_to_decide: seeds that the observed mean and spread would need; None where decided.
    """

    data: str
    words: str
    effects: np.ndarray
    indifference: float
    level: float = 0.05
    p: float = 1.0

    @property
    def mean(self) -> float:
        """Mean effect."""
        return float(self.effects.mean())

    @property
    def half(self) -> float:
        """Half of the t-interval at the corrected level."""
        n = len(self.effects)
        error = self.effects.std(ddof=1) / n**0.5 if n > 1 else np.inf
        return float(stats.t.ppf(1 - self.level / 2, max(1, n - 1)) * error)

    @property
    def verdict(self) -> str:
        """supported, refuted or undecided: the interval beside 0 and the indifference."""
        low, high = self.mean - self.half, self.mean + self.half
        if high <= self.indifference:
            return "refuted"
        return "supported" if low > 0 else "undecided"

    @property
    def seeds_to_decide(self) -> int | None:
        """Least number of seeds whose interval would decide, at the observed mean and spread."""
        if self.verdict != "undecided":
            return None
        spread = self.effects.std(ddof=1) if len(self.effects) > 1 else np.inf
        for n in range(len(self.effects) + 1, MOST_SEEDS + 1):
            half = stats.t.ppf(1 - self.level / 2, n - 1) * spread / n**0.5
            if self.mean - half > 0 or self.mean + half <= self.indifference:
                return n
        return MOST_SEEDS + 1


def effects(frame: pd.DataFrame, claim: str) -> np.ndarray:
    """Effects by seed of a claim such as `on - off > 0` or `off < 0.6`.

    Args:
        frame: one measure, rows by seed, columns by arm.
        claim: an expression of arms, compared with a number.
    """
    sign = 1 if ">" in claim else -1
    left, right = claim.split(">" if sign > 0 else "<")
    return sign * (np.asarray(frame.eval(left), float) - float(right))


def holm(contrasts: list[Contrast], level: float) -> list[Contrast]:
    """Levels and p-values by Holm's step-down over the whole list."""
    p = [_p(contrast.effects) for contrast in contrasts]
    order, corrected, so_far = np.argsort(p, kind="stable"), list(contrasts), 0.0
    rank_of_level = 0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, p[i] * (len(p) - rank)))
        if so_far <= level:
            rank_of_level = rank + 1 if rank + 1 < len(p) else rank
        own = level / (len(p) - min(rank, rank_of_level))
        corrected[i] = replace(contrasts[i], p=so_far, level=own)
    return corrected


def _p(values: np.ndarray) -> float:
    if len(values) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    return float(stats.ttest_1samp(values, 0).pvalue)


def decide(rows: pd.DataFrame, case: dict[str, Any], rule: dict[str, Any]) -> list[Contrast]:
    """The contrasts of a case that have all arms on three seeds or more, Holm-corrected."""
    found = []
    for data, own in rows.groupby("data", sort=False):
        for line in case["contrasts"]:
            if line["measure"] not in own:
                continue
            table = own.pivot_table(index="seed", columns="arm", values=line["measure"])
            used = [arm for arm in table if str(arm) in _names(line["claim"])]
            if len(used) < len(_names(line["claim"])) or len(table[used].dropna()) < 3:
                continue
            values = effects(table[used].dropna(), line["claim"])
            words = f"{line['measure']}: {line['claim']}"
            found.append(Contrast(str(data), words, values, line.get("indifference", 0.0)))
    return holm(found, rule["level"])


def _names(claim: str) -> set[str]:
    import ast

    left = claim.replace("<", ">").split(">")[0].strip()
    return {node.id for node in ast.walk(ast.parse(left)) if isinstance(node, ast.Name)}


def verdict(contrasts: list[Contrast], case: dict[str, Any], sets: int, planned: int) -> str:
    """A set supports a case with all of its contrasts and refutes it with one; sets then vote.

    Fewer than five seeds decide nothing.
    """
    if contrasts and min(len(c.effects) for c in contrasts) < LEAST_SEEDS:
        return "undecided"
    by_set: dict[str, list[str]] = {}
    for contrast in contrasts:
        by_set.setdefault(contrast.data, []).append(contrast.verdict)
    votes = []
    for verdicts in by_set.values():
        full = len(verdicts) == len(case["contrasts"])
        said = "refuted" if "refuted" in verdicts else "undecided"
        votes.append("supported" if full and set(verdicts) == {"supported"} else said)
    needed = min(sets, planned)
    for answer, other in (("supported", "refuted"), ("refuted", "supported")):
        if votes.count(answer) >= needed and other not in votes:
            return answer
    return "undecided" if votes else "not run"


def claim(name: str) -> dict[str, Any]:
    """A claim's yaml with the words of the scales and arms that all claims share."""
    content = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    shared = yaml.safe_load((HERE / "shared.yaml").read_text())
    arms = {**shared["arms"], **content.get("arms", {})}
    return {**content, "shared": shared["scales"], "arms": arms}


def jobs(name: str, scale: str, paths: dict[str, str]) -> list[dict[str, Any]]:
    """Every run of a claim at a scale: key, overrides, collapsed start; seeds outermost."""
    content = claim(name)
    budget, shared = content["budget"].get(scale, {}), content["shared"].get(scale, {})
    if "data" not in budget or not shared:
        return []
    cells = budget.get("cells", {"": []})
    listed = []
    for seed in content["seeds"]:
        for data in budget["data"]:
            for cell, more in cells.items():
                for arm in budget["arms"]:
                    words = [
                        *shared["words"], *shared["data"][data], *content["arms"][arm],
                        *budget.get("words", []), *more, f"seed={seed}", f"data.seed={seed}",
                    ]  # fmt: skip
                    words = [word.format(**paths) for word in words]
                    for start in budget.get("starts", [""]):
                        full = "_".join(part for part in (arm, start, cell) if part)
                        listed.append(
                            {
                                "scale": scale, "data": data, "arm": full, "seed": seed,
                                "words": words, "start": start,
                                "evaluate": budget.get("evaluate", True),
                            }
                        )  # fmt: skip
    return listed


def identity(job: dict[str, Any]) -> str:
    """Digest of all that a run depends on, whatever claim asks for it."""
    text = json.dumps([sorted(job["words"]), job["start"], job["evaluate"]])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read(file: Path) -> pd.DataFrame:
    """Rows of a csv; empty where there is none."""
    return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=[*KEY, "hash"])


def append(file: Path, row: dict[str, Any]) -> None:
    """Add a row; a new column is added to all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    old: list[dict[str, Any]] = []
    if file.is_file():
        with file.open(newline="") as stream:
            old = list(csv.DictReader(stream))
    row = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
    columns = list(dict.fromkeys([*(old[0] if old else []), *row]))
    part = file.with_suffix(".part")
    with part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, row])
    part.replace(file)


def run_missing(name: str, scale: str, folder: Path, paths: dict[str, str], budget: float) -> int:
    """Run what a claim lacks at a scale; rows of other claims are taken over. Return what is left.

    Args:
        name: of the claim.
        scale: quick, laptop or gpu.
        folder: of the csv files.
        paths: of data that must be given.
        budget: seconds; no run is started after them.
    """
    import warnings

    sys.path.insert(0, str(HERE))
    from train import run

    warnings.simplefilter("ignore")
    began, plan, file = time.monotonic(), jobs(name, scale, paths), folder / f"{name}.csv"
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=HERE, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    for i, job in enumerate(plan, 1):
        rows = read(file)
        same = rows[KEY].astype(str).agg(" ".join, axis=1) if len(rows) else []
        if " ".join(str(job[key]) for key in KEY) in set(same):
            continue
        key, digest = {k: job[k] for k in KEY}, identity(job)
        label = f"{i}/{len(plan)} {name} " + " ".join(str(value) for value in key.values())
        others = [read(folder / f"{other}.csv") for other in IDS if other != name]
        known = next((o[o["hash"] == digest] for o in others if (o["hash"] == digest).any()), None)
        if known is not None:
            append(file, {**known.iloc[0].dropna().to_dict(), **key})
            print(f"{label}: shared", flush=True)
            continue
        if time.monotonic() - began > budget:
            return len(plan) - i + 1
        row = run(job["words"], start=job["start"], evaluate=job["evaluate"])
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        append(file, {**key, "hash": digest, "commit": commit, "machine": machine, **row})
        print(f"{label}: {row['seconds']} s", flush=True)
    return 0


def convert(file: Path) -> None:
    """Finals of 004_contest as the rows of scale `contest` in C5.csv.

    Of P¬P the last ones: an earlier default's make place. Of a rival the first.
    """
    target = HERE / "C5.csv"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    finals = [row for row in lines if row["stage"] == "final" and "error" not in row]
    newest = {(r["data"], r["seed"]): r for r in finals if r["method"] == "pnp"}
    if target.is_file():
        rows = pd.read_csv(target, dtype=str, keep_default_na=False)  # the cells as they are
        rows[~((rows["scale"] == "contest") & (rows["arm"] == "today"))].to_csv(target, index=False)
    have = {(r.data, r.arm, r.seed) for r in read(target).itertuples() if r.scale == "contest"}
    for row in (*newest.values(), *(r for r in finals if r["method"] != "pnp")):
        arm = "today" if row["method"] == "pnp" else row["method"]
        key = (row["data"], arm, row["seed"])
        if key in have:
            continue
        have.add(key)
        words = dict(zip(("data", "arm", "seed"), key, strict=True))
        metrics, concept = row["metrics"], "lobed" if row["data"] == "ambiguous" else "mean"
        values = {
            "knn_student": metrics["test/knn/student"],
            "linear_student": metrics["test/linear/student"],
            "band_student": metrics[f"band/{concept}/student/width"],
            "plugin_student": metrics[f"band/{concept}/student/plugin"],
        }
        facts = {k: row[k] for k in ("machine", "images", "steps", "training_seconds", "seconds")}
        settings = json.dumps(row["arm"], sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
        append(target, {"scale": "contest", **words, "hash": digest, **facts, **values})
