"""Any number of processes equals one on the same global batch, proven by gradients."""

import subprocess
import sys

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn.functional import normalize

from pnp.distributed import (
    all_numbers,
    average_gradients,
    flag,
    gather,
    global_mean,
    gloo_group,
    rank,
    world_size,
)
from pnp.objectives import PNP

# How 12 images fall on the ranks: evenly, and not.
SHARES = {2: ([6, 6], [4, 8]), 3: ([2, 7, 3],), 4: ([2, 5, 1, 4],)}
OBJECTIVES = {
    "hinge": {},
    "softplus": {"kernel": "softplus"},
    "gaussian": {"kernel": "gaussian"},
    "absolute": {"scale": "absolute"},
    "alignment": {"weights": {"alignment": 1}},
    "variance": {"weights": {"variance": 1}},
    "covariance": {"weights": {"covariance": 1}},
    "repulsion": {"weights": {"repulsion": 1}},
    "repulsion softplus": {"weights": {"repulsion": 1}, "kernel": "softplus"},
    "repulsion gaussian": {"weights": {"repulsion": 1}, "kernel": "gaussian"},
    "repulsion logsumexp": {"weights": {"repulsion": 1}, "kernel": "logsumexp"},
    "coding_rate": {"weights": {"coding_rate": 1}},
    "mean, coupled": {"kernel": "logsumexp", "decoupled": False, "target": "mean"},
}
FEW = ("hinge", "gaussian", "mean, coupled")
# More images than dimensions, and fewer: covariance takes the smaller side.
CASES = [(name, dims) for name in OBJECTIVES for dims in (6, 20)]


class Model(nn.Module):
    """A network without BatchNorm and its objective, as DDP wraps them."""

    def __init__(self, dims, options):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, dims)).double()
        self.objective = PNP(**{"margin": -0.5, **options})
        self.dims = dims

    def forward(self, images):
        """The objective's dictionary; the teacher is a fixed map of two of three views."""
        z = normalize(self.net(images), dim=-1)
        teacher = images[:2] @ torch.ones(5, self.dims, dtype=images.dtype).tril()
        return self.objective(z, normalize(teacher, dim=-1))


def step(model, mine, average=None):
    """Terms and gradients of one step on this rank's images."""
    draws = torch.Generator().manual_seed(1)
    batch = torch.randn(3, 12, 5, dtype=torch.float64, generator=draws)
    terms = model(batch[:, mine])
    terms["loss"].backward()
    if average:
        average(model)
    return [*(t.detach() for t in terms.values()), *(p.grad for p in model.parameters())]


def worker(index, world, folder):
    torch.set_num_threads(1)
    with gloo_group(f"{folder}/store", index, world):
        assert (rank(), world_size()) == (index, world)
        z = torch.full((2, index + 1), float(index))
        rows = [float(i) for i in range(world) for _ in range(i + 1)]
        assert gather(z, dim=1)[0].tolist() == rows
        assert all_numbers(index + 3) == [i + 3 for i in range(world)]
        assert not flag.raised(index == 1)  # rides on the next exchange
        all_numbers(0)
        assert flag.raised(False)
        assert flag.raised(index == 1, now=True)
        assert not flag.raised(False)  # nothing was exchanged since: it asks
        results = []
        for share in SHARES[world]:
            start = sum(share[:index])
            mine = slice(start, start + share[index])
            results += [
                step(Model(dims, OBJECTIVES[name]), mine, average_gradients)
                for name, dims in CASES
                if world == 2 or name in FEW
            ]
            ddp = nn.parallel.DistributedDataParallel(Model(6, OBJECTIVES["hinge"]))
            results.append(step(ddp, mine))
        torch.save(results, f"{folder}/{index}.pt")


@pytest.mark.parametrize("world", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_every_rank_has_the_terms_and_gradients_of_one_on_the_global_batch(tmp_path, world):
    on_ranks(worker, world, str(tmp_path), world=world)
    cases = [case for case in CASES if world == 2 or case[0] in FEW]
    expected = [step(Model(d, OBJECTIVES[name]), slice(None)) for name, d in cases]
    expected.append(step(Model(6, OBJECTIVES["hinge"]), slice(None)))
    for index in range(world):
        results = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        for got, one in zip(results, expected * len(SHARES[world]), strict=True):
            for a, b in zip(got, one, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_one_process_is_the_identity():
    z = torch.randn(2, 3)
    assert gather(z) is z
    assert global_mean(z[0, 0], 3).item() == z[0, 0]


LEAVING = """
import atexit, os, sys
from pathlib import Path

import torch
import torch.distributed as dist
from pnp.distributed import leave_at_exit


def threads():
    names = [Path(f"/proc/self/task/{t}/comm").read_text() for t in os.listdir("/proc/self/task")]
    print(sum("gloo" in name for name in names))


atexit.register(threads)  # the first to be registered is the last to run
dist.init_process_group("gloo", store=dist.FileStore(sys.argv[1], 1), rank=0, world_size=1)
dist.all_reduce(torch.ones(3))
if sys.argv[2] == "leave":
    leave_at_exit()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
def test_no_thread_of_gloo_is_left_when_the_interpreter_ends(tmp_path):
    def left(how):
        call = [sys.executable, "-c", LEAVING, str(tmp_path / how), how]
        return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)

    assert left("stay") > 0
    assert left("leave") == 0
