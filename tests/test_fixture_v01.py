"""Run directories that version 0.1 wrote: resumed, evaluated, reported and exported by this one."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import pnp
from pnp.cli.evaluate import evaluate
from pnp.cli.export import export
from pnp.cli.train import train
from pnp.keys import upgrade
from pnp.runs.config import compose

OLD = Path(__file__).parent / "fixtures" / "v0.1"
HERE = ("accelerator=cpu", "precision=32-true", "evaluation.k=5")


def rows(run):
    with (run / "metrics.csv").open() as stream:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]


@pytest.fixture
def finished(tmp_path):
    return shutil.copytree(OLD / "finished", tmp_path / "finished")


def test_a_stopped_run_is_resumed_to_the_end_of_the_unbroken_one(tmp_path):
    run = shutil.copytree(OLD / "stopped", tmp_path / "stopped")
    config = upgrade(OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
    cfg = OmegaConf.create(config | {"run_dir": str(run), "resume": "auto"})
    metrics = train(cfg)
    assert len(list(run.glob("../*"))) == 1
    old, new = rows(OLD / "finished"), rows(run)
    # Version 0.1 had no online band, no Wasserstein distance and no count of images.
    later = ("band/", "geometry/student/wasserstein", "geometry/teacher/wasserstein", "images_seen",
             "forwards_per_image")  # fmt: skip
    new = [{k: v for k, v in row.items() if not k.startswith(later)} for row in new]
    assert [row.keys() for row in new] == [row.keys() for row in old]
    assert all(a == pytest.approx(b, rel=1e-5, abs=1e-5) for a, b in zip(new, old, strict=True))
    expected = json.loads((OLD / "finished" / "metrics.json").read_text())
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True)


def test_a_finished_run_is_not_repeated(finished, capsys):
    config = upgrade(OmegaConf.to_container(OmegaConf.load(finished / "config.yaml")))
    train(OmegaConf.create(config | {"run_dir": str(finished), "resume": "auto"}))
    assert "already finished" in capsys.readouterr().out


def test_a_finished_run_is_evaluated_to_the_same_numbers(finished):
    expected = json.loads((finished / "metrics.json").read_text())
    metrics = evaluate(compose("evaluate", [f"run={finished}", *HERE]))
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True)


def test_a_finished_run_is_reported(finished):
    from pnp.report.single import write_report

    assert write_report(finished).stat().st_size > 0


def test_a_finished_run_is_exported(finished):
    out = export(compose("export", [f"run={finished}"]))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert pnp.load(out)(images).isfinite().all()
