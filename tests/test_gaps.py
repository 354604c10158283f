"""An evaluation loses nothing but what cannot be measured, and names it."""

import json
import os
import signal

import pytest
import torch
from PIL import Image
from test_evaluate import SMALL, judged

from pnp.data import ImageSet
from pnp.evaluation import evaluate, features, figures, protocol
from pnp.evaluation.figures import principal_plane
from pnp.evaluation.gaps import Gaps
from pnp.evaluation.probes import Space
from pnp.evaluation.protocol import Pixels
from pnp.runs import finish
from pnp.signals import Interrupted, listener

RUN = ("backbone=pixels", *SMALL, "evaluation.fractions=[0.1]")


def gaps_of(folder):
    return json.loads((folder / "gaps.json").read_text(encoding="utf-8"))


def test_features_that_are_all_equal_give_results(tmp_path, monkeypatch):
    monkeypatch.setattr(Pixels, "forward", lambda _, x: x.new_full((len(x), 7), 0.3))
    metrics = judged(*RUN, f"run_dir={tmp_path}")
    assert metrics["test/knn/network"] < 0.6
    assert metrics["test/features/network/mean_cosine"] == pytest.approx(1, abs=1e-5)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert (tmp_path / "report.html").exists()


def test_features_that_are_not_finite_are_a_gap_by_name_in_file_and_report(tmp_path, monkeypatch):
    monkeypatch.setattr(Pixels, "forward", lambda _, x: x.new_full((len(x), 7), torch.nan))
    assert judged(*RUN, f"run_dir={tmp_path}") == {}
    assert "not all finite" in gaps_of(tmp_path)["network"]
    assert "Left out" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_probe_or_a_picture_that_fails_costs_nothing_else(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(Pixels, "forward", lambda _, x: x.flatten(1)[:, ::100])
    whole = judged(*RUN, f"run_dir={tmp_path / 'a'}")
    assert not (tmp_path / "a" / "gaps.json").exists()
    assert not (tmp_path / "a" / "metrics.partial.json").exists()
    monkeypatch.setattr(protocol, "linear_probe", broken)
    monkeypatch.setattr(evaluate, "draw_pca", broken)
    metrics = judged(*RUN, f"run_dir={tmp_path / 'b'}")
    assert metrics == {key: value for key, value in whole.items() if "linear" not in key}
    missing = ("network, linear", "network, linear_10pct", "the picture of the features")
    assert gaps_of(tmp_path / "b") == dict.fromkeys(missing, "RuntimeError: no such luck")


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    class Figure:
        def savefig(self, file, **_):
            file.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        figures.save(Figure(), tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_a_report_that_fails_leaves_the_results(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr("pnp.report.single.write_report", lambda _: 1 / 0)
    assert finish.write_results(tmp_path, [], {}, protocol.Protocol()) == {}
    assert (tmp_path / "metrics.json").exists()
    assert "the report is left out" in caplog.text


def test_a_class_that_a_split_lacks_leaves_out_its_band_alone(tmp_path):
    for part, counts in {"train": (30, 30, 30), "test": (20, 20, 0)}.items():
        for label, count in enumerate(counts):
            for i in range(count):
                file = tmp_path / "data" / part / "abc"[label] / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (100 * label, i, 0)).save(file)
    options = ("data=image_folder", f"data.root={tmp_path / 'data'}", "data.size=8")
    fixed = ("accelerator=cpu", "precision=32-true", "evaluation.k=5")
    metrics = judged("backbone=pixels", *options, *fixed, f"run_dir={tmp_path / 'out'}")
    assert "band/a/network/width" in metrics
    assert "band/c/network/width" not in metrics
    assert gaps_of(tmp_path / "out") == {"concept c": "calibration, test: only one of P and ¬P."}


def test_a_process_without_images_of_its_own_learns_the_shapes(monkeypatch):
    images = ImageSet(name="test", images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    monkeypatch.setattr(features, "world_size", lambda: 3)
    monkeypatch.setattr(features, "gather", lambda part: part)
    for number, count in enumerate((0, 1, 1)):
        monkeypatch.setattr(features, "rank", lambda number=number: number)
        (part,) = features.extract(Pixels(), images, lambda x: x / 255, shared=True)
        assert part.shape == (count, 48)


def test_a_collapsed_space_and_a_single_axis_have_a_plane():
    for dims in (384, 512):
        for seed in range(4):
            point = torch.rand(1, dims, generator=torch.Generator().manual_seed(seed))
            space = Space.of(point.expand(300, dims).clone())
            assert space.values.isfinite().all()
    plane, share = principal_plane(torch.ones(1, 5))
    assert plane.tolist() == [[0, 0]]
    assert share.tolist() == [0, 0]


def test_many_gaps_are_one_line_and_known_ones_are_not_said_again(caplog):
    gaps = Gaps()
    many = {f"concept {i}": "train holds P alone" for i in range(20)}
    for _ in range(3):
        gaps.add(many)
    assert gaps == many
    (line,) = caplog.messages
    assert line == ("concept 0, concept 1, concept 2 and 17 more are left out: train holds P alone")


def test_a_signal_that_a_library_turns_into_its_own_error_still_stops_the_run():
    def draw():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise ValueError("Invalid affine transformation matrix") from error

    with pytest.raises(Interrupted) as stopped, listener:
        Gaps().attempt("the report", draw)
    assert stopped.value.status == 143
    assert Gaps().attempt("later", lambda: 1 / 0) is None  # the signal is history
