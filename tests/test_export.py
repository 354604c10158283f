"""`pnp-export` and `pnp.load`: what is shared computes what the run computed."""

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from conftest import FULL
from safetensors.torch import load_file

import pnp
from pnp.backbones import backbone
from pnp.cli.export import export
from pnp.cli.train import train
from pnp.errors import UserError
from pnp.export import card
from pnp.export.encoder import Encoder
from pnp.export.folder import save
from pnp.export.hub import upload
from pnp.runs.config import compose as config_of
from pnp.runs.config import plain
from pnp.runs.parts import parts

FACTS = {
    "network": "teacher",
    "training": {
        "data": "shapes", "choices": {}, "started_from": "random weights", "alarms": [],
        "protocol": None, "steps": 1, "batch_size": 2, "seed": 0, "checkpoint": "last.ckpt",
        "commit": None, "machine": None, "torch": None, "exported_by": "x", "splits": {},
    },
}  # fmt: skip


def exported(*overrides):
    return export(config_of("export", overrides))


@pytest.fixture
def run(compose, tmp_path_factory):
    """A tiny finished run, trained once for all tests of this file; do not write into it."""
    folder = tmp_path_factory.getbasetemp() / "run-to-export"
    if not (folder / "metrics.json").exists():
        train(compose(f"run_dir={folder}", *FULL))
    return folder


def untrained(tmp_path, channels=3, size=32, onnx=False, **options):
    """An export of a network as it is built, and that network."""
    options = {"in_channels": channels, "image_size": size, **options}
    net = Encoder(backbone(**options), channels=channels, size=size, mean=[0.4], std=[0.3]).eval()
    out = tmp_path / "export"
    text = card.write(net, options, FACTS, {}, {})
    save(net, out, options, FACTS, text, onnx=onnx)
    return out, net


def tiny(tmp_path, **more):
    return untrained(tmp_path, name="small_cnn", width=4, depth=2, pool=2, **more)


def images(n=5, channels=3, size=32):
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_loaded_features_are_the_ones_the_run_was_judged_on(compose, run, tmp_path, network):
    net = pnp.load(exported(f"run={run}", f"network={network}", f"out={tmp_path / 'out'}"))
    data, module, _ = parts(plain(compose(f"run_dir={run}")))
    test = data.splits["test"]
    pixels = test.batch(torch.arange(len(test)))
    features = net(pixels)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    chosen = module.teacher.network if network == "teacher" else module.student
    with torch.no_grad():
        own = chosen.eval().backbone(module.views.plain(pixels))
    torch.testing.assert_close(features, own, rtol=0, atol=1e-6)
    # And the features that the evaluation itself kept: of exactly one of the judged networks.
    kept = [torch.from_numpy(np.load(f)) for f in (run / "features").glob("test-*-0.npy")]
    same = [k.shape == features.shape and bool((k - features).abs().max() < 1e-6) for k in kept]
    assert len(kept) == 3
    assert sum(same) == 1


def test_loading_imports_neither_lightning_nor_hydra_nor_wandb(tmp_path):
    out, net = tiny(tmp_path)
    pixels = images()
    np.save(tmp_path / "images.npy", pixels.numpy())
    heavy = ("lightning", "hydra", "omegaconf", "wandb", "lightly", "matplotlib", "sklearn", "timm")
    script = f"""
import sys
import pnp
assert "torch" not in sys.modules
net = pnp.load({str(out)!r})
import numpy, torch
features = net(torch.from_numpy(numpy.load("images.npy")))
numpy.save("features.npy", features.numpy())
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    found = torch.from_numpy(np.load(tmp_path / "features.npy"))
    torch.testing.assert_close(found, net(pixels).detach(), rtol=0, atol=1e-6)


def test_bytes_and_floats_give_the_same_features_and_stay_as_they_were(tmp_path):
    out, _ = tiny(tmp_path)
    net, pixels = pnp.load(out), images()
    floats = pixels / 255
    before = floats.clone()
    torch.testing.assert_close(net(floats), net(pixels), rtol=0, atol=0)
    assert torch.equal(floats, before)


def test_the_network_comes_frozen_in_evaluation_mode_and_casts_as_a_whole(tmp_path):
    out, _ = tiny(tmp_path)
    net = pnp.load(out)
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    assert net(images()).shape == (5, net.dim)
    assert set(load_file(out / "model.safetensors")) == set(net.backbone.state_dict())
    exact = net(images(2))
    low = pnp.load(out).bfloat16()(images(2))
    assert low.dtype == torch.float32
    assert exact.shape == low.shape


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(2, 1), r"\(2, 1, 32, 32\); expected \(N, 3, 32, 32\)"),
        (images(2, 3, 28), r"resize\(images, \[32, 32\]"),
        (images(1)[0], r"images\[None\]"),
        (images(2).movedim(1, -1), "channels come last"),
        (images(2).long(), r"torch\.int64"),
        (images(2).float(), r"range from 0 to 255"),
        (images(2) / 127.5 - 1, "not normalised"),
        (torch.full((2, 3, 32, 32), torch.nan), "nan"),
        (images(2).to("meta"), "are on meta"),
    ],
)
def test_images_that_would_give_wrong_numbers_are_refused(tmp_path, given, message):
    net = pnp.load(tiny(tmp_path)[0])
    with pytest.raises(UserError, match=message):
        net(given)


def test_the_card_holds_the_measured_numbers_and_how_they_came_about(run, tmp_path):
    out = exported(f"run={run}", f"out={tmp_path / 'out'}", "license=cc-by-4.0")
    text = (out / "README.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    (row,) = (line for line in text.splitlines() if "(this network)" in line)
    main = json.loads((run / "run.json").read_text())["main"]["network"]
    assert row.startswith(f"| **{main}")
    for key in (f"test/linear/{main}", f"test/knn/{main}", f"band/lobed/{main}/width"):
        ends = metrics[f"{key}/ci_low"], metrics[f"{key}/ci_high"]
        assert f"{metrics[key]:.4f} [{ends[0]:.4f}, {ends[1]:.4f}]" in row
    facts = json.loads((run / "run.json").read_text())
    for said in (facts["protocol"], facts["splits"]["test"]["digest"], "Steps: 12 ", "Seed: 0"):
        assert said in text
    assert facts["commit"] is None or facts["commit"] in text
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1  # one readable as the other
    assert str(run) not in text + (out / "config.json").read_text()


def test_a_checkpoint_is_exported_without_a_table_it_was_not_measured_for(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    out = exported(f"ckpt={copy / 'checkpoints' / 'best.ckpt'}")
    assert out == copy / "checkpoints" / "best_export"
    assert "Nothing was measured for these weights" in (out / "README.md").read_text()
    assert pnp.load(out)(images()).isfinite().all()


def test_a_run_without_a_teacher_gives_its_student(compose, tmp_path):
    folder = tmp_path / "run"
    train(compose("++method.teacher=stop_gradient", "trainer.max_steps=1"))
    out = exported(f"run={folder}")
    assert out == folder / "export"
    assert json.loads((out / "config.json").read_text())["network"] == "student"
    with pytest.raises(UserError, match="network=teacher is unknown; choose from student"):
        exported(f"run={folder}", "network=teacher")


def snippet(out, number):
    """A code block of the card, for this folder."""
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    return blocks[number].replace("PATH", str(out))


def test_the_three_lines_of_the_card_run(tmp_path):
    out, net = tiny(tmp_path)
    names = {"images": images()}
    exec(snippet(out, 0), names)
    assert torch.equal(names["features"], net(names["images"]).detach())


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 72), (1, 72)])
def test_the_card_loads_a_resnet_with_torchvision_alone(tmp_path, channels, size):
    out, net = untrained(tmp_path, channels, size, name="resnet18", stem=stem_of(size))
    names = {"images": images(2, channels, size)}
    code = snippet(out, 1)
    assert "pnp" not in code.replace(str(out), "")
    exec(code, names)
    torch.testing.assert_close(names["features"], net(names["images"]), rtol=1e-6, atol=1e-6)


def stem_of(size):
    return "small" if size <= 64 else "large"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_timm_alone_builds_and_loads_its_architectures(tmp_path, name):
    out, net = untrained(tmp_path, 1, 48, name=f"timm:{name}")
    pixels = images(2, 1, 48)
    names = {}
    exec(snippet(out, 1), names)
    theirs, cfg = names["net"], names["net"].pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    found = theirs((pixels / 255 - mean) / std)
    torch.testing.assert_close(found, net(pixels), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(pnp.load(out)(pixels), net(pixels), rtol=1e-6, atol=1e-6)


def test_onnxruntime_computes_the_same_features_for_any_batch(tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    out, net = tiny(tmp_path, onnx=True)
    session = runtime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 7):
        pixels = torch.rand(n, 3, 32, 32)
        (found,) = session.run(None, {"images": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), net(pixels), rtol=0, atol=1e-4)


def test_weights_that_share_memory_are_written_apart(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Conv2d(3, 3, 1)
            self.b = torch.nn.Conv2d(3, 3, 1)
            self.b.weight = self.a.weight
            self.dim = 3

    net = Encoder(Tied(), channels=3, size=8, mean=[0.0], std=[1.0])
    save(net, tmp_path / "out", {"name": "tied"}, {}, "")
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(state["a.weight"], state["b.weight"])


def test_an_older_export_is_replaced_and_nothing_else_is(run, tmp_path):
    out = tmp_path / "out"
    exported(f"run={run}", f"out={out}", "network=student")
    exported(f"run={run}", f"out={out}", "network=teacher")
    assert json.loads((out / "config.json").read_text())["network"] == "teacher"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not part of an export \(notes\.txt\)"):
        exported(f"run={run}", f"out={out}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architecture": "theirs"}')
    with pytest.raises(UserError, match="not written by pnp-export"):
        exported(f"run={run}", f"out={other}")
    with pytest.raises(UserError, match="is a file"):
        exported(f"run={run}", f"out={out / 'notes.txt'}")


def test_an_export_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    import safetensors.torch

    out, net = tiny(tmp_path)
    before = net(images(2))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        tiny(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["export"]
    assert pnp.load(out)(images(2)).shape == before.shape


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"\x80\x04", "missing, damaged"),
        ("model.safetensors", None, "missing, damaged"),
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"{}", "not written by pnp-export"),
        ("config.json", b'{"format": "pnp-export", "format_version": 99}', "update pnp-ssl"),
        ("config.json", b'{"format": "pnp-export", "format_version": 1}', "damaged.*input"),
    ],
)
def test_a_damaged_export_is_a_message(tmp_path, file, content, message):
    out, _ = tiny(tmp_path)
    (out / file).unlink() if content is None else (out / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        pnp.load(out)


def test_weights_of_another_architecture_are_refused(tmp_path):
    out, _ = tiny(tmp_path)
    config = json.loads((out / "config.json").read_text())
    config["backbone"]["width"] = 8
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="of another network"):
        pnp.load(out)


def test_a_run_directory_is_not_yet_an_export(run, tmp_path):
    with pytest.raises(UserError, match=f"pnp-export run={run}"):
        pnp.load(run)
    with pytest.raises(UserError, match="hub:USER/NAME"):
        pnp.load(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "exactly one of run=DIR, ckpt=FILE, decider=DIR; got none"),
        (["run=a", "ckpt=b"], "got run and ckpt"),
        (["run=/nowhere"], "found no checkpoint at /nowhere"),
        (["run=RUN", "network=projector"], "is unknown; choose from student, teacher"),
        (["run=RUN", "hub=shapes"], "expected USER/NAME"),
        (["run=RUN", "out=RUN"], "not part of an export"),
    ],
)
def test_what_cannot_be_exported_is_a_message(run, tmp_path, overrides, message):
    given = [override.replace("RUN", str(run)) for override in overrides]
    out = [] if any(g.startswith("out=") for g in given) else [f"out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=message):
        exported(*given, *out)
    assert not (tmp_path / "out").exists()


def test_other_images_than_the_runs_are_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    file = copy / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["splits"]["train"] |= {"digest": "0" * 16, "content": "0" * 16}
    torch.save(checkpoint, file)
    with pytest.raises(UserError, match=r"not those that .* was trained on"):
        exported(f"run={copy}")


def test_the_command_line_writes_and_says_how_to_load(run, tmp_path):
    command = [sys.executable, "-m", "pnp.cli.export", f"run={run}"]
    done = subprocess.run(
        [*command, "out=here"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert 'net = pnp.load("here")' in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["here"]
    done = subprocess.run(command[:-1], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: give exactly one of run=DIR, ckpt=FILE")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as one commit of small files needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub = self.server
        hub.requests.append((self.path, self.headers.get("Authorization"), body))
        if hub.refuse:
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self.answer(200, {"url": f"{hub.address}/ada/shapes"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in names]
            return self.answer(200, {"files": modes})
        commit = {"commitUrl": f"{hub.address}/ada/shapes/commit/1", "commitOid": "1" * 40}
        return self.answer(200, {**commit, "success": True})

    def do_GET(self):
        self.answer(200, {"id": "ada/shapes", "sha": "0" * 40, "siblings": []})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the Hugging Face Hub on this machine."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.refuse = [], False
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_upload_is_one_commit_of_the_folder_with_the_token_of_the_environment(hub, tmp_path):
    import base64

    out, _ = tiny(tmp_path)
    assert upload(out, "ada/shapes", private=True) == f"{hub.address}/ada/shapes"
    assert {token for path, token, _ in hub.requests if "validate" not in path} == {
        "Bearer hf_secret"
    }
    (created,) = (json.loads(body) for path, _, body in hub.requests if "create" in path)
    assert created["name"] == "shapes"
    assert created.get("private") is True or created.get("visibility") == "private"
    (commit,) = (body for path, _, body in hub.requests if "/commit/" in path)
    entries = [json.loads(line) for line in commit.splitlines()]
    sent = {
        entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
        for entry in entries
        if entry["key"] == "file"
    }
    assert sent == {file.name: file.read_bytes() for file in out.iterdir()}
    assert b"hf_secret" not in b"".join(sent.values())


def test_a_refused_upload_keeps_the_folder_and_says_what_to_check(hub, tmp_path):
    hub.refuse = True
    out, _ = tiny(tmp_path)
    with pytest.raises(UserError, match="HF_TOKEN") as caught:
        upload(out, "ada/shapes", private=True)
    assert "hf_secret" not in str(caught.value)
    assert pnp.load(out).dim > 0


def test_a_name_on_the_hub_loads_like_a_folder(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    out, net = tiny(tmp_path)
    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(out)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert pnp.load("hub:ada/shapes").dim == net.dim
    assert asked == [("ada/shapes", ["config.json", "model.safetensors"])]
