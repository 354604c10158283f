"""Votes: every image carries its annotators' answers; concepts ask one and estimate η by others."""

import csv

import numpy as np
import pytest
import torch
from tiny_data import write_image_folder

from pnp.band.concepts import Concept
from pnp.data import DataModule
from pnp.errors import UserError
from pnp.evaluation.concept_bands import concept_targets, votes_targets


@pytest.fixture
def folder(tmp_path):
    write_image_folder(tmp_path / "data", train=40, test=0)
    root = tmp_path / "data" / "train"
    rng = np.random.default_rng(0)
    names = sorted(p.relative_to(root) for p in root.rglob("*.*"))
    rows = [
        [name.parent.name, name.stem, *(f"class{v}" for v in rng.integers(0, 2, 3))]
        for name in names
    ]
    return root, rows


def module(root, rows, header=("class", "image", "vote1", "vote2", "vote3"), **more):
    file = root.parent.parent / "votes.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    sizes = {"size": 8, "validation": 8, "calibration": 8, "test": 8, "batch_size": 4}
    return DataModule("image_folder", root=str(root), votes=str(file), **sizes, **more)


@pytest.mark.parametrize("cache", [False, True])
def test_every_image_of_every_split_carries_its_own_votes(folder, cache):
    root, rows = folder
    rows = [[c, f"{image}.png" if i % 2 else image, *votes] for i, (c, image, *votes) in
            enumerate(rows)]  # fmt: skip
    data = module(root, reversed(rows), cache=cache)
    whole = {tuple(row[2:]) for row in rows}
    total = 0
    for split in data.splits.values():
        assert split.votes.shape == (len(split), 3)
        assert {tuple(f"class{v}" for v in votes) for votes in split.votes.tolist()} <= whole
        total += int(split.votes.sum())
    assert total == sum(vote == "class1" for row in rows for vote in row[2:])
    first = data.splits["train"].subset(torch.tensor([2, 0]))
    assert torch.equal(first.votes, data.splits["train"].votes[[2, 0]])
    assert first.digest() != first.without_labels().digest()


def test_one_annotator_answers_and_the_others_estimate_eta_without_bias():
    rng = np.random.default_rng(1)
    true = rng.random(40_000)
    votes = (rng.random((40_000, 3)) < true[:, None]).astype(int)
    y, eta, keep = votes_targets(Concept(positive={1}), votes, seed=3)
    assert keep.all()
    assert set(np.unique(eta)) == {0.0, 0.5, 1.0}
    assert np.mean(y) == pytest.approx(true.mean(), abs=0.01)
    for low in (0.1, 0.5, 0.8):
        some = np.abs(true - low) < 0.02
        assert [y[some].mean(), eta[some].mean()] == pytest.approx([low, low], abs=0.05)
        both = (y * eta)[some].mean()
        assert both == pytest.approx(y[some].mean() * eta[some].mean(), abs=0.03)


def test_images_count_if_the_one_and_another_annotator_say_either_class():
    concept = Concept(positive={0}, negative={1}, ignore={2})
    votes = np.array([[0, 1, 2]] * 200 + [[2, 2, 0]] * 200 + [[0, 0, 1]] * 200)
    y, eta, keep = votes_targets(concept, votes, seed=0)
    assert 0.5 < keep[:200].mean() < 0.8  # not where the one asked says class 2
    assert set(eta[:200][keep[:200] & (y[:200] == 1)]) == {0.0}
    assert not keep[200:400].any()
    assert keep[400:].all()
    assert set(eta[400:][y[400:] == 0]) == {1.0}


def test_concepts_of_a_folder_with_votes_ask_the_annotators(folder):
    root, rows = folder
    data = module(root, rows)
    targets = concept_targets(data, {"one": ["class1"]})
    votes = data.splits["test"].votes
    y, eta = targets.y["test"][:, 0], targets.eta["test"][:, 0]
    assert torch.equal(y + 2 * eta.float(), votes.sum(1).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "no votes for 1 of 40 images, such as class0"),
        (lambda rows: [*rows, rows[0]], "line 42: class0/.* is listed twice"),
        (lambda rows: [[*rows[0][:2], "klass1", "class0", "class0"]], "Did you mean class1"),
    ],
)
def test_votes_that_do_not_fit_the_images_are_refused(folder, change, message):
    root, rows = folder
    with pytest.raises(UserError, match=message):
        module(root, change(rows)).splits  # noqa: B018


def test_votes_need_a_folder_with_classes(folder):
    root, _ = folder
    with pytest.raises(UserError, match="columns a, b; expected class, image, vote1"):
        module(root, [], header=("a", "b")).splits  # noqa: B018
    with pytest.raises(UserError, match=r"data\.votes goes with data=image_folder"):
        DataModule("fashion_mnist", votes="v.csv")
    with pytest.raises(UserError, match=r"cannot read data\.votes=no\.csv"):
        DataModule("image_folder", root=str(root), size=8, votes="no.csv").splits  # noqa: B018
