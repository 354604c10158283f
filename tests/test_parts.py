"""Schedules, teacher, backbones, heads and optimizer."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pnp.backbones import backbone
from pnp.errors import UserError
from pnp.networks import EMATeacher, Prototypes, head, predictor, projector
from pnp.optim import Optim, cosine, warmup_cosine
from pnp.seeds import step_seed


def test_the_cosine_is_half_way_at_half_time_and_stays_at_its_end():
    assert cosine(50, 100, 0.9, 1.0) == pytest.approx(0.95)
    assert cosine(250, 100, 0.9, 1.0) == 1.0


def test_warm_up_rises_linearly_and_then_falls_to_the_floor():
    factors = [warmup_cosine(step, 100, 10, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert factors[10] == 1.0
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0.1)


def test_step_seeds_of_neighbouring_keys_do_not_collide():
    keys = {
        step_seed(seed, epoch, b, r)
        for seed in range(3)
        for epoch in range(3)
        for b in range(30)
        for r in range(4)
    }
    assert len(keys) == 3 * 3 * 30 * 4


def test_the_teacher_follows_the_closed_form_of_its_momentum_schedule():
    student = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(student.weight)
    teacher = EMATeacher(student, momentum=0.9)
    expected, total = 0.0, 20
    for step in range(total):
        nn.init.constant_(student.weight, float(step + 1))
        m = 1 - (1 - 0.9) * (1 + math.cos(math.pi * step / total)) / 2
        expected = m * expected + (1 - m) * (step + 1)
        assert teacher.update(student, step, total) == pytest.approx(m)
    assert teacher.network.weight.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("steps", [126, 700, 10_000])
def test_a_warm_up_lets_the_slowest_teacher_forget_its_start_in_a_tenth_of_the_run(steps):
    teacher = EMATeacher(nn.Linear(1, 1), 0.999, warmup=True)
    rates = [teacher.momentum(step, steps) for step in range(steps // 10)]
    assert math.prod(rates) < 1e-5
    assert all(m <= 0.999 + 0.001 * step / steps for step, m in enumerate(rates))
    assert teacher.momentum(steps, steps) == pytest.approx((1 + steps) / (10 + steps))


def test_an_average_for_evaluation_keeps_its_momentum_to_the_end():
    average = EMATeacher(nn.Linear(1, 1), 0.9, end=None)
    assert {round(average.momentum(step, 20), 12) for step in range(21)} == {0.9}


def test_the_teacher_copies_buffers_and_never_trains():
    student = nn.BatchNorm1d(3)
    teacher = EMATeacher(student, 0.99)
    student(torch.randn(8, 3) + 5)
    teacher.update(student, 0, 10)
    torch.testing.assert_close(teacher.network.running_mean, student.running_mean)
    assert teacher.network.num_batches_tracked == 1
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_teacher_momentum_outside_zero_one_is_an_error():
    with pytest.raises(UserError, match=r"method\.momentum=1\.5"):
        EMATeacher(nn.Linear(1, 1), 1.5)


@pytest.mark.parametrize(
    ("name", "channels", "size", "dim"),
    [
        ("small_cnn", 1, 28, 1024),
        ("resnet18", 3, 32, 512),
        ("resnet50", 1, 32, 2048),
        ("resnet18", 3, 96, 512),
        ("timm:test_resnet", 3, 32, 96),
        ("timm:test_vit", 1, 32, 64),
    ],
)
def test_a_backbone_maps_images_to_features_of_its_dim(name, channels, size, dim):
    net = backbone(name, in_channels=channels, image_size=size)
    assert net.dim == dim
    assert net(torch.randn(2, channels, size, size)).shape == (2, dim)


def test_small_images_get_the_small_stem_and_large_ones_the_large():
    small, large = backbone("resnet18", image_size=64), backbone("resnet18", image_size=96)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    assert large.conv1.stride == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, "Did you mean resnet18"),
        ({"name": "timm:vit_smal_patch16_224"}, "vit_small_patch16_224"),
        ({"name": "small_cnn", "image_size": 8}, "too small"),
        ({"name": "resnet18", "image_size": 4}, "too small"),
        ({"name": "resnet18", "stem": "large"}, "stem=small"),
        ({"name": "resnet18", "stem": "tiny"}, "choose from auto, small, large"),
        ({"name": "small_cnn", "depth": 0}, "at least 1"),
        ({"name": "resnet18", "pretrained": True}, "timm"),
    ],
)
def test_a_backbone_that_cannot_be_is_an_error(options, message):
    with pytest.raises(UserError, match=message):
        backbone(**options)


def test_the_projector_has_no_batchnorm_at_its_end():
    mlp = projector(8, hidden=16, out=4, layers=3)
    assert mlp(torch.randn(5, 8)).shape == (5, 4)
    assert isinstance(mlp[-1], nn.Linear)
    assert sum(isinstance(m, nn.BatchNorm1d) for m in mlp) == 2
    with pytest.raises(UserError, match="layers=0"):
        projector(8, layers=0)


def test_a_last_norm_standardises_z_and_has_nothing_to_learn():
    mlp = projector(8, hidden=16, out=4, layers=2, last_norm=True)
    z = mlp(3 * torch.randn(64, 8) + 1)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(4), rtol=0, atol=1e-3)
    assert not list(mlp[-1].parameters())


def test_a_predictor_is_a_bottleneck_back_to_the_dimensions_of_z():
    net = predictor(32)
    assert [m.out_features for m in net if isinstance(m, nn.Linear)] == [8, 32]
    assert net(torch.randn(5, 32)).shape == (5, 32)
    assert predictor(32, hidden=64, out=3)(torch.randn(5, 32)).shape == (5, 3)


def test_prototypes_are_torchs_weight_norm_with_norm_one():
    ours, linear = Prototypes(6, count=9), nn.Linear(6, 9, bias=False)
    linear.weight.data = 3 * torch.randn(9, 6)
    ours.weight.data = linear.weight.data.clone()
    theirs = nn.utils.parametrizations.weight_norm(linear)
    theirs.parametrizations.weight.original0.data.fill_(1.0)
    z = nn.functional.normalize(torch.randn(5, 6), dim=1)
    target = torch.randn(5, 9)
    for net in (ours, theirs):
        (net(z) * target).sum().backward()
    torch.testing.assert_close(ours(z), theirs(z))
    torch.testing.assert_close(ours.weight.grad, theirs.parametrizations.weight.original1.grad)
    assert ours(z).abs().max() <= 1 + 1e-6


def test_prototypes_are_computed_in_float32_under_autocast():
    net, z = Prototypes(6, count=9), torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(z), net.float()(z))
    assert net(z).dtype == torch.float32


def test_a_head_is_built_from_what_the_config_says():
    assert head("prototypes", 8, count=5)(torch.randn(3, 8)).shape == (3, 5)
    assert head(kind="predictor", dim=8, hidden=16)(torch.randn(3, 8)).shape == (3, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "predicter"}, r"method\.head\.kind=predicter is unknown.*mean predictor"),
        ({"kind": "predictor", "hiden": 3}, r"head\.hiden is unknown.*Did you mean hidden"),
        ({"kind": "prototypes", "hidden": 3}, "a prototypes head has count"),
        ({"kind": "prototypes", "count": 1}, "count=1: give a whole number, at least 2"),
        ({"kind": "predictor", "hidden": 0}, r"method\.head\.hidden=0"),
    ],
)
def test_a_head_that_cannot_be_is_an_error(options, message):
    with pytest.raises(UserError, match=message):
        head(dim=8, **options)


def test_vectors_are_not_decayed_and_lr_scales_with_the_global_batch():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optim = Optim(name="sgd", lr=0.1, weight_decay=0.5, warmup_epochs=0)
    optimizer, _ = optim.build(net, global_batch=512, total_steps=10, steps_per_epoch=5)
    decay = {
        p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay == {2: 0.5, 1: 0.0}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "muon"])
def test_every_optimizer_lowers_a_loss_and_ends_at_its_floor(name):
    net = nn.Linear(4, 4)
    optim = Optim(name=name, lr=0.05, weight_decay=0.0, warmup_epochs=1)
    optimizer, schedule = optim.build(net, global_batch=256, total_steps=50, steps_per_epoch=2)
    x = torch.randn(32, 4)
    first = last = None
    for _ in range(50):
        last = (net(x) - x).square().mean()
        first = first if first is not None else last.item()
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
        schedule.step()
    assert last.item() < first
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_lars_moves_all_parameters_at_once_to_the_same_place():
    class Launches(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += not func.is_view
            return func(*args, **(kwargs or {}))

    nets = [nn.Sequential(*(nn.Linear(4, 4) for _ in range(9))) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    states, launches = [], []
    for net, together in zip(nets, (False, True), strict=True):  # True: timm's choice on a GPU
        optim = Optim(name="lars", lr=0.3, weight_decay=1e-2)
        optimizer, _ = optim.build(net, global_batch=256, total_steps=9, steps_per_epoch=3)
        for group in optimizer.param_groups:
            assert group["foreach"] is None
            group["foreach"] = together
        for step in range(3):
            for number, p in enumerate(net.parameters()):
                p.grad = torch.sin(p.detach() * (number + 1) + step)
            with Launches() as seen:
                optimizer.step()
        states.append(optimizer.state_dict()["state"])
        launches.append(seen.count)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(states[0], states[1])
    assert {name for state in states[1].values() for name in state} == {"momentum_buffer"}
    assert launches[1] <= 25 < 100 < launches[0]


def test_a_wrong_optimizer_option_is_an_error():
    for options in ({"name": "adam"}, {"lr": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(UserError, match="optim"):
            Optim(**options)
