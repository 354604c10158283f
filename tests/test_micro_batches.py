"""A batch taken in pieces has the gradient of the batch taken whole."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from ranks import on_ranks
from torch import nn

from pnp.data import Batch
from pnp.distributed import gloo_group
from pnp.errors import UserError
from pnp.method import SelfSupervised
from pnp.objectives import PNP
from pnp.views import Views

WEIGHTS = {"alignment": 1.0, "variance": 1.0, "covariance": 0.04, "repulsion": 1.0}


class TwoShades(Views):
    """Two views of an image that depend on nothing but the image."""

    local = 0

    def __init__(self):
        super().__init__(size=2, mean=[0.5] * 3, std=[0.5] * 3)

    def __call__(self, images, draws):
        x = images.double() / 255
        return torch.stack([x, (1.1 * x + 0.1).cos()])


class Noise(TwoShades):
    """Two views with random noise."""

    def __call__(self, images, draws):
        x = images.float() / 255
        return torch.stack([x + torch.randn(x.shape, generator=draws) for _ in range(2)])


def module(micro_batch, *, views=None, layers=(), dtype=torch.float64, **options):
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), *layers)
    head = nn.Linear(6, 6) if options.get("predicts") else None
    method = SelfSupervised(
        backbone,
        nn.Linear(16, 6),
        PNP(WEIGHTS, margin=-0.5),
        views or TwoShades(),
        micro_batch=micro_batch,
        log_every=1000,
        head=head,
        **options,
    ).to(dtype)
    method.trainer = SimpleNamespace(
        global_step=1,
        current_epoch=0,
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
        world_size=1,
        accumulate_grad_batches=1,
    )
    return method


def batch(n=24):
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 3, 2, 2), dtype=torch.uint8, generator=draws)
    return Batch(images)


def step(method, images=None):
    result = method.training_step(images or batch(), 0)
    method.backward(result["loss"])
    method.on_after_backward()
    return result, {name: p.grad for name, p in method.student.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [{}, {"teacher": "stop_gradient", "predicts": True}, {"teacher": "none", "normalize": False}],
    ids=["ema", "predictor", "none"],
)
@pytest.mark.parametrize("micro_batch", [2, 7, 24])
def test_pieces_of_any_size_give_the_loss_and_gradient_of_the_whole(micro_batch, options):
    whole, expected = step(module(None, **options))
    pieces, got = step(module(micro_batch, **options))
    torch.testing.assert_close(pieces["loss"].detach(), whole["loss"].detach(), rtol=0, atol=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=0, atol=1e-10)
    torch.testing.assert_close(pieces["embeddings"], whole["embeddings"], rtol=0, atol=1e-12)


def test_without_a_teacher_the_gradient_goes_through_both_sides():
    def gradient(teacher):
        method = module(None, teacher=teacher)
        method.objective = PNP({"alignment": 1.0})
        return step(method)[1]

    fixed = gradient("stop_gradient")
    for name, both in gradient("none").items():
        torch.testing.assert_close(both, 2 * fixed[name])


def test_both_passes_draw_the_same_views_and_the_same_dropout():
    method = module(8, views=Noise(), layers=[nn.Dropout(0.5)], dtype=torch.float32)
    seen = []
    embed = method.embed_piece
    method.embed_piece = lambda *args, **kw: seen.append(embed(*args, **kw)) or seen[-1]
    step(method)
    first, second = seen[:3], seen[3:]
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one.student, two.student.detach(), rtol=0, atol=0)
    assert not torch.equal(first[0].student, first[1].student)


def test_running_statistics_take_in_every_view_of_every_piece_once():
    method = module(8, layers=[nn.BatchNorm1d(16)])
    norm = method.student.backbone[-1]
    reference = nn.BatchNorm1d(16).double()
    with torch.no_grad():
        for piece in batch().images.split(8):
            for view in TwoShades()(piece, None):
                reference(method.student.backbone[:-1](view))
    step(method)
    assert norm.num_batches_tracked == 6
    torch.testing.assert_close(norm.running_mean, reference.running_mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_var, reference.running_var, rtol=0, atol=1e-12)


def worker(index, folder):
    torch.set_num_threads(1)
    images = batch().images[12 * index : 12 * index + 12]
    with gloo_group(f"{folder}/store", index, 2):
        # 12 images per process: three pieces, and one
        grads = [step(module(size), Batch(images))[1] for size in (4, 12)]
        torch.save(grads, f"{folder}/{index}.pt")


@pytest.mark.slow
def test_two_processes_with_pieces_give_the_gradient_of_one_without(tmp_path):
    on_ranks(worker, str(tmp_path))
    _, expected = step(module(None))
    for index in range(2):
        for got in torch.load(tmp_path / f"{index}.pt", weights_only=True):
            for name, gradient in expected.items():
                torch.testing.assert_close(got[name], gradient, rtol=0, atol=1e-10)


def test_the_command_line_trains_on_pieces_and_the_teacher_moves_once_per_batch(
    compose, monkeypatch
):
    from pnp.cli.train import train
    from pnp.networks import EMATeacher

    moves = []
    update = EMATeacher.update
    monkeypatch.setattr(
        EMATeacher, "update", lambda self, *a: moves.append(a[1]) or update(self, *a)
    )
    train(compose("method.global_batch=32", "trainer.max_epochs=2", "evaluation.test=false"))
    assert moves == [0, 1, 2, 3]  # 64 images, 2 epochs of 2 batches of 32


@pytest.mark.parametrize("global_batch", [24, 8])
def test_a_global_batch_that_is_no_multiple_of_the_micro_batch_is_refused(compose, global_batch):
    from pnp.cli.train import train

    with pytest.raises(UserError, match=rf"method\.global_batch={global_batch} must be a mult"):
        train(compose(f"method.global_batch={global_batch}"))
