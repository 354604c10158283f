"""Two or more processes for a test, forked from one that has imported what they need."""

import multiprocessing

import torch.multiprocessing as mp

NEEDED = ("lightly.loss", "torch.nn.parallel", "pnp.callbacks.monitor", "pnp.rivals")


def on_ranks(worker, *args, world=2):
    """Call `worker(rank, *args)` in `world` processes; what fails there fails here."""
    multiprocessing.set_forkserver_preload(list(NEEDED))
    mp.start_processes(worker, args, nprocs=world, start_method="forkserver")
