"""Trainer keys, backbones and surroundings: it works, or one message says what to do, in time."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pnp.backbones import backbone
from pnp.cli.evaluate import evaluate
from pnp.errors import UserError
from pnp.evaluation.gaps import Gaps
from pnp.runs import directory, launch, parts, processes
from pnp.runs.hints import hints, odd_option


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.logger=false"], r"set by pnp-train itself: use logger=csv"),
        (["+trainer.callbacks=[]"], "set by pnp-train itself"),
        (["+trainer.log_every_n_steps=5"], "use method.log_every=10"),
        (["+trainer.default_root_dir=x"], "run_dir=PATH"),
        (["+trainer.enable_checkpointing=false"], "~callbacks.checkpoints"),
        (["trainer.precision=bf16-true"], "Use bf16-mixed or 32-true"),
        (["trainer.precision=64-true"], "Use bf16-mixed or 32-true"),
        (["trainer.max_steps=0"], "trainer.max_steps=0 trains nothing"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0 trains nothing"),
        (["trainer.devices=-1"], r"trainer.devices=-1: give a whole number"),
        (["trainer.devices=[0]"], r"trainer.devices=\[0\]: give a whole number"),
    ],
)
def test_what_a_trainer_cannot_be_given_is_said_before_it_is_built(
    compose, tmp_path, overrides, message
):
    config = parts.upgrade(launch.OmegaConf.to_container(compose(*overrides), resolve=True))
    data = SimpleNamespace(global_batch=None, batch_size=16, pretrain=range(64))
    with pytest.raises(UserError, match=message):
        parts.build_trainer(config, tmp_path, data)


def test_the_advice_on_trainer_keys_works(compose, tmp_path):
    advice = (
        "logger=csv", "method.log_every=10", "~callbacks.checkpoints", "trainer.precision=32-true",
        "callbacks.monitor.every_n_epochs=2", "+trainer.enable_progress_bar=false",
    )  # fmt: skip
    config = launch.OmegaConf.to_container(compose(*advice), resolve=True)
    data = SimpleNamespace(global_batch=None, batch_size=16, pretrain=range(64))
    assert parts.build_trainer(config, tmp_path, data).checkpoint_callbacks == []


def test_a_backbone_of_timm_knows_its_width_or_is_refused_with_a_size_that_works():
    net = backbone("timm:mobilenetv3_small_050", image_size=32)
    assert net.training
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, net.dim)
    odd = (("inception_v3", 32), ("crossvit_tiny_240", 64), ("maxvit_pico_rw_256", 28))
    for name, size in odd:
        with pytest.raises(UserError, match=rf"cannot take {size} px images.*data.size="):
            backbone(f"timm:{name}", image_size=size)
    for name in ("test_vit", "test_convnext", "test_byobnet"):
        net = backbone(f"timm:{name}", image_size=32)
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, net.dim)


def test_weights_that_cannot_be_had_are_no_matter_of_size(monkeypatch):
    import timm

    make = timm.create_model

    def offline(name, *, pretrained, **options):
        if pretrained:
            raise OSError("the Hub cannot be reached")
        return make(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no weights of timm:test_vit.*Hub.*pretrained=false"):
        backbone("timm:test_vit", image_size=32, pretrained=True)
    with pytest.raises(UserError, match=r"cannot take 32 px images.*data.size="):
        backbone("timm:inception_v3", image_size=32, pretrained=True)


FAMILIES = (
    "cait_xxs24_224", "coat_tiny", "convnext_atto", "crossvit_tiny_240", "deit_tiny_patch16_224",
    "edgenext_xx_small", "efficientvit_b0", "eva02_tiny_patch14_224", "fasternet_t0", "gcvit_tiny",
    "ghostnet_050", "hiera_tiny_224", "lcnet_050", "maxvit_pico_rw_256", "mobilevit_xxs",
    "mvitv2_tiny", "nest_tiny", "nf_regnet_b0", "pit_xs_224", "pvt_v2_b0", "regnetx_004_tv",
    "repghostnet_050", "starnet_s050", "swinv2_cr_tiny_224", "xcit_nano_12_p8_224",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_timm_give_features_or_name_a_size_at_which_they_do(name):
    for channels, size in ((1, 28), (3, 32), (3, 64)):
        try:
            net = backbone(f"timm:{name}", in_channels=channels, image_size=size)
        except UserError as error:
            size = int(re.search(r"Use data.size=(\d+)", str(error))[1])
            net = backbone(f"timm:{name}", in_channels=channels, image_size=size)
        assert net(torch.zeros(2, channels, size, size)).shape == (2, net.dim)


def test_a_shell_of_salloc_is_one_process_and_a_batch_script_is_told_what_to_type(monkeypatch):
    for key in [key for key in os.environ if key.startswith("SLURM")]:
        monkeypatch.delenv(key)
    trainer = {"devices": 1, "num_nodes": 1}
    for key, value in {"JOB_ID": "1", "NTASKS": "8", "JOB_NAME": "mywork"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    processes.check(trainer, False)
    from lightning.fabric.plugins.environments import SLURMEnvironment

    assert not SLURMEnvironment.detect()
    monkeypatch.setenv("SLURM_JOB_NAME", "jupyter")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(UserError, match=r"env -u SLURM_NTASKS .*srun pnp-train trainer=ddp"):
        processes.check(trainer, False)
    monkeypatch.delenv("SLURM_NTASKS")  # the first advice
    processes.check(trainer, False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")  # the second
    processes.check({"devices": 8, "num_nodes": 1}, False)


def test_wandbs_own_variables_win(compose, tmp_path, monkeypatch):
    config = launch.OmegaConf.to_container(compose("logger=wandb"), resolve=True)
    kinds = lambda: [logger.name for logger in parts.loggers(config, tmp_path)]  # noqa: E731
    assert kinds() == ["csv", "wandb"]
    for key, value in (("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")):
        with monkeypatch.context() as m:
            m.setenv(key, value)
            assert kinds() == ["csv"]
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert parts.loggers(config, tmp_path)[1].mode == "offline"
    monkeypatch.delenv("WANDB_MODE")
    config["wandb"]["mode"] = "disabled"
    assert kinds() == ["csv"]


def run(*words, cwd, **env):
    command = [sys.executable, "-m", "pnp.cli.train", *words]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def test_a_folder_that_cannot_be_written_and_an_unknown_key_end_in_one_message(tmp_path):
    (tmp_path / "runs").symlink_to("/nonexistent/scratch")
    done = run("trainer.max_steps=1", cwd=tmp_path)
    assert (done.returncode, "hydra.run.dir=PATH" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    done = run("data=image_folder", "data.rot=x", "run_dir=here", cwd=tmp_path)
    assert "data.rot is unknown: did you mean data.root?" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.root=x"], "here, it goes with data=cifar10 or"),
        (["lr=1"], "did you mean optim.lr?"),
        (["data.batch_sizes=8"], "did you mean data.batch_size?"),
        (["optim.learning_rate=1"], "optim has name, lr"),
        (["epochs=3"], "trainer.max_epochs"),
        (["colour=3"], "--help lists the keys"),
    ],
)
def test_a_hint_names_what_can_be_meant_or_what_there_is(words, sentence):
    (said,) = hints("train", words)
    assert sentence in said


def test_hints_of_an_evaluation_know_that_a_run_brings_its_own_data_and_network(monkeypatch):
    for word in ("data.root=x", "data=cifar10", "model.name=timm:resnet18"):
        (said,) = hints("evaluate", ["run=runs/RUN", word])
        assert f"{word} has no effect beside run=…" in said
    (said,) = hints("evaluate", ["backbone=random", "model.name=timm:resnet18"])
    assert "backbone=random model='{name: timm:resnet18}'" in said
    monkeypatch.setattr(directory, "overrides", lambda: ["run=x", "data=cifar10"])
    with pytest.raises(UserError, match="data=cifar10 has no effect"):
        evaluate(launch.OmegaConf.create(launch.compose("evaluate", ["run=x"])))


def test_words_that_hydra_would_answer_with_a_traceback_are_refused():
    assert "model=3: expected the name of an option: resnet18" in str(odd_option(["model=3"]))
    assert "expected KEY=VALUE" in str(odd_option(["seed=0", "=3"]))
    taken = ["data=cifar10", "experiment=null", "seed=0,1", "model='{name: resnet18}'", "+x.y=[1]"]
    assert odd_option([*taken, "objective=full,align_only", "--help", "a b"]) is None


def test_hints_follow_unknown_keys_and_odd_values_only():
    said = hints("train", ["data=image_folder", "data.root=p", "data.on_corupt=skip"])
    assert said == ["data.on_corupt is unknown: did you mean data.on_corrupt?"]
    assert "'data.root=\"a=b\"'" in hints("train", ["data=image_folder", "data.root=a=b"])[0]
    config = launch.compose("train", ["data=image_folder", 'data.root="a=b"'])
    assert config["data"]["root"] == "a=b"


def test_a_config_is_composed_inside_a_program_that_hydra_runs_and_leaves_it_alone():
    from hydra.core.global_hydra import GlobalHydra

    program = GlobalHydra.instance().hydra = launch.OmegaConf.create({"of": "the user"})
    try:
        assert launch.compose("train", ["seed=3"])["seed"] == 3
        assert GlobalHydra.instance().hydra is program
    finally:
        GlobalHydra.instance().clear()


def test_no_logger_means_csv(capsys):
    for word in ("logger=null", "logger=false"):
        assert launch.compose("train", [word])["wandb"] is None
    assert launch.compose("train", ["wandb=false"])["wandb"] is False


def test_a_run_may_be_made_longer_and_not_shorter():
    def changed(old, new):
        a, b = ({"trainer": {"max_epochs": v, "max_steps": -1}, "seed": 0} for v in (old, new))
        return directory.differences(a, b)

    assert changed(3, 5) == changed("auto", 5) == changed(3, 3) == []
    assert changed(5, 3)
    assert changed(3, "auto")


def test_a_full_disk_is_a_message_where_a_mapped_file_would_end_the_process(tmp_path, monkeypatch):
    from PIL import Image

    from pnp.data import DataModule

    def full(*_):
        raise OSError(28, "No space left on device")

    for i in range(12):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"No space left on device.*data.cache=false"):
        DataModule("image_folder", root=str(tmp_path), size=8, cache=True).setup("fit")
    said = launch._message(RuntimeError("PytorchStreamWriter failed writing file data/1"))
    assert "is the disk full" in str(said)


def test_a_full_disk_is_one_message_whoever_wrote():
    from safetensors import SafetensorError

    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = OSError(28, "No space left on device")
    for error in (
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        OSError("16 requested and 0 written"),
        wrapped,
    ):
        assert "the disk is full" in str(launch._message(error))
        with pytest.raises(type(error)):  # no gap: nothing else can be written either
            Gaps().attempt("the report", lambda error=error: (_ for _ in ()).throw(error))
    assert launch._message(OSError("the Hub is not there")) == "the Hub is not there"
    assert launch._message(OSError(30, "Read-only file system")) == "Read-only file system"
    died = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")
    assert "data.num_workers=0" in str(launch._message(died))
    assert "full" not in str(launch._message(OSError("64 images requested and 40 found")))
