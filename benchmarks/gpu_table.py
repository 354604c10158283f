"""The table of `gpu.py`, from its results.json."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from step import parts


def speeds(found: Mapping[str, Any], group: str) -> dict[str, list[dict[str, float]]]:
    """Turns of each arm of a group after the one that warms up, where there are any."""
    rows = {
        name.removeprefix(f"{group}: "): row["results"][1:]
        for name, row in found["stages"].items()
        if name.startswith(f"{group}: ")
    }
    return {name: turns for name, turns in rows.items() if turns}


def spread(values: Sequence[float]) -> str:
    """Median (min – max) of numbers.

    >>> spread([3000, 1000, 2000])
    '2,000 (1,000 – 3,000)'
    """
    middle = f"{statistics.median(values):,.0f}"
    return f"{middle} ({min(values):,.0f} – {max(values):,.0f})" if len(values) > 1 else middle


def table(found: Mapping[str, Any]) -> list[str]:
    """Markdown in the form of RESULTS.md: speed, levers, and each stage in a line."""
    stages = found["stages"]
    account = next(iter(stages.get("parts of a step", {}).get("results", [])), {})
    facts = " · ".join(f"{key} {value}" for key, value in found["facts"].items())
    lines = [f"{facts}, in {found['calls']} call(s)", ""]
    for result in stages.get("machine", {}).get("results", []):
        lines += [" · ".join(f"{key} {value}" for key, value in result.items()), ""]
    lines += ["| loop | images/s | TFLOP/s | memory, MiB |", "|---|---|---|---|"]
    for name, turns in speeds(found, "speed").items():
        flop = account.get("flop", 0) if name.startswith("P¬P") else 0  # counted for that alone
        tera = statistics.median(t["speed"] for t in turns) * flop / 1e12
        memory = max(t["mib"] for t in turns)
        speed = spread([t["speed"] for t in turns])
        lines.append(f"| {name} | {speed} | {f'{tera:.3g}' if flop else '–'} | {memory:,.0f} |")
    if moved := speeds(found, "levers"):
        lines += ["", "| changed | images/s | call |", "|---|---|---|"]
        for name, turns in moved.items():
            call = stages[f"levers: {name}"]["call"]
            lines.append(f"| {name} | {spread([t['speed'] for t in turns])} | {call} |")
    if account:
        lines += ["", *parts(account["ms"], account["ops"])]
    lines += ["", "| stage | status | s | what it found |", "|---|---|---|---|"]
    for name, row in stages.items():
        lines.append(f"| {name} | {row['status']} | {row.get('seconds', '')} | {words(row)} |")
    return lines


def words(row: Mapping[str, Any]) -> str:
    """What a stage found, in a table's cell: checks are counted, and those that failed named."""
    checks = [result for result in row["results"] if "ok" in result]
    if checks:
        wrong = [f"{c['name']}: {c.get('why') or c.get('error')}" for c in checks if not c["ok"]]
        return f"{len(checks) - len(wrong)} of {len(checks)} checks hold" + "".join(
            f"; {text}" for text in wrong
        ).replace("|", "/").replace("\n", " ")
    if any("speed" in result or "flop" in result for result in row["results"]):
        return ""  # has a table of its own
    found = [f"{key} {value}" for result in row["results"] for key, value in result.items()]
    return ", ".join(found).replace("|", "/")[:600]
