"""Deciders: fitted from labelled images, applied to any others, refused or warned of in words."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from tiny_data import write_image_folder

import pnp
from pnp.backbones import backbone
from pnp.band.inputs import Budgets
from pnp.cli import decide
from pnp.decider import labels as rules
from pnp.decider.fit import fit
from pnp.decider.images import Reader, content_hashes
from pnp.decider.parts import Part, Question, part_of_set
from pnp.decider.shift import compare
from pnp.errors import UserError
from pnp.export.encoder import Encoder
from pnp.export.folder import save
from pnp.runs.config import compose as config_of

SIZE, COUNT = 8, 240
MODEL = {"name": "small_cnn", "in_channels": 3, "image_size": SIZE, "width": 4, "depth": 2}


def command(word, *overrides):
    return getattr(decide, word)(config_of(f"decide_{word}", map(str, overrides)))


def ask(word, folder, images, out, *more):
    """A subcommand with the decider in a folder."""
    where = f"decider={folder / 'decider'}", f"images={images}", f"out={out}"
    return command(word, *where, *more)


def facts_of(folder):
    return json.loads((folder / "decider.json").read_text())


def encoder():
    torch.manual_seed(0)
    return Encoder(backbone(**MODEL), channels=3, size=SIZE, mean=[0.5], std=[0.3]).eval()


def pictures(folder, count=COUNT, seed=0, size=SIZE):
    """Noisy pictures that are redder the more they are P; answers are drawn, not certain."""
    rng = np.random.default_rng(seed)
    red = rng.random(count)
    y = rng.random(count) < 1 / (1 + np.exp(-20 * (red - 0.5)))
    tint = (red[:, None] * [150, 0, 50])[:, None, None]
    pixels = rng.integers(0, 60, (count, size, size, 3)) + tint
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels.astype(np.uint8)):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return [(f"{i:03}.png", int(value)) for i, value in enumerate(y)]


def write_labels(file, rows, header=("file", "label")):
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def answers_of(folder):
    with (folder / "answers.csv").open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An export, labelled pictures, and a decider fitted to them; not to be changed."""
    return write_decider(tmp_path_factory.mktemp("made"))


def write_decider(folder, images="images", out="decider"):
    """An export, labelled pictures and a decider below a folder."""
    save(encoder(), folder / "export", {**MODEL, "stem": "auto", "pool": 2}, {}, "")
    labels = write_labels(folder / "labels.csv", pictures(folder / images))
    where = (f"labels={labels}", f"images={folder / images}", f"out={folder / out}")
    command("fit", f"encoder={folder / 'export'}", *where, "max_fp=.1", "max_fn=.1")
    return folder


def refit(made, tmp_path, *more, labels=None, images=None, **budgets):
    where = (
        f"labels={labels or made / 'labels.csv'}",
        f"images={images or made / 'images'}",
        f"out={tmp_path / 'decider'}",
        *(f"{k}={v}" for k, v in ({"max_fp": 0.1, "max_fn": 0.1} | budgets).items()),
    )
    return command("fit", f"encoder={made / 'export'}", *where, *more)


# ---- fit and apply -------------------------------------------------------------------------------


def test_a_decider_is_one_folder_without_pickle_that_says_what_it_promises(made):
    names = {file.name for file in (made / "decider").iterdir()}
    assert {name.rpartition(".")[2] for name in names} == {"safetensors", "json", "md"}
    facts = facts_of(made / "decider")
    assert sum(part["images"] for part in facts["parts"].values()) == COUNT
    assert facts["calibration"]["images"] == facts["parts"]["calibration"]["images"]
    assert "at most 10 % of all images are wrongly called P" in facts["guarantee"]
    card = (made / "decider" / "README.md").read_text()
    assert facts["guarantee"] in card
    assert f"| calibration | {facts['calibration']['images']}" in card
    assert str(made) not in card + json.dumps(facts)
    assert pnp.load(made / "decider").dim == pnp.load(made / "export").dim


def test_every_file_of_a_folder_is_in_the_answers_with_its_answer_or_its_reason(
    made, tmp_path, capsys
):
    pictures(tmp_path / "new" / "deep", count=40, seed=1)
    shutil.copy(tmp_path / "new" / "deep" / "000.png", tmp_path / "new" / "<b>&.PNG")
    (tmp_path / "new" / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    Image.new("I;16", (SIZE, SIZE)).save(tmp_path / "new" / "deep.png")
    (tmp_path / "new" / "notes.txt").write_text("hello")
    assert ask("apply", made, tmp_path / "new", tmp_path / "out") == 2
    rows = answers_of(tmp_path / "out")
    assert len(rows) == 43
    assert list(rows["broken.jpg"]) == ["file", "answer", "score", "margin", "note"]
    assert rows["broken.jpg"]["answer"] == rows["broken.jpg"]["score"] == ""
    assert "cannot identify" in rows["broken.jpg"]["note"]
    assert "convert the file to 8 bits" in rows["deep.png"]["note"]
    assert {row["answer"] for row in rows.values()} <= {"P", "notP", "uncertain", ""}
    counted = {w: sum(r["answer"] == w for r in rows.values()) for w in ("P", "notP", "uncertain")}
    said = capsys.readouterr().out
    for word, count in counted.items():
        assert f"{word} {count}" in said
    assert "41 images answered" in said
    assert "unreadable 2" in said
    assert "other files: 1" in said
    page = (tmp_path / "out" / "answers.html").read_text()
    assert "default-src 'none'" in page
    assert "&lt;b&gt;&amp;.PNG" in page
    assert "<b>&" not in page
    assert not [word for word in ("<script", "http:", "https:", "url(") if word in page]


def test_a_file_whose_name_is_no_utf8_is_answered_under_an_escaped_name(made, tmp_path):
    image = (made / "images" / "000.png").read_bytes()
    (tmp_path / "in").mkdir()
    for name, content in ((b"\xff.png", image), (b"\xfe.png", b"no")):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(content)
    for word, failed in (("apply", 1), ("label", tmp_path / "to_label.csv")):
        if word == "label":
            (tmp_path / "in" / "new.png").write_bytes((made / "images" / "001.png").read_bytes())
            pictures(tmp_path / "in", count=4, seed=77)
        assert ask(word, made, tmp_path / "in", tmp_path) == failed
    rows = answers_of(tmp_path)
    assert [bool(rows[name]["answer"]) for name in (r"\udcff.png", r"\udcfe.png")] == [True, False]


def test_the_budgets_hold_on_new_images_and_the_band_is_where_answers_are_drawn(made, tmp_path):
    labels = dict(pictures(tmp_path / "new", count=400, seed=5))
    ask("apply", made, tmp_path / "new", tmp_path)
    rows = answers_of(tmp_path)
    wrong_p = sum(rows[f]["answer"] == "P" and not y for f, y in labels.items())
    wrong_not = sum(rows[f]["answer"] == "notP" and y for f, y in labels.items())
    assert wrong_p <= 40
    assert wrong_not <= 40
    assert sum(row["answer"] == "uncertain" for row in rows.values()) < 200


def test_tensors_arrays_pictures_and_paths_get_the_answers_of_the_command(made, tmp_path):
    folder = made / "images"
    ask("apply", made, folder, tmp_path)
    rows = answers_of(tmp_path)
    paths = sorted(folder.iterdir())
    decider = pnp.load_decider(made / "decider")
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    tensor = torch.from_numpy(arrays).movedim(-1, 1)
    pil = [Image.open(path) for path in paths]
    for images in (folder, paths, list(map(str, paths)), pil, arrays, tensor):
        answers = decider(images)
        assert answers.words == [rows[path.name]["answer"] for path in paths]
        np.testing.assert_allclose(
            answers.scores, [float(rows[path.name]["score"]) for path in paths], atol=1e-5
        )
        assert set(answers.regions.tolist()) == {-1, 0, 1}
        assert answers.guarantee == decider.guarantee
        assert not answers.notes
    many = decider(np.stack([np.full((20, 30), value, np.uint8) for value in (0, 255)]))
    assert ["resized" in many.notes[0], "colours" in many.notes[1]] == [True, True]
    assert many.words == [decider(Image.new("L", (30, 20), v)).words[0] for v in (0, 255)]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "empty"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "empty"),
        (torch.zeros(2, 3, 8, 8), "float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"\(3, 8, 8\); give a uint8 tensor"),
        (torch.zeros(2, 5, 8, 8, dtype=torch.uint8), "1, 3 or 4 channels"),
        (np.zeros((2, 8, 8, 2), np.uint8), "1, 3 or 4 channels"),
        ([3], "an image is a int"),
        ("nowhere", "no such folder"),
        (["nowhere.png"], "cannot read the image nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused_with_what_to_give(made, images, message):
    with pytest.raises(UserError, match=message):
        pnp.load_decider(made / "decider")(images)


def test_loading_and_answering_need_neither_lightning_nor_hydra(made, tmp_path):
    heavy = ("lightning", "hydra", "omegaconf", "wandb", "lightly", "matplotlib", "sklearn", "timm")
    script = f"""
import sys, pnp
assert "torch" not in sys.modules
decider = pnp.load_decider({str(made / "decider")!r})
answers = decider({str(made / "images")!r})
print(len(answers), [name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{COUNT} []"


def test_a_runs_own_classes_make_a_decider_for_its_own_splits(compose, tmp_path, capsys):
    from pnp.cli.train import train

    write_image_folder(tmp_path / "data", train=120, test=160)
    small = [word for word in TINY if not word.startswith("data.")]
    data = ("data=image_folder", f"data.root={tmp_path / 'data'}", "data.size=16",
            "data.validation=40", "data.batch_size=16")  # fmt: skip
    tiny = ("trainer.max_steps=1",)
    run = tmp_path / "run"
    train(compose(*small, *data, *tiny, f"run_dir={run}", tiny=False))
    capsys.readouterr()
    concept = "concept={pair: [0, class1]}"
    out = command("fit", f"run={run}", concept, "max_fp=.3", "max_fn=.3")
    assert out == run / "decider"
    facts = facts_of(out)
    assert facts["concept"] == {"name": "pair", "meaning": "class0, class1"}
    counts = {name: part["images"] for name, part in facts["parts"].items()}
    assert counts == {"head": 80, "validation": 40, "calibration": 80, "test": 80}
    assert facts["parts"]["calibration"]["positives"] in range(25, 56)
    job = json.loads((run / "job.json").read_text())
    assert (facts["run"], facts["network"]) == (job["identity"], "teacher")
    assert facts["measured"]["test"]["images"] == 80
    assert "apply it with:\n  pnp-decide apply decider=" in capsys.readouterr().out
    assert ask("apply", run, tmp_path / "data", run) == 0
    assert len(answers_of(run)) == 280
    assert "known: " in capsys.readouterr().out
    command("fit", f"run={run}", "concept={a: [0], b: [1]}", "max_fp=.3", "max_fn=.3")
    assert {file.name for file in (run / "deciders").iterdir()} == {"a", "b"}
    assert pnp.load_decider(run / "deciders" / "b").facts["concept"]["meaning"] == "class1"
    for concept, message in (
        ("null", "Classes: 0 class0, 1 class1"),
        ("{a: [klass1]}", "Did you mean class1"),
    ):
        with pytest.raises(UserError, match=message):
            command("fit", f"run={run}", f"concept={concept}")
    with pytest.raises(UserError, match="images= is given without labels="):
        command("fit", f"run={run}", "concept={a: [0]}", f"images={tmp_path}")


def test_a_run_that_asks_one_concept_ends_with_its_decider(compose, tmp_path, capsys):
    from pnp.cli.train import train

    brief = ("trainer.max_steps=1", "evaluation.references=[]", "evaluation.fractions=[]")
    budgets = ("evaluation.band={max_fp: .2, max_fn: .2}",)
    train(compose("data.calibration=60", *brief, *budgets))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"decider: pnp-decide apply decider={tmp_path / 'run' / 'decider'} images=FOLDER"
    facts = pnp.load_decider(tmp_path / "run" / "decider").facts
    assert facts["concept"]["name"] == "lobed"
    assert facts["budgets"]["max_fp"] == 0.2
    assert facts["steps"] == 1
    counts = {name: part["images"] for name, part in facts["parts"].items()}
    assert counts == {"head": 64, "validation": 40, "calibration": 60, "test": 40}


def test_a_timm_model_with_weights_of_a_file_makes_a_decider(made, tmp_path):
    import timm
    from safetensors.torch import save_file

    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), file)
    rows = pictures(tmp_path / "images", count=40)
    labels = write_labels(tmp_path / "labels.csv", rows)
    out = command("fit", "encoder=timm:test_resnet", f"weights={file}", f"labels={labels}",
                  f"images={tmp_path / 'images'}", "max_fp=.3", "max_fn=.3",
                  f"out={tmp_path / 'd'}")  # fmt: skip
    answers = pnp.load_decider(out)(tmp_path / "images")
    assert len(answers) == 40
    assert "were not 160×160" in answers.notes[0]


def test_several_columns_of_labels_make_deciders_that_share_delta(made, tmp_path, capsys):
    rows = pictures(tmp_path / "images", count=300, seed=11)
    several = [(name, y, 1 - y if i % 7 else "") for i, (name, y) in enumerate(rows)]
    labels = write_labels(tmp_path / "l.csv", several, ("file", "red", "blue"))
    where = {"labels": labels, "images": tmp_path / "images"}
    out = refit(made, tmp_path, "concept=[red, blue]", **where)
    red, blue = (pnp.load_decider(out / name) for name in ("red", "blue"))
    assert [d.facts["budgets"]["delta"] for d in (red, blue)] == [0.05, 0.05]
    assert "2 deciders (red, blue) keep their budgets at once" in blue.guarantee
    assert "blue is 1 or P in l.csv" in blue.facts["concept"]["meaning"]
    assert sum(part["images"] for part in blue.facts["parts"].values()) == 300 - 43
    answers = [decider(tmp_path / "images").regions for decider in (red, blue)]
    decided = (answers[0] >= 0) & (answers[1] >= 0)
    assert (answers[0] != answers[1])[decided].mean() > 0.9
    command("label", f"decider={out / 'blue'}", f"images={made / 'images'}", "n=4",
            f"out={tmp_path}")  # fmt: skip
    assert (tmp_path / "to_label.csv").read_text().startswith("file,blue,part,why")
    assert refit(made, tmp_path, "concept=[red, blue]", **where) == out
    with pytest.raises(UserError, match="has the columns file, red, blue; expected a header"):
        refit(made, tmp_path, "concept=[rd]", **where)


def test_budgets_of_a_decider_hold_in_every_group_of_a_column(made, tmp_path, capsys):
    rows = pictures(tmp_path / "images", count=300, seed=12)
    camera = ["left" if i % 3 else "right" for i in range(300)]
    named = [(*row, group) for row, group in zip(rows, camera, strict=True)]
    labels = write_labels(tmp_path / "l.csv", named, ("file", "label", "camera"))
    where = {"labels": labels, "images": tmp_path / "images", "max_fp": 0.2, "max_fn": 0.2}
    out = refit(made, tmp_path, "groups=camera", **where)
    facts = facts_of(out)
    assert "in each of the groups left, right, at most 20 % of all images" in facts["guarantee"]
    whole, left, right = (facts["measured"][f"calibration{g}"] for g in ("", ", left", ", right"))
    assert whole["images"] == left["images"] + right["images"]
    for row in (left, right):
        assert max(row["fp"], row["fn"]) <= 0.2 * row["images"]
    later = [(*row, group) for row, group in zip(
        pictures(tmp_path / "new", count=60, seed=13), camera, strict=False)]  # fmt: skip
    write_labels(tmp_path / "later.csv", later, ("file", "label", "camera"))
    states = ask("check", tmp_path, tmp_path / "new", tmp_path, f"labels={tmp_path / 'later.csv'}")
    assert list(states) == [f"max_{e} of {g}" for e in ("fp", "fn") for g in ("left", "right")]
    write_labels(labels, [*named[1:], (*rows[0], "")], ("file", "label", "camera"))
    with pytest.raises(UserError, match=r"line 301: 000\.png has no camera"):
        refit(made, tmp_path, "groups=camera", **where)
    with pytest.raises(UserError, match="groups go with budget=joint"):
        refit(made, tmp_path, "groups=label", "budget=answered", **where)


# ---- sharing -------------------------------------------------------------------------------------


def share(*overrides):
    from pnp.cli.export import export

    return export(config_of("export", map(str, overrides)))


@pytest.mark.parametrize("crossed", [False, True])
def test_onnxruntime_gives_the_scores_and_the_regions_of_torch(made, tmp_path, crossed):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    budgets = {"max_fp": 0.4, "max_fn": 0.4} if crossed else {}
    out = refit(made, tmp_path, **budgets)
    assert share(f"decider={out}", "onnx=true") == out
    decider = pnp.load_decider(out)  # model.onnx is no foreign file
    assert decider.thresholds.crossed == crossed
    session = runtime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    pixels = decider.reader().batch(made / "images")
    score, region = session.run(None, {"images": (pixels.float() / 255).numpy()})
    assert [o.name for o in session.get_outputs()] == ["score", "region"]
    answers = decider(made / "images")
    np.testing.assert_allclose(score, answers.scores, atol=1e-4)
    sure = answers.margins > 1e-4
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(region[sure], answers.regions[sure])
    assert set(region.tolist()) == ({0, 1} if crossed else {-1, 0, 1})
    assert session.run(None, {"images": (pixels[:1].float() / 255).numpy()})[0].shape == (1,)
    assert refit(made, tmp_path) == out
    assert not (out / "model.onnx").exists()  # of the old thresholds


def test_a_decider_goes_to_the_hub_and_comes_back_like_an_export(made, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    sent, asked = {}, []

    class Api:
        def create_repo(self, name, private, exist_ok):
            return f"https://hub/{name}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            sent[repo_id] = shutil.copytree(folder_path, tmp_path / "there")

    def snapshot(name, allow_patterns):
        asked.extend(allow_patterns)
        return str(sent[name])

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    out = Path(shutil.copytree(made / "decider", tmp_path / "decider"))
    share(f"decider={out}", "hub=ada/red")
    decider = pnp.load_decider("hub:ada/red")
    assert decider(made / "images").words == pnp.load_decider(out)(made / "images").words
    assert {file.name for file in out.iterdir()} <= set(asked)
    assert 'pnp.load_decider("hub:ada/red")' in (out / "README.md").read_text()
    for more, message in (
        ("network=student", "network= has no effect with decider="),
        ("run=RUN", "got run and decider"),
        ("hub=red", "expected USER/NAME"),
    ):
        with pytest.raises(UserError, match=message):
            share(f"decider={out}", more)


# ---- labels and parts ----------------------------------------------------------------------------


def test_an_image_goes_to_the_same_part_wherever_it_is_met():
    shares = rules.Shares(0.5, 0.1, 0.1)
    pixels = torch.randint(0, 256, (4000, 1, 2, 2), dtype=torch.uint8)
    hashes = content_hashes(pixels).tolist()
    assert hashes[7] == int(content_hashes(pixels[7:8]))
    parts = [shares.part(h) for h in hashes]
    share = {name: parts.count(name) / len(parts) for name in rules.PARTS}
    assert share == pytest.approx(
        {"calibration": 0.5, "validation": 0.1, "test": 0.1, "head": 0.3}, abs=0.03
    )


def test_labels_that_do_not_match_the_images_are_counted_and_named(made, tmp_path):
    rows = pictures(tmp_path / "images", count=100)
    shutil.copy(tmp_path / "images" / "001.png", tmp_path / "images" / "twin.png")
    (tmp_path / "images" / "cut.png").write_bytes(b"\x89PNG")
    (tmp_path / "images" / "bare.png").write_bytes(b"")
    more = [rows[3], ("gone.png", 1), ("twin.png", rows[1][1]), ("cut.png", 0), ("002.png", "")]
    dotted = [(f"./{name}", "notP" if not y else "P") for name, y in rows]
    labels = write_labels(tmp_path / "l.csv", [*dotted, *more])
    out = refit(made, tmp_path, labels=labels, images=tmp_path / "images", max_fp=0.3, max_fn=0.3)
    facts = facts_of(out)
    notes = "\n".join(facts["notes"])
    for said in (
        "do not exist: 1 (gone.png)", "without a label: 1 (bare.png)", "listed twice: 1 (003.png)",
        "1 rows have no label", "unreadable: 1 (cut.png", "repeated: 1 images",
    ):  # fmt: skip
        assert said in notes
    assert sum(part["images"] for part in facts["parts"].values()) == 100


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("000.png", 1)], ("name", "label"), "columns name, label; expected a header"),
        ([("000.png", "maybe")], None, "line 2: label 'maybe' of 000.png"),
        ([("000.png", 1), ("000.png", 0)], None, "line 3: 000.png is listed twice"),
        ([("x.png", 1)], None, "labels none of the 240 images; it names x.png"),
        ([("000.png", 1, "exam")], ("file", "label", "part"), "part 'exam'"),
        ([("000.png", 1), ("001.png", 0)], None, "2 labelled images .* are too few"),
        ([(f"{i:03}.png", 1) for i in range(99)], None, "head part are all P"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_their_line(
    made, tmp_path, rows, header, message
):
    file = write_labels(tmp_path / "l.csv", rows, header or ("file", "label"))
    with pytest.raises(UserError, match=message):
        refit(made, tmp_path, labels=file)
    assert not (tmp_path / "decider").exists()


def test_the_same_image_in_head_and_calibration_is_refused_by_its_content(made, tmp_path):
    rows = pictures(tmp_path / "images", count=60)
    Image.open(tmp_path / "images" / "000.png").save(tmp_path / "images" / "other.bmp")
    parts = [(*row, "head" if i % 2 else "calibration") for i, row in enumerate(rows)]
    for twin, message in (
        (("other.bmp", rows[0][1], "head"), "same image in two parts"),
        (("other.bmp", 1 - rows[0][1], "calibration"), "same image with different labels"),
    ):
        labels = write_labels(tmp_path / "l.csv", [*parts, twin], ("file", "label", "part"))
        with pytest.raises(UserError, match=message):
            refit(made, tmp_path, labels=labels, images=tmp_path / "images")
    labels = write_labels(tmp_path / "l.csv", parts, ("file", "label", "part"))
    out = refit(made, tmp_path, labels=labels, images=tmp_path / "images", max_fp=0.3, max_fn=0.3)
    facts = facts_of(out)
    assert facts["calibration"]["images"] == 30
    assert facts["parts"]["validation"]["images"] == 6


def test_too_few_labels_for_the_budget_are_warned_of_with_the_number_needed(made, tmp_path, capsys):
    out = refit(made, tmp_path, max_fp=0.001)
    said = capsys.readouterr().out
    assert "WARNING: too few: max_fp=0.001 needs 2995 calibration samples" in said
    assert "too few" in (out / "README.md").read_text()
    assert "P" not in pnp.load_decider(out)(made / "images").words


def test_a_budget_may_be_a_share_of_the_answers_and_is_checked_as_such(made, tmp_path, capsys):
    rows = pictures(tmp_path / "more", count=600, seed=8)
    labels = write_labels(tmp_path / "l.csv", rows)
    where = {"labels": labels, "images": tmp_path / "more"}
    out = refit(made, tmp_path, "budget=answered", **where, max_fp=0.25, max_fn=0.25)
    facts = facts_of(out)
    assert "at most 25 % of the images called P are not P" in facts["guarantee"]
    row = facts["measured"]["calibration"]
    assert row["fp_of"] == row["P"] > 0
    assert row["fp"] <= 0.25 * row["P"]
    assert "wrong P, of these answers" in capsys.readouterr().out
    later = write_labels(tmp_path / "later.csv", pictures(tmp_path / "new", count=60, seed=9))
    ask("check", tmp_path, tmp_path / "new", tmp_path, f"labels={later}")
    assert "images with that answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("calibration=.9", "validation=.1"), "leave at least 5 % for the head"),
        (("calibration=0",), "the first two must be above 0"),
        (("max_fp=0",), "max_fp"),
        (("delta=1",), "delta"),
        (("run=RUN",), "exactly one of run=DIR"),
        (("network=student", "concept={a: [1]}"), "just a name"),
    ],
)
def test_settings_that_cannot_be_are_refused(made, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        refit(made, tmp_path, *more)


# ---- damage --------------------------------------------------------------------------------------


def edited(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("head.safetensors", lambda f: f.write_bytes(f.read_bytes()[:-9]), "is damaged: head"),
        ("model.safetensors", lambda f: f.write_bytes(f.read_bytes()[:99]), "is damaged: model"),
        ("reference.safetensors", lambda f: f.unlink(), "incomplete: reference.safetensors"),
        ("decider.json", lambda f: f.unlink(), "is not a decider"),
        ("decider.json", lambda f: f.write_text(f.read_text()[:50]), "not valid JSON"),
        (
            "decider.json",
            lambda f: f.write_text('{"format": "x"}'),
            "was not written by pnp-decide",
        ),
        ("decider.json", edited('"shares"', '"parts_"'), "damaged: it lacks shares"),
        (
            "decider.json",
            edited('version": 1', 'version": 2'),
            "has format_version 2, this program reads 1",
        ),
        ("config.json", lambda f: f.unlink(), "is not an export"),
    ],
)
def test_a_damaged_decider_says_so(made, tmp_path, file, change, message):
    copy = Path(shutil.copytree(made / "decider", tmp_path / "copy"))
    change(copy / file)
    with pytest.raises(UserError, match=message):
        pnp.load_decider(copy)


def test_a_folder_of_somebody_else_is_never_overwritten(made, tmp_path):
    (tmp_path / "decider").mkdir()
    (tmp_path / "decider" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        refit(made, tmp_path)
    (tmp_path / "decider" / "thesis.tex").unlink()
    out = refit(made, tmp_path)
    assert refit(made, tmp_path) == out
    assert [file.name for file in tmp_path.iterdir()] == ["decider"]


def test_features_that_are_not_finite_are_an_error_in_fitting_and_a_named_row_in_answers(
    made, tmp_path
):
    decider = pnp.load_decider(made / "decider")
    pixels = decider.reader().batch(made / "images")
    n = len(pixels)
    part = Part(torch.full((n, 4), torch.nan), torch.arange(n) % 2 == 0, torch.arange(n))
    question = Question("red", "red", dict.fromkeys(rules.PARTS, part))
    with pytest.raises(UserError, match=r"features of 240 of 240 head images are not finite"):
        fit(decider.encoder, [question], Budgets(), {})
    decider.weight[0] = torch.nan
    with pytest.raises(UserError, match="features of 240 of 240 images are not finite"):
        decider(pixels)


# ---- check, label, plan --------------------------------------------------------------------------


def test_budgets_are_followed_over_later_images_in_their_order(made, tmp_path, capsys):
    rows = pictures(tmp_path / "new", count=200, seed=3)
    honest = write_labels(tmp_path / "l.csv", rows)
    states = ask("check", made, tmp_path / "new", tmp_path, f"labels={honest}")
    assert set(states.values()) <= {"holds", "not decided"}
    flipped = write_labels(tmp_path / "f.csv", rows[:40] + [(f, 1 - y) for f, y in rows[40:]])
    states = ask("check", made, tmp_path / "new", tmp_path, f"labels={flipped}")
    assert "violated" in states.values()
    said = capsys.readouterr().out
    since = int(said.partition("VIOLATED since image ")[2].partition(":")[0])
    assert 40 < since < 120
    with (tmp_path / "check.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["file"] for row in table] == [f for f, _ in rows]
    assert float(table[since - 1]["against_fp"]) > 3 or float(table[since - 1]["against_fn"]) > 3


def test_images_of_the_fit_are_not_counted_when_it_is_checked(made, tmp_path):
    labels = f"labels={made / 'labels.csv'}"
    with pytest.raises(UserError, match="all 240 labelled images were used in fitting"):
        ask("check", made, made / "images", tmp_path, labels)
    with pytest.raises(UserError, match="alpha=0"):
        ask("check", made, made / "images", tmp_path, labels, "alpha=0")


def test_images_to_label_are_of_two_kinds_that_never_meet(made, tmp_path, capsys):
    pool = tmp_path / "pool"
    answers = dict(pictures(pool, count=150, seed=4))
    shutil.copy(made / "images" / "000.png", pool / "known.png")
    shutil.copy(pool / "001.png", pool / "twin.png")
    ask("label", made, pool, tmp_path, "n=20")
    with (tmp_path / "to_label.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    parts = {kind: [r for r in rows if r["part"] == kind] for kind in ("head", "calibration")}
    assert [len(kind) for kind in parts.values()] == [10, 10]
    assert not {"known.png", "twin.png"} & {row["file"] for row in rows}
    uncertain = [row["answer"] == "uncertain" for row in parts["head"]]
    assert np.mean(uncertain) > np.mean([r["answer"] == "uncertain" for r in parts["calibration"]])
    shares = rules.Shares()
    for row in rows:
        pixels = Reader(3, SIZE).batch(pool / row["file"])
        assert shares.part(int(content_hashes(pixels))) == row["part"]
    assert "10 drawn at random for calibration" in capsys.readouterr().out
    assert "drawn at random" in (tmp_path / "to_label.html").read_text()
    # Labelled, they go where they were meant to go.
    done = [(row["file"], answers[row["file"]], row["part"]) for row in rows]
    first = write_labels(tmp_path / "first.csv", list(answers.items())[:60])
    rest = [row for row in done if int(row[0][:3]) >= 60]
    more = write_labels(tmp_path / "more.csv", rest, ("file", "label", "part"))
    out = refit(made, tmp_path, labels=f"[{first},{more}]", images=pool, max_fp=0.3, max_fn=0.3)
    counts = facts_of(out)["parts"]
    assert sum(part["images"] for part in counts.values()) == 60 + len(rest)


def test_the_plan_lists_what_a_number_of_labels_allows(made, tmp_path, capsys):
    out = f"out={tmp_path / 'p.csv'}"
    rows = command("plan", "max_fp=.05", "max_fn=.05", "sizes=[50,500]", out)
    assert [row.n for row in rows] == [50, 500]
    assert rows[0].width > rows[1].width
    said = capsys.readouterr().out
    assert "at least 59 labels for max_fp=0.05" in said
    assert (tmp_path / "p.csv").read_text().startswith("n,k_fp,k_fn,fp,fn,width")
    own = command("plan", f"decider={made / 'decider'}", "max_fp=.1", "max_fn=.1", "sizes=[500]")
    assert 0 <= own[0].width < 1
    assert "this decider's calibration images" in capsys.readouterr().out


# ---- promises ------------------------------------------------------------------------------------


def test_the_promise_of_a_fit_holds_over_draws():
    """Gaussian features; the true error rates of each decider are known in closed form."""
    rng, net = np.random.default_rng(0), encoder()
    violated = 0
    for _ in range(60):
        parts = {}
        for name, n in (("head", 60), ("validation", 20), ("calibration", 150)):
            y = torch.from_numpy(rng.random(n) < 0.5)
            noise = torch.from_numpy(rng.normal(size=(n, 2))).float()
            x = noise + 2.0 * y[:, None] * torch.eye(2)[0]
            parts[name] = Part(x, y, torch.arange(n))
        question = Question("one", "one", parts)
        (decider,) = fit(net, [question], Budgets(0.05, 0.05, delta=0.2), {})
        from scipy.stats import norm

        w, cut = decider.weight.numpy(), decider.thresholds
        spread = float(np.linalg.norm(w))
        fp = 0.5 * norm.sf((cut.t_hi - decider.bias) / spread)
        fn = 0.5 * norm.cdf((cut.t_lo - decider.bias - 2.0 * w[0]) / spread)
        violated += fp > 0.05 or fn > 0.05
    assert violated <= 18  # Bin(60, .2) exceeds this once in 60


def test_a_shift_is_seen_and_none_is_reported_where_there_is_none():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        reference, new = (rng.normal(size=(n, 5)).astype(np.float32) for n in (80, 60))
        alarms += compare(reference, new).detected
    assert alarms <= 6  # Bin(200, .01) exceeds this once in 200
    moved = compare(reference, new + np.float32([0, 0, 0, 1.5, 0]))
    assert moved.detected
    assert "principal axis 3" in moved.sentence
    assert not compare(reference, new[:10]).detected


def test_a_set_of_a_run_and_its_files_have_the_same_hash_and_the_same_features(made):
    from pnp.data import ImageSet

    net = pnp.load(made / "export")
    pixels = Reader(3, SIZE).batch(made / "images")
    keep = torch.arange(COUNT) % 3 > 0
    y = keep[:, None]
    (part,) = part_of_set(net, ImageSet(name="train", images=pixels), y, y)
    assert torch.equal(part.hashes, content_hashes(pixels[keep]))
    torch.testing.assert_close(part.features, net(pixels[keep]), rtol=0, atol=1e-5)
