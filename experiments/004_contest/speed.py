"""Steps per second of every method beside P¬P, for the contest's equal seconds.

CPU seconds of one thread (`time.process_time`), so that other work on the machine hardly matters;
methods take turns. Writes speed.json: method -> its steps in the time of one step of P¬P.

    python experiments/004_contest/speed.py --out FOLDER --cifar CIFAR10_JPEG
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
from run import HERE, RIVALS, Job, chosen, prepare, words

from pnp.runs.config import plain
from pnp.runs.launch import compose
from pnp.runs.parts import build_trainer, parts

WARM, STEPS = 4, 16


class Clock(lightning.Callback):
    """CPU time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.process_time())


def step_seconds(job: Job, given: Any) -> float:
    """Median CPU seconds of a step, after the first few."""
    overrides = [*words(job, given), f"trainer.max_steps={WARM + STEPS}"]
    config = {**plain(compose("train", overrides, as_job=True)), "choices": {}}
    data, module, _ = parts(config)
    folder = Path(given.out) / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").unlink(missing_ok=True)
    trainer, clock = build_trainer(config, folder, data), Clock()
    trainer.callbacks.append(clock)
    trainer.fit(module, datamodule=data)
    pairs = zip(clock.times[WARM:-1], clock.times[WARM + 1 :], strict=True)
    return statistics.median(after - before for before, after in pairs)


def main() -> None:
    """Time every method's arm for CIFAR-10, in turns."""
    add = (parser := argparse.ArgumentParser(description=__doc__)).add_argument
    add("--out", required=True)
    add("--cifar", required=True)
    add("--rounds", type=int, default=3)
    given = parser.parse_args()
    setting = SimpleNamespace(**vars(given), fashion="null", device="cpu", tiny=False)
    prepare(threads=1)
    rows = [json.loads(line) for line in (HERE / "results.jsonl").read_text().splitlines()]
    arms = {method: chosen(rows, "cifar10", method) or {} for method in ("pnp", *RIVALS)}
    seconds: dict[str, list[float]] = {method: [] for method in arms}
    for _ in range(given.rounds):
        for method, arm in arms.items():
            seconds[method].append(step_seconds(Job("tune", "cifar10", method, 0, arm), setting))
    ratios = {
        method: [ours / theirs for ours, theirs in zip(seconds["pnp"], own, strict=True)]
        for method, own in seconds.items()
    }
    for method, values in ratios.items():
        print(f"{method}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    medians = {m: round(statistics.median(v), 2) for m, v in ratios.items() if m != "pnp"}
    (HERE / "speed.json").write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    main()
