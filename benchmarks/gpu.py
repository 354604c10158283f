"""Everything that is to be known of a GPU, in one command of ten minutes: right, fast, a training.

Each stage is a process of its own with a limit, killed with its children when it is over. What it
tells is in OUT/results.json at once, so an interrupted day is still a result; a second call of the
same command skips the stages that are done. The end is OUT/table.md, in the form of RESULTS.md.

The script itself needs nothing but Python: on a machine without network it takes torch and
Lightning as they are there, and pure-Python wheels that are missing from a folder:

    python3 -m pip download --no-deps -d WHEELS hydra-core omegaconf lightly    # where there is one
    python3 benchmarks/gpu.py --wheels WHEELS --images cifar10.tar.xz [--budget 590]
    python benchmarks/gpu.py --device cpu --tiny --budget 900                   # a dry run
    python benchmarks/gpu.py --list                                             # what it would do

`--images` is CIFAR-10 as train/CLASS/* and test/CLASS/*, a folder or an archive of it; without it
the training takes as many drawn images. antlr4-python3-runtime, which hydra needs, has no wheel on
the registry: `pip wheel` makes one.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arms import SCRIPT, Spec
from gpu_table import table
from levers import DEFAULT, levers
from timing import MARK, environment, here

ROOT = Path(__file__).parents[1]
DONE, LATE, SKIPPED = "done", "out of time", "no time left"
FIRST = "P¬P, batch 512"  # the arm that sizes the training
GROUPS = ("machine", "sanity", "speed", "profile", "train", "export", "ranks", "compile", "levers")
AROUND_TRAINING = 70.0  # seconds of reading images, evaluation and report


@dataclass(frozen=True)
class Stage:
    """A process: its command, its limit in seconds, and the turns that an arm is given."""

    group: str
    name: str
    command: Sequence[str]
    limit: float
    turns: int = 0


def arms(given: Any) -> dict[str, Spec]:
    """The loops whose images/s are wanted, the most wanted first."""
    base = Spec(
        "ours",
        rounds=3,
        method="pnp",
        model="resnet18",
        batch=512,
        images=25_600,
        precision="bf16-mixed",
        device=given.device,
        threads=os.cpu_count() or 1,
    )
    if given.tiny:
        small = ("model.width=4",)
        base = replace(base, rounds=1, model="small_cnn", batch=16, images=64, overrides=small)
        base = replace(base, threads=1)
    if given.device == "cpu":
        base = replace(base, precision="32-true")
    byol = replace(base, method="byol")
    workers, few = (0, 64) if given.tiny else ((os.cpu_count() or 2) - 1, 12_800)
    found = {
        FIRST: base,
        "P¬P, batch 512, no Lightning": replace(base, loop="bare"),
        "BYOL, batch 512": byol,
        f"lightly's BYOL, batch 512, {workers} workers": replace(
            byol, loop="lightly", workers=workers, rounds=1, images=few
        ),
    }
    if given.tiny:
        return found
    compiled = ("method.compile=true",)
    more = {"batch": 1024, "images": 51_200}
    small_cnn = replace(base, model="small_cnn", batch=256)
    return found | {
        "P¬P, batch 1,024": replace(base, **more),
        "P¬P, batch 512, compiled": replace(base, overrides=compiled),
        "P¬P, batch 128": replace(base, batch=128, images=6_400),
        "small_cnn, batch 256": small_cnn,
        "P¬P, batch 1,024, compiled": replace(base, overrides=compiled, **more),
        "small_cnn, batch 256, compiled, CUDA graphs": replace(
            small_cnn, overrides=(*compiled, "method.cuda_graphs=true")
        ),
    }


def stages(given: Any) -> list[Stage]:
    """All stages in the order in which they are wanted."""
    words = json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()})
    slow = 8 if given.device == "cpu" else 1

    def part(name: str, limit: float) -> Stage:
        command = [sys.executable, here("gpu_stages.py"), name, words]
        return Stage(name, name, command, limit * slow)

    def arm(group: str, name: str, spec: Spec) -> Stage:
        limit = 120 if any("compile" in word for word in spec.overrides) else 45
        command = [sys.executable, SCRIPT, *spec.arguments()]
        return Stage(group, f"{group}: {name}", command, limit * slow, spec.rounds + 1)

    loops = arms(given)
    account = Stage(
        "speed", "parts of a step",
        [sys.executable, SCRIPT, *replace(loops[FIRST], profile=True).arguments()], 50 * slow,
    )  # fmt: skip
    moved = levers(loops[FIRST], bf16=given.device == "cuda", compiled=not given.tiny)
    moved.pop("no Lightning, no logging")
    if given.tiny:
        moved = {name: moved[name] for name in (DEFAULT, "method.log_every=1")}
    return [
        part("machine", 45),
        part("sanity", 110),
        account,
        *(arm("speed", name, spec) for name, spec in loops.items()),
        part("profile", 45),
        part("train", given.train_seconds + AROUND_TRAINING),
        part("export", 60),
        part("ranks", 60),
        part("compile", 120),
        *(arm("levers", name, spec) for name, spec in moved.items()),
    ]


def watch(stage: Stage, limit: float, keep: Any) -> tuple[str, list[str]]:
    """Run a stage; `keep` gets each result as it is told.

    Returns:
        `done`, `out of time` or the exit status, and the last lines of what it said besides.
    """
    late = threading.Event()
    said: list[str] = []
    with subprocess.Popen(
        stage.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True, cwd=ROOT, env=environment(),
    ) as process:  # fmt: skip
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def stop() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.daemon = True
        timer.start()
        for give in (lambda: stdin.write("go\n" * stage.turns), stdin.close):
            with contextlib.suppress(BrokenPipeError):  # it has ended: its last lines say why
                give()
        for line in stdout:
            if not line.startswith(MARK):
                said = [*said[-24:], line.rstrip()[:400]]
                continue
            with contextlib.suppress(ValueError):  # a line that was cut off
                keep(json.loads(line.removeprefix(MARK)))
        status = process.wait()
        timer.cancel()
    return (LATE if late.is_set() else DONE if status == 0 else f"exit status {status}"), said


def commit() -> str:
    """The commit of this checkout, marked when modified."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


class Day:
    """What was found so far, in OUT/results.json.

    Raises:
        SystemExit: OUT holds the day of another commit or device.
    """

    def __init__(self, out: Path, facts: Mapping[str, Any]) -> None:
        self.file, self.began = out / "results.json", time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Any] = {"facts": dict(facts), "calls": 0, "stages": {}}
        if self.file.is_file():
            self.found = json.loads(self.file.read_text("utf-8"))
            if self.found["facts"] != facts:
                raise SystemExit(
                    f"{self.file} is of {self.found['facts']}, this is {dict(facts)}: "
                    "numbers of two do not mix. Give another --out."
                )
        self.found["calls"] += 1

    def write(self) -> None:
        """Replace the file by what is known now."""
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1, ensure_ascii=False), "utf-8")
        part.replace(self.file)

    def run(self, stage: Stage, left: float) -> None:
        """Run a stage unless it is done or nothing is left for it."""
        row = self.found["stages"].get(stage.name, {})
        if row.get("status") == DONE:
            return print(f"-- {stage.name}: done before", flush=True)
        limit = min(stage.limit, left)
        if left < 5:
            print(f"-- {stage.name}: {SKIPPED}", flush=True)
            self.found["stages"].setdefault(stage.name, {"status": SKIPPED, "results": []})
            return self.write()
        row = {"status": "running", "call": self.found["calls"], "results": []}
        self.found["stages"][stage.name] = row
        self.write()

        def keep(result: Any) -> None:
            row["results"].append(result)
            self.write()
            print(f"   {json.dumps(result, ensure_ascii=False)[:300]}", flush=True)

        print(f"-- {stage.name}, at most {limit:.0f} s", flush=True)
        began = time.monotonic()
        row["status"], said = watch(stage, limit, keep)
        row["seconds"] = round(time.monotonic() - began, 1)
        if row["status"] != DONE:
            row["said"] = said
            print("\n".join(f"   | {line}" for line in said[-12:]))
        print(f"-- {stage.name}: {row['status']}, {row['seconds']} s", flush=True)
        return self.write()


def unpack_wheels(folder: Path, site: Path) -> None:
    """Put pure-Python wheels where children find them; nothing is installed."""
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def options(arguments: Sequence[str] | None = None) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "build" / "gpu", help="default build/gpu")
    add("--work", type=Path, help="for images, runs and wheels (default OUT/work)")
    add("--budget", type=float, default=590, help="seconds of this call (default 590)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    add("--tiny", action="store_true", help="sizes of a dry run")
    add("--list", action="store_true", help="print the stages and their limits, and end")
    add("--only", default=",".join(GROUPS), help=f"groups of stages (default {','.join(GROUPS)})")
    add("--train-seconds", type=float, default=180, help="of the training (default 180)")
    add("--images", type=Path, help="CIFAR-10: a folder, or an archive of one")
    add("--wheels", type=Path, help="folder of pure-Python wheels that this Python lacks")
    given = parser.parse_args(arguments)
    given.out = given.out.resolve()
    given.work = (given.work or given.out / "work").resolve()
    given.images = given.images and given.images.resolve()
    return given


def main() -> None:
    """Run the day and write its table."""
    given = options()
    wanted = given.only.split(",")
    if unknown := {*wanted} - {*GROUPS}:
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: give some of {', '.join(GROUPS)}.")
    if given.list:
        for stage in stages(given):
            print(f"{stage.group:8} {stage.name}: at most {stage.limit:.0f} s")
        return
    day = Day(given.out, {"commit": commit(), "device": given.device, "tiny": given.tiny})
    site = given.work / "site"
    if given.wheels:
        unpack_wheels(given.wheels, site)
    old = os.environ.get("PYTHONPATH", "")
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), *([old] if old else [])]),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # products with a fixed order, for resumption
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "WANDB_MODE": "disabled",
        "PYTHONUNBUFFERED": "1",
    }
    planned = [stage for stage in stages(given) if stage.group in wanted]
    trained = day.found["stages"].get("train", {}).get("status") == DONE
    later = [n for n, stage in enumerate(planned) if stage.group == "train" and not trained]
    before = later[0] if later and not given.tiny else 0
    for number, stage in enumerate(planned):
        left = given.budget - (time.monotonic() - day.began)
        if number < before:  # these leave the training its time
            left -= planned[before].limit
        day.run(stage, left)
        if stage.name == "machine" and day.found["stages"]["machine"]["status"] != DONE:
            raise SystemExit("No stage can run without the device: the lines above say why.")
    lines = table(day.found)
    (given.out / "table.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
