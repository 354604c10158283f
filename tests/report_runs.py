"""Run folders made up for tests of the report: the files of pnp-train, without any training."""

import json
import math
import random
from pathlib import Path

import yaml

CURVES = (
    *("loss/total", "loss/alignment", "loss/variance", "loss/covariance", "loss/repulsion"),
    *("geometry/batch/sigma", "geometry/batch/mean_cosine", "optim/lr"),
    *(
        f"geometry/{network}/{name}"
        for network in ("student", "teacher")
        for name in ("mean_cosine", "sigma", "effective_rank", "between_cosine", "within_cosine")
    ),
    *("probe/student/knn", "probe/teacher/knn"),
)
FINAL = {
    "test/linear/teacher": 0.8897,
    "test/linear/teacher/ci_low": 0.8831,
    "test/linear/teacher/ci_high": 0.8957,
    "test/knn/teacher": 0.8621,
    "test/knn/student": 0.8402,
    "reference/pixels/knn": 0.8461,
    "reference/random/linear": 0.8353,
}
LEVELS = [10 ** (-3 + i / 10) for i in range(21)]


def make_sweep(
    folder: Path, runs: int = 12, points: int = 20, seeds: int = 3, finished: float = 1.0
) -> list[Path]:
    """`runs` runs over objectives, learning rates and seeds; the last ones have not finished."""
    made = []
    for i in range(runs):
        objective = ("full", "no_repulsion", "align_only", "no_variance")[i // seeds % 4]
        lr = (0.001, 0.002, 0.004, 0.008, 0.016)[i // (4 * seeds) % 5]
        margin = round(i // (20 * seeds) * 0.1, 3)
        path = folder / f"{i:03d}_{objective}"
        done = i < runs * finished
        made.append(write(path, objective, lr, margin, i % seeds, points, done))
    return made


def write(
    path: Path, objective: str, lr: float, margin: float, seed: int, points: int, done: bool = True
) -> Path:
    """One run folder."""
    path.mkdir(parents=True)
    draw = random.Random(f"{objective} {lr} {margin} {seed}")
    good = {"full": 0.85, "no_repulsion": 0.82, "align_only": 0.5, "no_variance": 0.78}[objective]
    good -= 0.02 * abs(math.log2(lr / 0.004)) - draw.gauss(0, 0.006) - 0.01 * margin
    config = {
        "choices": {"objective": objective, "data": "ambiguous", "method": "pnp", "logger": "csv"},
        "seed": seed,
        "run_dir": str(path),
        "optim": {"lr": lr},
        "objective": {
            "weights": {"repulsion": float(objective != "no_repulsion")},
            "margin": margin,
        },
        "data": {"batch_size": 256, "seed": seed},
        "trainer": {"accumulate_grad_batches": 1, "devices": 1},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [",".join(("step", "epoch", *CURVES))]
    kept = points if done else points // 2
    for p in range(kept):
        way = 1 - math.exp(-3 * (p + 1) / points)
        row = {key: (1 - way) * 2 + draw.gauss(0, 0.02) for key in CURVES}
        for owner in ("student", "teacher"):
            row[f"geometry/{owner}/effective_rank"] = 5 + 60 * good * way + draw.gauss(0, 1)
            row[f"geometry/{owner}/between_cosine"] = 1 - good * way + draw.gauss(0, 0.01)
            row[f"probe/{owner}/knn"] = good * way + draw.gauss(0, 0.005)
        lines.append(",".join([str(p * 10), str(p // 10), *(repr(row[key]) for key in CURVES)]))
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    if not done:
        return path
    final = {f"test/{probe}/teacher": good + draw.gauss(0, 0.004) for probe in ("knn", "linear")}
    ends = (("ci_low", -0.01), ("ci_high", 0.01))
    final |= {f"{key}/{end}": value + gap for key, value in final.items() for end, gap in ends}
    final |= {"reference/pixels/knn": 0.46, "reference/random/knn": 0.35}
    width = 1.1 - good
    final |= {"band/mean/teacher/width": width, "band/lobed/teacher/width": width}
    (path / "metrics.json").write_text(json.dumps(final))
    curves = {
        kind: {"level": LEVELS, "width": [min(1, scale * (0.01 / a) ** 0.3) for a in LEVELS]}
        for kind, scale in (("certified", width), ("plugin", width - 0.02), ("oracle", 0.15))
    }
    answer = {"alarms": [], "curves": curves}
    (path / "band.json").write_text(json.dumps({"lobed": {"teacher": answer, "pixels": answer}}))
    facts = {"command": "pnp-train", "commit": "abc", "training_seconds": 100 + 10 * draw.random()}
    (path / "run.json").write_text(json.dumps(facts))
    if objective == "align_only":
        alarm = {"kind": "cone", "message": "all images sit in one narrow cone", "step": 40}
        (path / "alarms.json").write_text(json.dumps([alarm]))
    return path


def make_run(
    path: Path,
    *,
    seed: int = 0,
    objective: str = "full",
    repulsion: float = 1.0,
    scale: str = "sphere",
    final: dict | None = FINAL,
    rows: str = "0,0,1.5,,\n10,0,1.0,0.9,0.3\n20,1,nan,0.5,0.4\n30,1,0.5,0.4,0.45\n",
    **config,
) -> Path:
    path.mkdir(parents=True)
    settings = {
        "choices": {"method": "pnp", "objective": objective, "data": "ambiguous", "logger": "csv"},
        "seed": seed,
        "run_dir": str(path),
        "data_order": {"order_seed": seed},
        "objective": {"scale": scale, "weights": {"repulsion": repulsion}},
        **config,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    header = "step,epoch,loss/total,geometry/student/mean_cosine,probe/teacher/knn\n"
    (path / "metrics.csv").write_text(header + rows)
    if final is not None:
        (path / "metrics.json").write_text(json.dumps(final))
    return path
