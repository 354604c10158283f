"""Commands of the documentation, run as they stand with overrides that make them tiny."""

import csv
import shlex
import shutil
from importlib import import_module

import pytest
import yaml
from conftest import BRIEF, TINY
from PIL import Image
from test_docs import added as added
from test_docs import blocks, lines, page
from tiny_data import write_fashion_mnist

import pnp
from pnp.cli import decide
from pnp.cli.train import train
from pnp.runs.config import compose as config_of

# A small network on whatever data; one step, and a short judgement.
SPECIFIC = ("data.", "model.width", "model.depth", "trainer.max")
BOTH = tuple(word for word in TINY if not word.startswith(SPECIFIC))
ONCE = ("trainer.fast_dev_run=true",)


@pytest.fixture
def do(tmp_path, monkeypatch):
    """Run the command of a page that begins so; its run directory is tmp_path/runs/RUN."""
    monkeypatch.chdir(tmp_path)

    def _do(name: str, start: str, *more: str):
        commands = [words for b in blocks(page(name), "bash") for words in lines(b.text)]
        begin = shlex.split(start)
        found = [words for words in commands if words[: len(begin)] == begin]
        assert found, f"{name} has no command {start} any more"
        module = import_module(f"pnp.cli.{begin[0].removeprefix('pnp-')}")
        if begin[0] == "pnp-report":
            return module.main(found[0][1:])
        config = begin[0].removeprefix("pnp-")
        where = ["run_dir=runs/RUN"] if config == "train" else []
        return getattr(module, config)(config_of(config, [*found[0][1:], *where, *more]))

    return _do


def test_a_folder_of_pictures_trains_with_the_command_of_the_first_page(do, tmp_path):
    for i in range(60):
        file = tmp_path / "PICTURES" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (4 * i, 9, 200 * (i % 2))).save(file)
    tiny = (*BOTH, *ONCE, "model.width=4", "data.size=16", "data.batch_size=8")
    assert "test/knn/teacher" in do("index.md", "pnp-train data=image_folder", *tiny)


def test_a_run_is_asked_compared_and_exported_with_the_commands_of_the_pages(
    do, compose, tmp_path, capsys
):
    write_fashion_mnist(tmp_path, train=120, test=80)
    data = ("data=fashion_mnist", f"data.root={tmp_path}", "data.validation=40")
    tiny = (*BOTH, "model.width=4", "data.batch_size=16", "trainer.max_steps=2")
    train(compose(*data, *tiny, "run_dir=runs/RUN", tiny=False))
    brief = ("accelerator=cpu", "precision=32-true", *BRIEF[:2])
    concept = "evaluation.concepts='{top: {positive: [0, 2, 4], ambiguous: {6: 0.5}}}'"
    metrics = do("evaluation.md", f"pnp-evaluate run=runs/RUN {concept}", *brief, "evaluation.k=5")
    assert "band/top/teacher/oracle/width" in metrics
    do("index.md", "pnp-report runs")
    assert "1 finished" in capsys.readouterr().out
    do("index.md", "pnp-export run=runs/RUN")
    assert pnp.load("runs/RUN/export").dim == 4 * 2**3 * 2**2  # width 4, four blocks, 2 × 2 cells


def test_the_data_set_that_a_page_adds_trains(do, added, tmp_path):
    search = added("add_a_dataset.md", tmp_path)
    *_, file = (b.text for b in blocks(page("add_a_dataset.md"), "python") if not b.title)
    exec(compile(file, "add_a_dataset.md", "exec"), {})  # the page is ours
    tiny = (*BOTH, *ONCE, "model.width=4", *search)
    assert "test/linear/student" in do("add_a_dataset.md", "pnp-train data=medmnist", *tiny)
    splits = yaml.safe_load((tmp_path / "runs" / "RUN" / "splits.json").read_text())
    assert [splits[name]["count"] for name in splits] == [80, 80, 40, 40]


def test_the_backbone_that_a_page_adds_trains(do, added, tmp_path):
    search = added("add_a_backbone.md", tmp_path)
    tiny = (*BOTH, *ONCE, *(word for word in TINY if word.startswith("data.")))
    assert "test/knn/teacher" in do("add_a_backbone.md", "pnp-train model=resnet9", *tiny, *search)


def test_the_method_that_a_page_adds_trains(do, added, tmp_path):
    search = added("add_a_method.md", tmp_path)
    tiny = (*TINY, *ONCE, "data=ambiguous", *search)
    metrics = do("add_a_method.md", "pnp-train method=simclr objective=dcl", *tiny)
    assert "test/knn/student" in metrics


def test_the_way_from_images_to_a_decider_runs_as_its_page_says(do, tmp_path, capsys):
    from test_decider import pictures, write_labels

    sets = {"UNLABELLED": (60, 0), "FOLDER": (200, 1), "NEW": (80, 2), "POOL": (160, 3)}
    rows = {name: pictures(tmp_path / name, n, s, 32) for name, (n, s) in sets.items()}
    pool = {f"pool-{name}": answer for name, answer in rows["POOL"]}
    for name in rows["POOL"]:
        (tmp_path / "POOL" / name[0]).rename(tmp_path / "POOL" / f"pool-{name[0]}")
    write_labels(tmp_path / "labels.csv", rows["FOLDER"])
    write_labels(tmp_path / "later.csv", rows["NEW"])
    tiny = (*BOTH, *ONCE[1:], "trainer.max_steps=2", "model.width=4", "data.batch_size=8")
    do("decider.md", "pnp-train data=image_folder", *tiny, "data.validation=8")
    ran = []
    for block in blocks(page("decider.md"), "bash"):
        for words in [] if block.why else lines(block.text):
            if words[0] != "pnp-decide":
                continue
            getattr(decide, words[1])(config_of(f"decide_{words[1]}", words[2:]))
            ran.append(words[1])
            if words[1] == "label":  # somebody fills in the labels, and copies the images
                with (tmp_path / "LABEL" / "to_label.csv").open(newline="") as file:
                    listed = list(csv.DictReader(file))
                done = [(row["file"], pool[row["file"]], row["part"]) for row in listed]
                write_labels(tmp_path / "LABEL" / "to_label.csv", done, ("file", "label", "part"))
                for row in listed:
                    shutil.copy(tmp_path / "POOL" / row["file"], tmp_path / "FOLDER")
    assert ran == ["plan", "fit", "apply", "check", "label", "fit"]
    said = capsys.readouterr().out
    assert "80 images answered" in said
    assert (tmp_path / "ANSWERS" / "answers.html").is_file()
