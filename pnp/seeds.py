"""Random numbers with an owner: every draw of a step is keyed by (seed, epoch, batch, rank)."""

import numpy as np
import torch


def step_seed(*key: int) -> int:
    """A well-mixed 63-bit seed from a tuple of counters.

    Neighbouring tuples give unrelated streams, which adding the counters up would not.

    >>> step_seed(0, 1, 2, 3) == step_seed(0, 1, 2, 3) != step_seed(0, 1, 3, 2)
    True
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` seeded by `step_seed(*key)`."""
    return torch.Generator(device).manual_seed(step_seed(*key))
