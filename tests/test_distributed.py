"""Two processes equal one on the same global batch, proven by gradients."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import normalize

from pnp.distributed import gather, rank, world_size
from pnp.objectives import PNP

WEIGHTS = {"alignment": 1, "variance": 1, "covariance": 0.04, "repulsion": 1}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 6)).double()


def step(net: nn.Module, images: torch.Tensor, kernel: str) -> float:
    """Loss and gradients of one step on `images` (V, N, 5)."""
    z = normalize(net(images), dim=-1)
    teacher = normalize(images @ torch.ones(5, 6, dtype=torch.float64).tril(), dim=-1)
    loss = PNP(WEIGHTS, kernel=kernel, margin=-0.5)(z, teacher)["loss"]
    loss.backward()
    return float(loss.detach())


def images() -> torch.Tensor:
    return torch.randn(2, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def worker(index: int, kernel: str, folder: str) -> None:
    torch.set_num_threads(1)
    # A file, not a port: another process can take a free port before we do.
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=index, world_size=2)
    assert (rank(), world_size()) == (index, 2)
    net = nn.parallel.DistributedDataParallel(network())
    loss = step(net, images()[:, 6 * index : 6 * index + 6], kernel)
    mean = torch.tensor(loss)
    dist.all_reduce(mean)
    grads = [p.grad for p in net.parameters()]
    torch.save((float(mean) / 2, grads), f"{folder}/{index}.pt")
    dist.barrier()  # nobody leaves while the other still talks
    dist.destroy_process_group()


@pytest.mark.parametrize("kernel", ["hinge", "gaussian"])
def test_two_processes_give_the_loss_and_gradient_of_one_on_the_global_batch(tmp_path, kernel):
    mp.spawn(worker, (kernel, str(tmp_path)), nprocs=2)
    net = network()
    expected = step(net, images(), kernel)
    for index in range(2):
        loss, grads = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        assert loss == pytest.approx(expected, abs=1e-6)  # the mean travelled in float32
        for got, parameter in zip(grads, net.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad, rtol=0, atol=1e-12)


def test_one_process_gathers_its_own_tensor():
    z = torch.randn(2, 3)
    assert gather(z) is z
