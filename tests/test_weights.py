"""Weights of any origin: prefixes come off, what does not fit is said on one screen."""

import argparse
import os

import pytest
import torch
from torchvision.models import resnet18

from pnp import weights
from pnp.backbones import backbone
from pnp.errors import UserError
from pnp.runs import directory


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return backbone("resnet18", image_size=32)


def saved(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def loaded(file, **options):
    net = backbone("resnet18", image_size=32)
    weights.load(net, file, **options)
    return net


def renamed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("entry", "prefix"),
    [
        (None, ""),
        (None, "module."),
        ("state_dict", "model."),
        ("state_dict", "module.encoder_q."),
        ("state_dict", "student.backbone."),
        ("teacher", "backbone."),
        ("model", ""),
        ("anything", "deep.inside.of.it."),
    ],
)
def test_usual_entries_and_prefixes_come_off_and_are_named(tmp_path, small, capsys, entry, prefix):
    state = renamed(small.state_dict(), prefix) | {f"{prefix}fc.bias": torch.zeros(10)}
    content = state if entry is None else {"epoch": 3, "arch": "resnet18", entry: state}
    net = loaded(saved(tmp_path, content))
    assert all(map(torch.equal, net.state_dict().values(), small.state_dict().values()))
    said = capsys.readouterr().out
    assert all(word in said for word in (entry, prefix) if word)


def test_the_teacher_of_two_networks_half_precision_and_plain_records_are_taken(tmp_path, small):
    half = {k: v.half() if v.is_floating_point() else v for k, v in small.state_dict().items()}
    other = {k: torch.zeros_like(v) for k, v in half.items()}
    two = renamed(other, "student.backbone.") | renamed(half, "teacher.backbone.")
    content = {"model": two, "args": argparse.Namespace(arch="resnet18", lr=0.1)}
    net = loaded(saved(tmp_path, content))
    assert net.conv1.weight.dtype == torch.float32
    assert torch.equal(net.conv1.weight.half(), half["conv1.weight"])


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a state dict"),
        ({"epoch": 1, "note": "x"}, "holds the entries epoch, note; expected"),
        ({}, "holds the entries ; expected"),
        (Malicious(), "Python objects beside tensors .*system"),
        (resnet18().state_dict(), r"(?s)conv1.weight: \(64, 3, 7, 7\).*large stem.*model='{stem"),
        ({"a.b": torch.ones(2)}, r"(?s)missing: \d+ \(conv1.weight, .*, …\).*partial=true|fit: 0"),
    ],
)
def test_what_is_no_weights_of_this_network_is_one_message(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        loaded(saved(tmp_path, content))
    assert len(str(error.value).splitlines()) < 12
    assert not (tmp_path / "executed").exists()


def test_cut_off_missing_and_empty_files_are_messages(tmp_path, small):
    file = saved(tmp_path, small.state_dict())
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(UserError, match="no file of weights, or was cut off"):
            loaded(tmp_path / name)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match="no file of weights, or was cut off"):
        loaded(tmp_path / "empty.pth")
    with pytest.raises(UserError, match="No such file"):
        loaded(tmp_path / "none.pth")


def test_part_of_the_weights_is_loaded_only_when_told(tmp_path, small, capsys):
    state = {k: v for k, v in small.state_dict().items() if not k.startswith("layer4")}
    file = saved(tmp_path, state | {"conv1.weight": torch.ones(64, 3, 7, 7)})
    with pytest.raises(UserError, match="partial=true"):
        loaded(file)
    assert torch.equal(loaded(file, partial=True).bn1.weight, small.bn1.weight)
    assert "conv1.weight: (64, 3, 7, 7) in the file" in capsys.readouterr().out


def test_weights_that_are_not_finite_are_refused(tmp_path, small):
    bad = torch.full_like(small.conv1.weight, torch.nan)
    with pytest.raises(UserError, match=r"hold NaN or infinity, in conv1\.weight"):
        loaded(saved(tmp_path, small.state_dict() | {"conv1.weight": bad}))


def test_checkpoints_say_what_they_lack_and_module_prefixes_are_known(tmp_path, small):
    whole = {"state_dict": renamed(small.state_dict(), "module."), "config": {}, "global_step": 1}
    file = saved(tmp_path, whole)
    found = weights.fit(small, directory.load_checkpoint(file)["state_dict"])
    assert (found.whole, found.prefix) == (True, "module.")
    with pytest.raises(UserError, match="lacks epoch, loops"):
        directory.load_checkpoint(file, {})
    with pytest.raises(UserError, match="lacks config, global_step"):
        directory.load_checkpoint(saved(tmp_path, {"state_dict": {}}))
    with pytest.raises(UserError, match="lacks state_dict"):
        directory.load_checkpoint(saved(tmp_path, [1]))
    directory.refuse_misfit(file, weights.fit(small, small.state_dict()))
    state = small.state_dict()
    state["odd"] = state.pop("conv1.weight")
    with pytest.raises(UserError, match=r"(?s)does not fit.*missing: 1 .*left over: 1"):
        directory.refuse_misfit(file, weights.fit(small, state))
