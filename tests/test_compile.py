"""Compiled parts compute what the plain ones do."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pnp.backbones import backbone
from pnp.compiling import COMPILED, check_cuda_graphs
from pnp.data import Batch
from pnp.errors import UserError
from pnp.method import SelfSupervised
from pnp.networks import projector
from pnp.objectives import PNP
from pnp.rivals import LeJEPA
from pnp.views import Views


def method(compile, *, cuda_graphs=False, objective=None, **options):
    torch.manual_seed(3)
    network = backbone("small_cnn", in_channels=3, width=4, depth=2, pool=2)
    made = SelfSupervised(
        network,
        projector(network.dim, hidden=16, out=8, layers=2),
        objective or PNP({"alignment": 1.0, "variance": 1.0, "covariance": 0.04, "repulsion": 1.0}),
        Views(12, 2, **options),
        compile=compile,
        cuda_graphs=cuda_graphs,
        log_every=1000,
    )
    made.trainer = SimpleNamespace(
        global_step=1, current_epoch=0, world_size=1, accumulate_grad_batches=1
    )
    return made


def gradients(made):
    images = torch.randint(0, 256, (32, 3, 12, 12), dtype=torch.uint8)
    result = made.training_step(Batch(images), 0)
    made.backward(result["loss"])
    return result["loss"].detach(), {n: p.grad for n, p in made.student.named_parameters()}


@pytest.mark.parametrize("value", ["encoder", ["teacher"], ["views", "objektive"]])
def test_parts_that_do_not_exist_are_refused(value):
    with pytest.raises(UserError, match=r"method\.compile=.*encoder, views, objective"):
        method(value)


def test_cuda_graphs_want_a_compiled_encoder_and_a_gpu_that_takes_the_batch_whole():
    with pytest.raises(UserError, match=r"method\.compile=true"):
        method(["views"], cuda_graphs=True)
    made = method(["encoder"], cuda_graphs=True)
    with pytest.raises(UserError, match=r"cuda_graphs=true on cpu with 1 process.*one GPU"):
        made.on_fit_start()
    gpu = torch.device("cuda")
    check_cuda_graphs(gpu, 1, whole=True)
    with pytest.raises(UserError, match="2 process"):
        check_cuda_graphs(gpu, 2, whole=True)
    with pytest.raises(UserError, match="batches in pieces"):
        check_cuda_graphs(gpu, 1, whole=False)


def compare_steps(part):
    from torch._inductor import config as inductor

    own = LeJEPA() if part == "lejepa" else None
    inductor.fallback_random = own is not None  # else a compiled objective draws other slices
    torch.manual_seed(0)
    loss, expected = gradients(method(False, objective=own))
    torch.manual_seed(0)
    compiled = "objective" if own else part.removesuffix("_graphs")
    made = method([compiled], cuda_graphs=part.endswith("_graphs"), objective=own)
    found, got = gradients(made)
    torch.testing.assert_close(found, loss, rtol=1e-4, atol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-4)
    assert made.student.state_dict().keys() == method(False).student.state_dict().keys()


def compare_views():
    images = torch.randint(0, 256, (16, 3, 12, 12), dtype=torch.uint8)
    plain, compiled = (
        Views(12, 2, local=1, blur=0.5, blur_kernel=3, solarize=0.5) for _ in range(2)
    )
    compiled.compile()
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    for make in ("__call__", "local_views"):
        expected, found = getattr(plain, make)(images, one), getattr(compiled, make)(images, two)
        # A value at solarize's threshold may fall on either side after rounding.
        assert ((found - expected).abs() > 1e-4).float().mean() < 1e-3
    assert torch.equal(one.get_state(), two.get_state())


@pytest.mark.slow
@pytest.mark.parametrize("what", [*COMPILED, "lejepa", "encoder_graphs", "draws"])
def test_a_compiled_part_gives_the_loss_and_gradient_or_the_views_of_the_plain_one(what):
    # In a process of its own: the compiler cannot read functions that shape checks are wrapped in.
    done = subprocess.run(
        [sys.executable, __file__, what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    compare_views() if sys.argv[1] == "draws" else compare_steps(sys.argv[1])
