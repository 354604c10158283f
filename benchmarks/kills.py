"""Kill commands at random moments, repeat them until they end, and compare with unbroken ones.

Six scenes: a training (with evaluation, decider and report), the same on a folder that is converted
to an array first, a sweep of two jobs, a search, an evaluation of a run in place, and a report over
runs. Each command is killed by SIGKILL or SIGTERM, drawn at random, at a moment drawn evenly over
the processor time that the unbroken one takes, and given again, until the kills are used up. Linux
only. Checked:

- after each kill every file that has its name can be read whole, and no checkpoint is older than
  the one before, nor, after SIGTERM, than the last step that was logged;
- a command that is given again goes on at the step of the last checkpoint;
- the end is that of the unbroken command: weights and optimizer, every logged row, every result.

Commands are forked from a process that has imported everything, so that no time goes to imports,
in which there is nothing to lose. Exit status 1 where a check fails.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--only train sweep]
"""

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

# Imports once, then forks for each command: a line of JSON starts one, another line awaits it.
STARTER = """
import importlib, json, os, sys, traceback
import lightning, pnp.evaluation.evaluate, pnp.method, pnp.report.single, pnp.callbacks.progress
import pnp.callbacks.guard, pnp.callbacks.checkpoints, pnp.callbacks.monitor
import pnp.objectives, pnp.optim, pnp.views, pnp.data, pnp.evaluation.concept_bands
import pnp.runs.training, pnp.runs.launch, optuna, alembic, sqlalchemy
print("ready", flush=True)
while line := sys.stdin.readline():
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ.update(job["env"])
        os.chdir(job["cwd"])
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.argv = ["pnp-" + job["command"], *job["words"]]
        status = 0
        try:
            importlib.import_module("pnp.cli." + job["command"]).main()
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
            status = 99
        sys.stdout.flush()
        os._exit(status)
    print(pid, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Starter:
    """Starts commands quickly, one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, command: str, words: Sequence[str], cwd: Path, **env: str) -> int:
        """Start `pnp-<command>`; its process. What it prints goes to `log.txt`."""
        job = {"command": command, "words": list(words), "env": env, "cwd": str(cwd)}
        self._say(json.dumps(job | {"log": str(cwd / "log.txt")}))
        return int(self._answer())

    def spend(self, pid: int, seconds: float) -> float:
        """Wait until a process has used so much processor time, or has ended; what it has used."""
        spent = 0.0
        while spent < seconds:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            spent = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
            if words[0] == "Z":  # a zombie until `wait`
                break
            time.sleep(0.002)
        return spent

    def wait(self) -> int:
        """Exit status of what was started last; negative for the signal that killed it."""
        self._say("wait")
        return int(self._answer())

    def close(self) -> None:
        """End the process that forks."""
        self.process.kill()
        self.process.communicate()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


# 12 steps of 16 small images.
TINY = (
    "logger=csv", "data.batch_size=16", "model.width=4", "model.depth=2",
    "model.projector.hidden=16", "model.projector.out=8", "method.log_every=1",
    "trainer.max_epochs=3", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "evaluation.k=5", "callbacks.checkpoints.every_n_steps=3",
)  # fmt: skip
AMBIGUOUS = ("data.n_train=64", "data.validation=40", "data.calibration=80", "data.test=40")
SHORT = ("evaluation.fractions=[]", "evaluation.references=[]")
BRIEF = (*SHORT, "evaluation.band=null")
PICTURES = ("data=image_folder", "data.root=pictures", "data.size=16", "data.cache=true")
SPACE = "tune.space={optim.lr: {low: 1e-4, high: 1e-2, log: true}}"


def nothing(folder: Path, starter: Starter) -> None:
    """Prepare no files."""


def pictures(folder: Path, starter: Starter) -> None:
    """Two classes of pictures that take about as long to convert as the training."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(120):
        file = folder / "pictures" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(small).resize((700, 700)).save(file, compress_level=1)


def runs(folder: Path, starter: Starter) -> None:
    """Two short runs."""
    words = ("-m", *TINY, *AMBIGUOUS, *BRIEF, "seed=0,1", "hydra.sweep.dir=runs")
    starter.start("train", words, folder)
    assert starter.wait() == 0, (folder / "log.txt").read_text()


@dataclass(frozen=True)
class Scene:
    """A command, what it needs, and what of its end is compared."""

    command: str
    words: tuple[str, ...]
    prepare: Callable[[Path, Starter], None] = nothing
    end: Callable[[Path], Any] = lambda folder: [end_of_run(run) for run in run_folders(folder)]


def run_folders(folder: Path) -> list[Path]:
    """Run directories below, in the order of their names."""
    return sorted(file.parent for file in folder.rglob("config.yaml"))


def end_of_run(run: Path) -> dict[str, Any]:
    """All that a run leaves in numbers, and the names of its files."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    with (run / "metrics.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "name": run.name,
        "weights": {k: v.tolist() for k, v in state["state_dict"].items()},
        "optimizer": repr(state["optimizer_states"]),
        "rows": rows,
        "main": facts["main"],
        "files": sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()),
        **{n: json.loads((run / n).read_text(encoding="utf-8"))
           for n in ("metrics.json", "band.json", "splits.json") if (run / n).exists()},
    }  # fmt: skip


def end_of_search(folder: Path) -> list[Any]:
    """Drawn values and result of every finished trial, which is that of its run directory."""
    import optuna

    storage = f"sqlite:///{folder / 'runs/tune/default/study.db'}"
    done = optuna.load_study(study_name="pnp", storage=storage).get_trials(
        states=[optuna.trial.TrialState.COMPLETE]
    )
    results = [json.loads(p.read_text(encoding="utf-8")) for p in folder.rglob("metrics.json")]
    values = [max(v for k, v in r.items() if re.fullmatch(r"validation/knn/\w+", k))
              for r in results]  # fmt: skip
    assert sorted(trial.value for trial in done) == sorted(values), "a trial without its run"
    return sorted([trial.params["optim.lr"], trial.value] for trial in done)


def end_of_report(folder: Path) -> list[str]:
    """The table, which names no place and no time."""
    return [(folder / "runs" / n).read_text(encoding="utf-8") for n in ("table.csv", "table.md")]


FIRST = "hydra.run.dir=runs/a"
SCENES = {
    "train": Scene("train", (*TINY, *AMBIGUOUS, *SHORT, FIRST, "resume=auto")),
    "folder": Scene("train", (*TINY, *PICTURES, *BRIEF, FIRST, "resume=auto"), pictures),
    "sweep": Scene("train", ("-m", *TINY, *AMBIGUOUS, *BRIEF, "seed=0,1")),
    "tune": Scene("tune", (SPACE, "tune.n_trials=3", "tune.prune=null", *TINY, *AMBIGUOUS, *BRIEF),
                  end=end_of_search),
    "evaluate": Scene("evaluate", ('run="runs/seed=0"', "evaluation.k=7"), runs),
    "report": Scene("report", ("runs",), runs, end_of_report),
}  # fmt: skip


def read_all(folder: Path) -> None:
    """Read every file that has its name; raises where one is not whole."""
    for file in folder.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".yaml":
            assert yaml.safe_load(file.read_text(encoding="utf-8")), file
        elif file.suffix in (".ckpt", ".pt"):
            torch.load(file, weights_only=True)
        elif file.suffix in (".html", ".svg"):
            end = file.read_text(encoding="utf-8").rstrip()
            assert end.endswith(f"</{file.suffix[1:]}>"), file


def last_steps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Of every run with a checkpoint: its step, and the steps that are logged."""
    from pnp.files import read_csv

    steps = {}
    for run in run_folders(folder):
        if (file := run / "checkpoints" / "last.ckpt").exists():
            saved = torch.load(file, weights_only=True)["global_step"]
            rows = read_csv(run / "metrics.csv")
            steps[run] = saved, max((int(row["step"]) + 1 for row in rows), default=0)
    return steps


def moment(folder: Path) -> str:
    """The work that was cut off, told by the files that are there."""
    if list(folder.rglob("*.journal")):
        return "converting"
    if not (started := run_folders(folder)):
        return "start"
    open_runs = [run for run in started if not (run / "metrics.json").exists()]
    if list(folder.rglob("metrics.partial.json")):
        return "evaluation" if open_runs else "decider, report"
    if not open_runs:
        return "between runs, report"
    at = last_steps(folder).get(open_runs[-1], (0, 0))[0]
    return "start" if not at else "training" if at < 12 else "evaluation"


@dataclass
class Counts:
    """What one scene met."""

    kills: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    ends: int = 0
    parts: int = 0  # temporary files that a kill left, none of which was ever read


def play(scene: Scene, kills: int, draw: random.Random, starter: Starter, folder: Path) -> Counts:
    """Kill the command of a scene so many times, and end it each time.

    Raises:
        AssertionError: a check failed; what the command printed is in `log.txt` of its folder.
    """
    template, whole = folder / "template", folder / "whole"
    template.mkdir(parents=True)
    scene.prepare(template, starter)
    shutil.copytree(template, whole)
    pid = starter.start(scene.command, scene.words, whole)
    seconds = starter.spend(pid, float("inf"))
    assert starter.wait() == 0, (whole / "log.txt").read_text()
    aim, counts = scene.end(whole), Counts()
    while counts.kills.total() < kills:
        broken = folder / f"broken{counts.ends}"
        shutil.copytree(template, broken)
        before: dict[Path, tuple[int, int]] = {}
        while True:
            log = broken / "log.txt"
            told = log.stat().st_size if log.exists() else 0
            pid = starter.start(scene.command, scene.words, broken)
            signum = draw.choice((signal.SIGKILL, signal.SIGTERM))
            if counts.kills.total() < kills:
                starter.spend(pid, draw.uniform(0, 1) * seconds)
                os.kill(pid, signum)
            status = starter.wait()
            said = log.read_text(encoding="utf-8")[told:] if log.exists() else ""
            resumed = [int(step) for step in re.findall(r"resumed at step (\d+)", said)]
            saved = [step for step, _ in before.values()]
            assert all(step in saved for step in resumed), f"went on at {resumed}, not {saved}"
            read_all(broken)
            if status == 0:
                break
            assert status in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM), said
            assert "Traceback" not in said, said
            now = last_steps(broken)
            for run, (step, logged) in now.items():
                assert step >= before.get(run, (0, 0))[0], f"{run} fell back to step {step}"
                if status == 128 + signal.SIGTERM:
                    assert step >= logged, f"{run} is saved at {step}, logged until {logged}"
            before = now
            counts.kills[signal.Signals(signum).name] += 1
            counts.moments[moment(broken)] += 1
            counts.parts += len(list(broken.rglob("*.part")))
        end = scene.end(broken)
        assert end == aim, f"{broken} ended otherwise than {whole}: {differences(aim, end)}"
        assert not list(broken.rglob("*.part")), "a temporary file is left"
        assert not list(broken.rglob("lock")), "a lock is left"
        counts.ends += 1
        shutil.rmtree(broken)
    return counts


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Places where two ends differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{path}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [f"{path}: {str(a)[:300]} -> {str(b)[:300]}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="over all scenes (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES))
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    shares = {"train": 6, "folder": 5, "sweep": 3, "tune": 3, "evaluate": 2, "report": 1}
    total, starter, failed = sum(shares[name] for name in given.only), Starter(), 0
    print("| scene | kills | SIGKILL | SIGTERM | at the moment of | temporary files left | ends |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.only:
        kills = round(given.kills * shares[name] / total)
        draw = random.Random(f"{name} {given.seed}")
        place = Path(tempfile.mkdtemp(prefix=f"kills-{name}-"))
        try:
            counts = play(SCENES[name], kills, draw, starter, place)
        except AssertionError as error:
            print(f"{name}: {error}\nits files are in {place}", file=sys.stderr, flush=True)
            failed = 1
            continue
        shutil.rmtree(place)
        moments = ", ".join(f"{what} {n}" for what, n in counts.moments.most_common())
        numbers = [counts.kills.total(), counts.kills["SIGKILL"], counts.kills["SIGTERM"]]
        cells = [name, *numbers, moments, counts.parts, f"{counts.ends} as unbroken"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    starter.close()
    sys.exit(failed)


if __name__ == "__main__":
    main()
