"""`pnp-evaluate`, the band end to end, and the feature cache."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import BRIEF, FULL

from pnp.cli.evaluate import evaluate
from pnp.cli.train import train
from pnp.data import DataModule, ImageSet
from pnp.errors import UserError
from pnp.evaluation.concept_bands import Budgets, band_rows, concept_bands, concept_targets
from pnp.evaluation.features import extract, fingerprint, remembered
from pnp.evaluation.probes import Space
from pnp.report.groups import settings
from pnp.report.reading import read_run
from pnp.results import find
from pnp.runs.config import compose as config_of

HERE = ("evaluation.k=5", "accelerator=cpu", "precision=32-true")
SIZES = ("data.n_train=64", "data.validation=40", "data.calibration=40", "data.test=40")
SMALL = (*SIZES, *HERE)


def judged(*overrides):
    return evaluate(config_of("evaluate", overrides))


def ambiguous(**options):
    sizes = {"n_train": 800, "validation": 200, "calibration": 2000, "test": 2000}
    return DataModule("ambiguous", **{**sizes, **options})


def test_evaluating_a_run_again_gives_its_numbers_from_the_cache(trained, tmp_path):
    done, first = trained(*FULL)
    run = shutil.copytree(done, tmp_path / "run")
    cached = {file: file.stat().st_mtime_ns for file in (run / "features").iterdir()}
    again = judged(f"run={run}", *HERE)
    assert again == first
    assert {file: file.stat().st_mtime_ns for file in (run / "features").iterdir()} == cached


def test_another_evaluation_in_place_is_recorded_and_the_run_stays_the_same_job(
    compose, trained, tmp_path
):
    done, _ = trained()
    run = shutil.copytree(done, tmp_path / "run")
    before = (run / "config.yaml").read_bytes()
    again = judged(f"run={run}", *HERE[1:], "evaluation.k=3", *BRIEF)
    assert (run / "config.yaml").read_bytes() == before
    assert read_run(run).config["evaluation"]["k"] == 3
    assert "k: 3" in (run / "report.html").read_text("utf-8")
    assert train(compose("resume=auto")) == again  # finished, whatever it was judged by


def test_a_checkpoint_is_judged_into_a_folder_of_its_own(trained, tmp_path):
    run, first = trained()
    file = run / "checkpoints" / "last.ckpt"
    out = tmp_path / "elsewhere"
    again = judged(f"ckpt={file}", f"run_dir={out}", *HERE, *BRIEF)
    assert again["test/knn/teacher"] == first["test/knn/teacher"]
    assert (out / "report.html").exists()
    ours, theirs = (read_run(folder) for folder in (out, run))
    assert ours.test == theirs.test
    assert (ours.dataset, settings(ours)) == (theirs.dataset, settings(theirs))


def test_features_may_be_means_over_views_and_the_protocol_says_so(
    trained, tmp_path, capsys, monkeypatch
):
    done, first = trained(*FULL)
    out = tmp_path / "views"
    run = (f"run={done}", f"run_dir={out}", *HERE, *BRIEF)
    monkeypatch.setattr("pnp.evaluation.evaluate.LONG", 0)  # in a file nobody sees a bar
    averaged = judged(*run, "evaluation.views=3", "evaluation.references=[pixels]")
    lines = [line for line in capsys.readouterr().out.splitlines() if "evaluation: " in line]
    assert [line.split()[1] for line in lines] == ["student", "teacher", "raw"]
    facts = json.loads((out / "run.json").read_text())
    assert "of 3 views of each image, averaged, student" in facts["protocol"]
    assert averaged["reference/pixels/knn"] == first["reference/pixels/knn"]
    key = "test/features/student/mean_cosine"
    assert averaged[key] != first[key]  # pyright: ignore
    with pytest.raises(UserError, match=r"evaluation.views=0: give a whole number, at least 1"):
        judged(*run, "evaluation.views=0")


def test_outputs_are_the_mean_over_the_views_of_each_image():
    pixels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    images = ImageSet(name="test", images=pixels)
    (means,) = extract(
        torch.nn.Flatten(), images, lambda x: torch.cat([1.0 * x, 3.0 * x]), views=2, batch_size=4
    )
    assert torch.equal(means, 2.0 * torch.arange(6.0)[:, None])


def test_probe_data_sets_are_independent_of_the_pretraining_data(trained, tmp_path):
    done, first = trained()
    shutil.copytree(done, tmp_path / "run")
    same = "{n_train: 64, validation: 40, calibration: 40, test: 40}"
    options = (*HERE, *BRIEF[:2])
    run = f"run={tmp_path / 'run'}"
    again = judged(run, f"datasets={{ambiguous: {same}}}", *options)
    assert {k: again[f"ambiguous/{k}"] for k in first} == first
    assert (tmp_path / "run" / "ambiguous" / "figures" / "band_width.svg").exists()
    other = judged(run, f"datasets={{ambiguous: {same[:-1]}, seed: 7}}}}", *options, BRIEF[2])
    assert other["ambiguous/test/knn/teacher"] != first["test/knn/teacher"]
    with pytest.raises(UserError, match=r"datasets=fashion is unknown; choose from ambiguous"):
        judged(run, "datasets=[fashion]", *options)


def test_a_backbone_from_elsewhere_is_judged_with_its_weights(tmp_path):
    from pnp.backbones import backbone

    net = backbone("timm:test_resnet", image_size=32)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    name = "backbone=timm:test_resnet"
    weights = f"state_dict={tmp_path / 'weights.pt'}"
    metrics = judged(name, weights, f"run_dir={tmp_path / 'a'}", *SMALL, *BRIEF)
    assert 0 <= metrics["test/linear/network"] <= 1
    pixels = judged("backbone=pixels", f"run_dir={tmp_path / 'b'}", *SMALL)
    assert "band/lobed/network/width" in pixels


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "exactly one of"),
        (["backbone=pixels", "run=somewhere"], "exactly one of"),
        (["backbone=resnet18"], "has no weights"),
        (["run=/nowhere"], "found no checkpoint"),
        (["backbone=pixels", "evaluation.references=[noise]"], "choose from pixels, random"),
        (["backbone=pixels", "evaluation.band.max_fp=2"], "max_fp"),
    ],
)
def test_what_cannot_be_judged_is_a_message(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        judged(f"run_dir={tmp_path}", *SMALL, *overrides)


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save({"encoder.conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    state = f"state_dict={tmp_path / 'other.pt'}"
    with pytest.raises(UserError, match=r"(?s)does not fit.*'encoder\.'.*conv1\.weight"):
        judged("backbone=resnet18", state, f"run_dir={tmp_path}", *SMALL)


def test_the_band_of_a_perfect_representation_is_near_the_oracle_and_keeps_its_budgets():
    data = ambiguous()
    targets = concept_targets(data, None)
    features = {name: data.splits[name].latent[:, None].float() for name in targets.y}
    space = Space.of(features["train"])
    rotated = {name: space(part) for name, part in features.items()}
    bands = concept_bands(rotated, space, targets, Budgets())
    metrics = bands["lobed"].report.metrics
    assert metrics["err/fp_joint_eta"] <= 0.01
    assert metrics["err/fn_joint_eta"] <= 0.01
    assert 0 < metrics["oracle/excess"] < 0.12
    (mean,) = find(band_rows({"teacher": bands}), concept="mean", metric="width")
    assert (mean.key, mean.value) == ("band/mean/teacher/width", metrics["band/width"])


def test_a_coin_flip_class_gives_labelled_data_a_known_irreducible_band():
    data = ambiguous()
    concept = {"few": {"positive": [0, 1], "ambiguous": {2: 0.5}}}
    targets = concept_targets(data, concept)
    assert targets.names == ("lobed", "few")
    labels, eta = data.splits["test"].labels, targets.eta["test"][:, 1]
    assert set(eta[labels == 2].tolist()) == {0.5}
    flips = targets.y["test"][labels == 2, 1]
    assert float(flips.mean()) == pytest.approx(0.5, abs=0.1)
    again = concept_targets(data, concept)
    assert torch.equal(again.y["test"], targets.y["test"])


def test_the_fingerprint_follows_weights_and_preprocessing():
    net = torch.nn.Linear(2, 2)
    before = fingerprint(net, "32 px")
    assert fingerprint(net, "32 px") == before
    assert fingerprint(net, "64 px") != before
    with torch.no_grad():
        net.weight[0, 0] += 1
    assert fingerprint(net, "32 px") != before


def test_features_are_made_once_and_mapped_from_disk(tmp_path):
    made = []

    def make():
        made.append(1)
        return [torch.arange(6.0).view(3, 2)]

    for _ in range(2):
        (features,) = remembered(tmp_path, "key", 1, make)
        np.testing.assert_array_equal(features.numpy(), np.arange(6.0).reshape(3, 2))
    assert made == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["key-0.npy"]


def test_alarms_guarantees_and_curves_are_recorded_for_the_report(trained):
    run, _ = trained(*FULL)
    band = json.loads((run / "band.json").read_text())["lobed"]["teacher"]
    assert {"plugin", "certified", "oracle"} <= set(band["curves"])
    assert any("299" in alarm for alarm in band["alarms"])  # 40 calibration images are too few
