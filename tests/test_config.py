"""Every yaml composes and builds; importing is light."""

import importlib.util
import subprocess
import sys

import pytest
from conftest import TINY
from omegaconf import OmegaConf
from tiny_data import write_fashion_mnist, write_image_folder

from pnp.cli.train import train
from pnp.errors import UserError
from pnp.runs import hints
from pnp.runs.config import plain, quoted
from pnp.runs.launch import conf_dir
from pnp.runs.parts import build_trainer, parts

GROUPS = sorted(
    (file.parent.name, file.stem)
    for file in conf_dir().glob("*/*.yaml")
    if file.parent.name not in ("experiment", "sweep")
)
EXPERIMENTS = sorted(file.stem for file in (conf_dir() / "experiment").glob("*.yaml"))
NEEDS_FILES = {"array", "cifar10", "cifar100", "hf", "stl10", "image_folder", "fashion_mnist"}
# Loggers of extras that the lock leaves out.
EXTRAS = {name for name in ("mlflow", "trackio") if importlib.util.find_spec(name) is None}


@pytest.mark.parametrize(("group", "option"), GROUPS, ids=lambda value: value)
def test_every_option_composes_and_builds(compose, tmp_path, group, option):
    if group == "data" and option in NEEDS_FILES:
        config = plain(compose(f"data={option}", tiny=False))
        from pnp.data import DataModule

        options = {k: v for k, v in config["data"].items() if k != "_target_"}
        assert DataModule(**options).dataset == option
        return
    small = ["model.projector.hidden=16"] if group == "model" else []
    overrides = ["model.width=4"] if option == "small_cnn" else []
    name = "model.name=timm:test_resnet" if option == "timm" else "seed=0"
    cfg = compose(f"{group}={option}", "data.n_train=64", name, *small, *overrides, tiny=False)
    OmegaConf.update(cfg, "run_dir", str(tmp_path))
    OmegaConf.update(cfg, "wandb", None, force_add=True)
    for key in ("validation", "calibration", "test"):
        OmegaConf.update(cfg, f"data.{key}", 40)
    config = plain(cfg)
    data, module, _ = parts(config)
    if option in EXTRAS:
        with pytest.raises(UserError, match=rf"logger={option} needs .* 'pnp-ssl\[{option}\]'"):
            build_trainer(config, tmp_path, data)
        return
    build_trainer(config | {"trainer": config["trainer"] | {"devices": 1}}, tmp_path, data)
    assert module.views.count >= 2


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_takes_a_step(compose, tmp_path, experiment):
    other = []
    if experiment.startswith("fashion_mnist"):
        write_fashion_mnist(tmp_path, train=120, test=80)
    elif experiment.startswith("cifar10"):
        write_image_folder(tmp_path, train=120, test=80)
        other = ["data=image_folder", "data.size=32"]
    else:
        train(compose(f"experiment={experiment}", "trainer.fast_dev_run=true", "evaluation.k=5"))
        return
    small = [word for word in TINY if not word.startswith(("data.", "trainer.max_epochs"))]
    data = [f"data.root={tmp_path}", "data.validation=40", "data.batch_size=16"]
    where = f"run_dir={tmp_path / 'run'}"
    brief = "trainer.fast_dev_run=true"
    train(compose(f"experiment={experiment}", *other, *small, *data, where, brief, tiny=False))


@pytest.mark.parametrize(
    ("objective", "terms"),
    [
        ("full", {"alignment", "variance", "covariance", "repulsion"}),
        ("align_only", {"alignment"}),
        ("variance_only", {"alignment", "variance"}),
        ("no_repulsion", {"alignment", "variance", "covariance"}),
        ("no_covariance", {"alignment", "variance", "repulsion"}),
        ("no_variance", {"alignment", "covariance", "repulsion"}),
        ("repulsion_only", {"alignment", "repulsion"}),
    ],
)
@pytest.mark.parametrize("scale", ["sphere", "absolute"])
def test_an_ablation_computes_exactly_its_terms_at_its_scale(compose, objective, terms, scale):
    _, module, _ = parts(plain(compose(f"objective={objective}", f"scale={scale}")))
    assert set(module.objective.weights) == terms
    assert module.objective.scale == scale


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("pnp", "torch torchvision lightning wandb lightly matplotlib sklearn"),
        ("pnp.losses, pnp.objectives", "lightning torchvision matplotlib"),
    ],
)
def test_importing_the_package_is_light_and_the_objective_needs_torch_alone(modules, heavy):
    script = f"import sys, {modules}; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text", ["", "/a b/c", "bob's", "{a},[b]=c", "C:\\new", "end\\", "a\\'b", "é ü", "two\\\\'"]
)
def test_a_quoted_value_reaches_hydra_as_it_is(text):
    assert hints.parsed(f"key={quoted(text)}").value() == text
