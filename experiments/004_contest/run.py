"""The contest: tune every method with the same number of arms, then run the finals.

Every run is one line of results.jsonl; what is there is not run again, so several sittings share a
contest. The best arms of the tuning become the finals by the rule of README.md, nobody chooses.

    python experiments/004_contest/run.py --out FOLDER --cifar CIFAR10_JPEG [--workers 2]
"""

import argparse
import json
import multiprocessing as mp
import os
import platform
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
TUNED = ("fashion_mnist", "cifar10")
SETS = (*TUNED, "ambiguous")  # nobody is tuned on the last
RIVALS = ("simclr", "vicreg", "barlow", "visreg", "lejepa", "dino", "byol", "simsiam")
RATES = (0.002, 0.005)
# The values that each paper tunes, four or two by two: with two rates 8 arms for every method.
KEYS = {
    "simclr": [{"objective.temperature": t} for t in (0.1, 0.2, 0.3, 0.5)],
    "vicreg": [{"objective.covariance": c} for c in (1, 4, 8, 16)],
    "barlow": [{"objective.redundancy": r} for r in (0.0025, 0.005, 0.01, 0.02)],
    "visreg": [{"objective.weight": w} for w in (0.3, 0.6, 0.8, 0.9)],
    "lejepa": [{"objective.weight": w} for w in (0.0125, 0.025, 0.05, 0.1)],
    "dino": [
        {"method.momentum": m, "objective.teacher_temperature": t}
        for m in (0.96, 0.99)
        for t in (0.04, 0.07)
    ],
    "byol": [{"method.momentum": m} for m in (0.9, 0.96, 0.99, 0.996)],
    "simsiam": [
        {"optim.weight_decay": d, "method.head.hidden": h} for d in (0.05, 0.0005) for h in (32, 64)
    ],
}
PNP = [
    {
        "objective.kernel": "logsumexp",
        "objective.temperature": temperature,
        "objective.weights.alignment": alignment,
        "method.teacher": teacher,
    }
    for temperature, alignment, teacher in (
        (0.2, 1, "none"),
        (0.2, 2, "ema"),
        (0.2, 1, "ema"),
        (0.1, 1, "none"),
    )
]
LAYERS = "++method.projector.layers"
OWN_LAYERS = {"simclr": 2, "byol": 2}  # what the first rule ran; 3 of everybody else
TUNING_IMAGES, EPOCHS = 20_000, {"fashion_mnist": 2, "cifar10": 2, "ambiguous": 3}
SEEDS = (101, 102, 103, 104, 105)
ROWS = ("knn", "linear")


@dataclass(frozen=True)
class Job:
    """One run; `arm` are the overrides that tuning compares."""

    stage: str
    data: str
    method: str
    seed: int
    arm: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names the run, whatever its order in the list."""
        words = [f"{k}={v}" for k, v in sorted({**self.arm, **self.more}.items())]
        return " ".join([self.stage, self.data, self.method, f"s{self.seed}", *words])


def arms(method: str) -> list[dict[str, Any]]:
    """The 8 arms of a method."""
    keys = PNP if method == "pnp" else KEYS[method]
    return [{"optim.lr": rate, **key} for key in keys for rate in RATES]


def tuning() -> list[Job]:
    """Arms of every method on every set, seed 0; no test image is read."""
    return [
        Job("tune", data, method, 0, arm)
        for data in TUNED
        for method in ("pnp", *RIVALS)
        for arm in arms(method)
    ]


def score(row: dict[str, Any]) -> float:
    """What arms are chosen by: mean of 20-NN and linear probe of the student on validation."""
    return sum(row["metrics"][f"validation/{name}/student"] for name in ROWS) / len(ROWS)


def best(
    rows: list[dict[str, Any]], stage: str, data: str, method: str, among: dict[str, Any]
) -> dict[str, Any] | None:
    """The best arm of a stage that has the values `among`, of a rival on this set.

    Of P¬P, and where nobody is tuned, the best by the mean over the tuned sets.
    """
    sets = TUNED if method == "pnp" or data not in TUNED else (data,)
    scores: dict[str, list[float]] = {}
    for row in rows:
        asked = (row["stage"], row["method"]) == (stage, method) and row["data"] in sets
        if asked and "error" not in row and among.items() <= row["arm"].items():
            scores.setdefault(json.dumps(row["arm"], sort_keys=True), []).append(score(row))
    complete = {arm: sum(s) / len(s) for arm, s in scores.items() if len(s) == len(sets)}
    return json.loads(max(complete, key=lambda arm: complete[arm])) if complete else None


def chosen(rows: list[dict[str, Any]], data: str, method: str) -> dict[str, Any] | None:
    """The best of the 8 arms, with the depth of the projector that is better for it."""
    arm = best(rows, "tune", data, method, {})
    other = arm and best(rows, "projector", data, method, arm)
    return arm if other == {**(arm or {}), LAYERS: OWN_LAYERS.get(method, 3)} else other or arm


def projectors(rows: list[dict[str, Any]]) -> list[Job]:
    """The best arm of everybody with a projector of 2 and of 3 linear maps, on one machine."""
    return [
        Job("projector", data, method, 0, {**arm, LAYERS: layers})
        for method in ("pnp", *RIVALS)
        for data in TUNED
        if (arm := best(rows, "tune", data, method, {}))
        for layers in (2, 3)
    ]


def finals(rows: list[dict[str, Any]]) -> list[Job]:
    """The tuned sets first, seeds outermost: after any time every method has the same seeds."""
    return [
        Job("final", data, method, seed, arm)
        for sets in (TUNED, SETS[len(TUNED) :])
        for seed in SEEDS
        for data in sets
        for method in ("pnp", *RIVALS)
        if (arm := chosen(rows, data, method))
    ]


def seconds(rows: list[dict[str, Any]]) -> list[Job]:
    """The same seconds for everybody: faster methods than P¬P's choice take more steps."""
    speed = HERE / "speed.json"
    if not speed.is_file():
        print("seconds: run speed.py first")
        return []
    steps = {"fashion_mnist": 468, "cifar10": 390, "ambiguous": 234}
    return [
        Job(
            "seconds",
            data,
            method,
            seed,
            arm,
            {"trainer.max_epochs": 99, "trainer.max_steps": round(steps[data] * ratio)},
        )
        for seed in SEEDS
        for data in SETS
        for method, ratio in json.loads(speed.read_text()).items()
        if (arm := chosen(rows, data, method))
    ]


def variants(rows: list[dict[str, Any]]) -> list[Job]:
    """What each part of P¬P's choice is worth, and what happens off its constants; seed 101."""
    base = chosen(rows, SETS[0], "pnp")
    if base is None:
        return []
    weights = "objective.weights."
    align, rate = base["objective.weights.alignment"], base["optim.lr"]
    changes: list[dict[str, Any]] = [
        {"method.teacher": "none" if base["method.teacher"] == "ema" else "ema"},
        {"objective.kernel": "hinge", weights + "alignment": 1},
        {"objective.decoupled": False},
        *({weights + term: 0} for term in ("variance", "covariance", "repulsion")),
        *({weights + "variance": v} for v in (0.5, 2)),
        *({weights + "covariance": v} for v in (0.02, 0.08)),
        *({weights + "repulsion": v} for v in (0.5, 2)),
        *({weights + "alignment": align * v} for v in (0.5, 2)),
        *({"objective.temperature": v} for v in (0.1, 0.4)),
        *({"data.batch_size": v} for v in (64, 128, 512, 1024)),
        *({"optim.lr": rate * v} for v in (0.5, 2)),
        *({"model.width": v} for v in (12, 48)),
        *({"trainer.max_epochs": v} for v in (1, 6, 10)),
    ]
    return [
        Job("variant", data, "pnp", 101, base, change)
        for change in changes
        for data in ("cifar10", "fashion_mnist")
    ] + [
        Job("variant", data, "simclr", 101, arm, change)
        for data in ("cifar10", "fashion_mnist")
        if (arm := chosen(rows, data, "simclr"))
        for change in changes
        if next(iter(change)).startswith(("data.", "model.", "trainer."))
    ]


def words(job: Job, given: Any) -> list[str]:
    """Overrides of pnp-train for a job."""
    data = {
        "fashion_mnist": ["data=fashion_mnist", f"data.root={given.fashion}"],
        "cifar10": [
            "data=image_folder",
            f"data.root={given.cifar}",
            "data.size=32",
            "data.cache=true",
            f"data.cache_dir={given.out}/cache",
            "data.validation=5000",
        ],
        "ambiguous": ["data=ambiguous", "data.n_train=20000"],
    }[job.data]
    images, epochs = (256, 1) if given.tiny else (TUNING_IMAGES, EPOCHS[job.data])
    tuned = job.stage in ("tune", "projector")
    limit = tuned or given.tiny
    return [
        f"method={job.method}",
        "model.projector={hidden: 512, out: 128, layers: 3}",  # before the projector's arm
        *data,
        f"data.pretrain_on=[{'train' if tuned else 'train,validation'}]",
        *([f"data.max_images={images}"] if limit and job.data != "ambiguous" else []),
        *([f"data.n_train={images}"] if limit and job.data == "ambiguous" else []),
        f"seed={job.seed}",
        f"data.seed={0 if tuned else job.seed}",
        "data.batch_size=256" if not given.tiny else "data.batch_size=64",
        f"trainer.max_epochs={epochs}",
        "optim.warmup_epochs=0.2",
        "method.concat_views=false",  # a GPU computes what a CPU does
        f"trainer.accelerator={'gpu' if given.device == 'cuda' else 'cpu'}",
        "trainer.precision=bf16-mixed",
        "evaluation.references=[]",
        "evaluation.fractions=[]",
        f"evaluation.test={'false' if tuned else 'true'}",
        "evaluation.cache=false",
        *(["evaluation.band=null", "evaluation.l2=[0.001]"] if tuned else []),
        "logger=csv",
        "~callbacks.monitor",
        "~callbacks.checkpoints",
        *(f"{key}={value}" for key, value in {**job.arm, **job.more}.items()),
    ]


def run(job: Job, given: Any) -> dict[str, Any]:
    """Train and evaluate as pnp-train does, without files and pictures."""
    import lightning
    import torch

    from pnp.evaluation.concept_bands import band_rows, concept_bands, concept_targets
    from pnp.evaluation.evaluate import probe_device
    from pnp.evaluation.gaps import Gaps
    from pnp.evaluation.probes import Space
    from pnp.evaluation.protocol import probe, split_features
    from pnp.results import to_metrics
    from pnp.runs.config import build, plain
    from pnp.runs.launch import compose
    from pnp.runs.parts import build_trainer, parts

    config = {**plain(compose("train", words(job, given), as_job=True)), "choices": {}}
    lightning.seed_everything(job.seed, workers=True, verbose=False)
    began = time.time()
    data, module, _ = parts(config)
    folder = Path(given.out) / f"work-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").unlink(missing_ok=True)
    trainer = build_trainer(config, folder, data)
    trainer.fit(module, datamodule=data)
    trained = time.time() - began
    protocol = build(config["evaluation"], "evaluation")
    device = torch.device("cuda" if given.device == "cuda" else "cpu")
    targets = concept_targets(data, None) if protocol.test else None
    labels = data.splits["test"].labels if protocol.test else None
    rows, bands, gaps = [], {}, Gaps()
    networks = module.networks if protocol.test else {"student": module.student}
    for owner, network in networks.items():
        stored = split_features(
            network.to(device),
            data,
            module.views.plain,
            protocol.splits,
            outputs=2,
            device=device,
            memory_format=module.memory_format,
            autocast=trainer.precision_plugin.forward_context,
        )[0]
        place = probe_device(stored, device)
        features = {name: part.to(place) for name, part in stored.items()}
        space = Space.of(features["train"])
        rotated = {name: space(part) for name, part in features.items()}
        rows += probe(features, rotated, space, data, protocol, owner, gaps)
        if targets is not None and protocol.budgets is not None:
            bands[owner] = concept_bands(
                rotated, space, targets, protocol.budgets, labels, protocol.l2
            )
    if gaps:
        raise RuntimeError(f"not measured: {dict(gaps)}")
    metrics = {
        k: v
        for k, v in to_metrics([*rows, *band_rows(bands)]).items()
        if k.startswith(("validation/", "test/", "band/mean", "band/lobed"))
    }
    return {
        **asdict(job),
        "steps": trainer.global_step,
        "images": len(data.pretrain),
        "training_seconds": round(trained, 1),
        "seconds": round(time.time() - began, 1),
        "metrics": metrics,
    }


def prepare(threads: int) -> None:
    """Set up a process that trains: its threads, its memory, and nothing printed."""
    import warnings

    import torch

    from pnp.cpu import keep_freed_memory
    from pnp.runs.parts import quieten

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    keep_freed_memory()
    quieten()


def work(number: int, given: Any, todo: Any, done: Any) -> None:
    """Run jobs until there are none; a job that fails says so and is not repeated."""
    with Path(given.out, f"worker-{number}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    prepare(given.threads)
    while (job := todo.get()) is not None:
        print(job.name)
        try:
            done.put(run(job, given))
        except Exception as error:
            traceback.print_exc()
            done.put({**asdict(job), "error": f"{type(error).__name__}: {error}"[:500]})


def main() -> None:
    """Run what is missing until the time is over."""
    add = (parser := argparse.ArgumentParser(description=__doc__)).add_argument
    add("--out", required=True)
    add("--cifar", required=True, help="folder of CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*")
    add("--fashion", default="null", help="folder of Fashion-MNIST; null finds or downloads it")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--workers", type=int, default=1)
    add("--threads", type=int, default=1)
    add("--budget", type=float, default=1e9, help="seconds; no run is started after them")
    add("--results", default=str(HERE / "results.jsonl"))
    add("--stages", default="tune,projector,final,seconds,variant")
    add("--methods", default=",".join(("pnp", *RIVALS)), help="of them only")
    add("--tiny", action="store_true", help="a few hundred images: to try the script itself")
    given = parser.parse_args()
    started, results = time.monotonic(), Path(given.results)
    Path(given.out).mkdir(parents=True, exist_ok=True)
    lines = results.read_text().splitlines() if results.is_file() else []
    rows = [json.loads(line) for line in lines]
    context = mp.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    setting = SimpleNamespace(**vars(given))
    workers = [
        context.Process(target=work, args=(i, setting, todo, done), daemon=True)
        for i in range(given.workers)
    ]
    for worker in workers:
        worker.start()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {given.device}"
    with results.open("a", buffering=1) as file:
        for stage in given.stages.split(","):
            plan = {"projector": projectors, "final": finals, "seconds": seconds}
            jobs = tuning() if stage == "tune" else plan.get(stage, variants)(rows)
            names = {Job(**{k: row[k] for k in Job.__dataclass_fields__}).name for row in rows}
            wanted = given.methods.split(",")
            jobs = [job for job in jobs if job.name not in names and job.method in wanted]
            print(f"{stage}: {len(jobs)} runs", flush=True)
            running = 0
            while jobs or running:
                late = time.monotonic() - started > given.budget
                while jobs and running < given.workers and not late:
                    todo.put(jobs.pop(0))
                    running += 1
                if late and jobs:
                    print(f"{stage}: time is over, {len(jobs)} runs are left", flush=True)
                    jobs = []
                if not running:
                    break
                while done.empty():
                    if not all(worker.is_alive() for worker in workers):
                        raise SystemExit(f"a worker died: see {given.out}/worker-*.log")
                    time.sleep(0.1)
                row = {**done.get(), "machine": machine}
                running -= 1
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                told = row.get("error") or f"{row['seconds']} s"
                print(
                    f"{time.monotonic() - started:6.0f} s  {row['data']} {row['method']}: {told}"[
                        :150
                    ]
                )
    for _ in workers:
        todo.put(None)


if __name__ == "__main__":
    main()
