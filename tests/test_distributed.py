"""Any number of processes equals one on the same global batch, proven by gradients."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import normalize

from pnp.distributed import average_gradients, gather, rank, world_size
from pnp.objectives import PNP

IMAGES = 12
# How the images fall on the ranks: evenly, and not.
SHARES = {1: ([12],), 2: ([6, 6], [4, 8]), 3: ([4, 4, 4], [2, 7, 3]), 4: ([3] * 4, [2, 5, 1, 4])}
OBJECTIVES = {
    "all terms, hinge": {},
    "softplus": {"kernel": "softplus"},
    "gaussian": {"kernel": "gaussian"},
    "absolute": {"scale": "absolute"},
    "queue": {"queue": 20},
    "alignment": {"weights": {"alignment": 1}},
    "variance": {"weights": {"variance": 1}},
    "covariance": {"weights": {"covariance": 1}},
    "repulsion": {"weights": {"repulsion": 1}},
}


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 6)).double()


def images():
    draws = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, IMAGES, 5, dtype=torch.float64, generator=draws)


def steps(net, options, mine):
    """Losses and gradients of two steps on this rank's images: the second one meets the queue."""
    objective = PNP(**{"margin": -0.5, **options})
    found = []
    for batch in images():
        net.zero_grad()
        z = normalize(net(batch[:, mine]), dim=-1)
        teacher = normalize(batch[:2, mine] @ torch.ones(5, 6).double().tril(), dim=-1)
        loss = objective(z, teacher)["loss"]
        loss.backward()
        average_gradients(net)
        found.append((loss.detach(), [p.grad.clone() for p in net.parameters()]))
    return found


def worker(index, world, folder):
    torch.set_num_threads(1)
    # A file, not a port: another process can take a free port before we do.
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=index, world_size=world)
    assert (rank(), world_size()) == (index, world)
    found = {}
    for number, share in enumerate(SHARES[world]):
        start = sum(share[:index])
        mine = slice(start, start + share[index])
        for name, options in OBJECTIVES.items():
            found[f"{name} {number}"] = steps(network(), options, mine)
    z = torch.full((2, index + 1), float(index))
    assert gather(z, dim=1)[0].tolist() == [float(i) for i in range(world) for _ in range(i + 1)]
    # DistributedDataParallel's own averaging, once
    net = nn.parallel.DistributedDataParallel(network())
    start = sum(SHARES[world][1][:index])
    batch = images()[0][:, start : start + SHARES[world][1][index]]
    z = normalize(net(batch), dim=-1)
    PNP(margin=-0.5)(z, z.detach())["loss"].backward()
    found["ddp"] = [p.grad for p in net.parameters()]
    torch.save(found, f"{folder}/{index}.pt")
    dist.barrier()  # nobody leaves while the other still talks
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_processes_give_the_loss_and_gradient_of_one_on_the_global_batch(tmp_path, world):
    mp.spawn(worker, (world, str(tmp_path)), nprocs=world)
    ranks = [torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in range(world)]
    for name, options in OBJECTIVES.items():
        expected = steps(network(), options, slice(None))
        for number in range(2):
            for step in range(2):
                runs = [found[f"{name} {number}"][step] for found in ranks]
                loss, gradients = expected[step]
                mean = torch.stack([run[0] for run in runs]).mean()
                torch.testing.assert_close(mean, loss, rtol=0, atol=1e-12)
                for run in runs:
                    for got, gradient in zip(run[1], gradients, strict=True):
                        torch.testing.assert_close(got, gradient, rtol=0, atol=1e-12)
    net = network()
    z = normalize(net(images()[0]), dim=-1)
    PNP(margin=-0.5)(z, z.detach())["loss"].backward()
    for found in ranks:
        for got, parameter in zip(found["ddp"], net.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad, rtol=0, atol=1e-12)
