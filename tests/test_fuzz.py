"""Odd input of every kind ends in success or in one message: 60 seeded cases; 1,000 slow ones."""

import json
import random
import shutil
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from pnp import keys, weights
from pnp.band import ThreeWayThreshold, min_calibration_size
from pnp.cli import decide
from pnp.cli.embed import embed
from pnp.cli.evaluate import evaluate
from pnp.cli.export import export
from pnp.cli.train import train
from pnp.data.files import decode_each
from pnp.decider.images import Reader
from pnp.errors import UserError
from pnp.files import flatten
from pnp.report.single import write_report
from pnp.runs import launch
from pnp.runs.config import build, plain
from pnp.runs.parts import build_trainer, parts

VALUES = (
    "null", "true", "-1", "0", "1", "2", "3.5", "1e9", "1e-30", "nan", "inf", "auto", "''", "x",
    "[]", "[1]", "[a,b]", "{}", "{a: 1}", "ü", "-0.5", "0.5", "999999999999", "'a b'", "cpu",
)  # fmt: skip
MESSAGES = (UserError, HydraException, OmegaConfBaseException)


@cache
def every_key(compose):
    """The keys of the composition that may take any value."""
    config = OmegaConf.to_container(compose(), resolve=True)
    skipped = ("wandb", "hydra", "run_dir", "trainer.strategy", "trainer.accelerator")
    return [key for key in flatten(config) if not key.startswith(skipped)]


def overrides(draw, compose, folder):
    """A key of the composition takes any value: everything is built, or a message says why not."""
    word = f"++{draw.choice(every_key(compose))}={draw.choice(VALUES)}"
    composed = keys.upgrade(plain(compose(word))) | {"choices": {}}
    small = composed["data"].get("n_train"), composed["data"].get("size")
    if any(isinstance(n, int | float) and n > 10**4 for n in (*small, composed["seed"])):
        return  # it would only take memory
    keys.check_effects(composed)
    for section in ("model", "method"):
        wide = flatten(composed[section] or {})
        if any(isinstance(n, int | float) and n > 10**4 for n in wide.values()):
            return
    data, _, _ = parts(composed)
    build(composed["evaluation"], "evaluation")
    build_trainer(composed, folder, data)


def damaged(draw, content):
    """Bytes cut, flipped or repeated."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(content))
        content[place : place + draw.randint(0, 4)] = draw.randbytes(draw.randint(0, 4))
    return bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])


def pictures(draw, compose, folder):
    """Damaged image files decode, or give an error that names the reason."""
    stream = BytesIO()
    pixels = np.frombuffer(draw.randbytes(3 * 144), np.uint8).reshape(12, 12, 3)
    kind = draw.choice(("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"))
    Image.fromarray(pixels).save(stream, kind)
    (folder / "a.png").write_bytes(damaged(draw, stream.getvalue()))
    (result,) = decode_each([folder / "a.png"], Reader(3, 8).decode)
    assert isinstance(result, Exception) or result.shape == (3, 8, 8)


def checkpoints(draw, compose, folder):
    """Damaged files of weights are loaded or refused."""
    net, stream = torch.nn.Linear(3, 2), BytesIO()
    odd = draw.choice(([], {}, "x", 3, None, {"a": {"b": [1]}}, {1: torch.ones(2)}))
    state = draw.choice((net.state_dict(), {"state_dict": net.state_dict()}, {"model": odd}, odd))
    torch.save(state, stream)
    file = folder / draw.choice(("a.pt", "a.safetensors"))
    whole = stream.getvalue()
    file.write_bytes(draw.choice((whole, damaged(draw, whole))))
    weights.load(net, file)


def scores(draw, compose, folder):
    """Scores and labels of any kind give thresholds or a message."""
    n = draw.choice((0, 1, 2, 50, 400))
    rng = np.random.default_rng(draw.randrange(10**6))
    x = rng.normal(size=n) * draw.choice((0.0, 1.0, 1e-320, 1e300))
    y = (rng.random(n) < draw.choice((0, 0.5, 1))).astype(draw.choice((int, float, bool, object)))
    if n and draw.random() < 0.5:
        x[draw.randrange(n)] = draw.choice((np.nan, np.inf, -np.inf, 0))
    x = draw.choice((x, x[:, None], list(x), x.astype(np.float16), x.astype(str)))
    levels = [draw.choice((0.01, 0.3, 0, 1, -1, float("nan"), 1e-9)) for _ in range(2)]
    with np.errstate(all="ignore"):
        band = ThreeWayThreshold(*levels, method=draw.choice(("exact", "crc", "empirical"))).fit(
            x, y
        )
    assert band.t_lo_ <= band.t_hi_


def reports(draw, compose, folder):
    """Files of a run hold anything: a page or a message."""
    anything = (None, 1, "x", [], {}, [1, {"a": 2}], {"a": None}, {"test/knn/teacher": 0.5}, 1e400)
    for name in ("metrics.json", "run.json", "band.json", "alarms.json", "gaps.json"):
        text = json.dumps(draw.choice(anything))
        (folder / name).write_text(draw.choice((text, text[:-1], "")))
    lines = ("step,epoch,loss/total", "0,0,1.5", "1,0,nan", "x,0,1", "2,0", "3,0,1,2", "\x00", "")
    (folder / "metrics.csv").write_text("\n".join(draw.choices(lines, k=4)) + "\n")
    configs = ("seed: 0", "a: [", "", "- 1", "seed: {a: 1}\nchoices: 3", "objective: null\nseed: x")
    (folder / "config.yaml").write_text(draw.choice(configs))
    write_report(folder)


def runs(draw, compose, folder):
    """A run whose checkpoint has an odd entry is resumed or refused."""
    run = folder / str(draw.random())
    shutil.copytree(Path(__file__).parent / "fixtures" / "v0.1" / "stopped", run)
    file = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    place = draw.choice((checkpoint, checkpoint["state_dict"], checkpoint["config"]))
    odd = (None, -1, "x", [], {}, {"a": [1]}, torch.ones(1, 2), float("nan"))
    place[draw.choice(list(place))] = draw.choice(odd)
    if draw.random() < 0.3:
        del place[draw.choice(list(place))]
    torch.save(checkpoint, file)
    config = keys.upgrade(OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
    config["evaluation"]["test"] = draw.random() < 0.1
    train(OmegaConf.create(config | {"run_dir": str(run), "resume": "auto"}))


# Found by fuzzing.
REFUSED = (
    ("method.head=3", r"method.head=3: expected a section of keys"),
    ("method.head={a: 1}", r"method.head.kind is missing"),
    ("method.global_batch=[1]", "method.global_batch"),
    ("model.projector=null", "model.projector=None: expected a section"),
    ("callbacks.monitor=3", "callbacks.monitor=3: expected a section"),
    ("callbacks.monitor.temperature=-1", "callbacks.monitor.temperature"),
    ("callbacks.monitor.bank=0", "callbacks.monitor.bank"),
    ("trainer.gradient_clip_val=-0.5", "trainer.gradient_clip_val"),
    ("optim.final_lr=3", r"optim.final_lr=3: give a number in \[0, 1\]"),
    ("optim.momentum=1", "optim.momentum"),
)


@pytest.mark.parametrize(("word", "message"), REFUSED, ids=[word for word, _ in REFUSED])
def test_values_that_mean_nothing_are_refused(compose, tmp_path, word, message):
    config = plain(compose(f"++{word}")) | {"choices": {}}

    def built():
        data, _, _ = parts(config)
        build_trainer(config, tmp_path, data)

    with pytest.raises(UserError, match=message):
        built()


COMMANDS = (
    ("decide_fit", "out=[1]", r"out=\[1\]: give one name or path"),
    ("decide_fit", "run=true", "run=True: give one name or path"),
    ("decide_fit", "run=x delta=[]", "delta"),
    ("decide_fit", "run=x labels=[]", r"labels=\[\]: give a csv"),
    ("decide_plan", "sizes=3.5", "sizes=3.5: give a list"),
    ("decide_plan", "out={}", "out={}: give one name or path"),
    ("embed", "out=true", "out=True: give one name or path"),
    ("export", "out={}", "out={}: give one name or path"),
    ("evaluate", "backbone=[a,b]", "give one name or path"),
    ("evaluate", "backbone=pixels datasets=3", "datasets=3: give a list"),
    ("evaluate", "backbone=pixels datasets={cifar10: 3}", "datasets.cifar10=3: expected a section"),
)


@pytest.mark.parametrize(("name", "words", "message"), COMMANDS, ids=lambda value: value[:30])
def test_names_are_no_lists_and_sections_no_numbers_in_any_command(name, words, message):
    run = {
        "decide_fit": decide.fit,
        "decide_plan": decide.plan,
        "embed": embed,
        "evaluate": evaluate,
        "export": export,
    }[name]
    given = [word.replace("_", " ") for word in words.replace(": ", ":_").split()]
    cfg = OmegaConf.create(launch.compose(name, given))
    with pytest.raises(UserError, match=message):
        run(cfg)


def test_budgets_that_no_data_can_prove_have_a_number_all_the_same():
    assert min_calibration_size(1e-30) > 10**30


KINDS = (pictures, checkpoints, scores, reports, overrides, runs)


def run(kind, seed, compose, folder):
    """One case; anything but success and a message is a failure that names the seed."""
    draw = random.Random(f"{kind.__name__} {seed}")
    try:
        kind(draw, compose, folder)
    except MESSAGES:
        return
    except Exception as error:
        raise AssertionError(f"{kind.__name__}, seed {seed}: {error!r}") from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_odd_input_ends_in_success_or_a_message(kind, compose, tmp_path):
    for seed in range(2 if kind is runs else 12):
        run(kind, seed, compose, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_thousand_odd_inputs_end_in_success_or_a_message(kind, compose, tmp_path):
    for seed in range(12, 62 if kind is runs else 212):
        run(kind, seed, compose, tmp_path)
