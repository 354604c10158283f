"""Defaults that follow from the data in hand: what `auto` means for batch, length, rate, momentum.

Pure functions of the number of images and of optimizer steps. They give the values that were tuned
on the embedded data (702 steps) and on Fashion-MNIST (1,404 steps), and carry them to a hundred
images and to ten thousand steps.
"""

import math

LEAST_STEPS, LEAST_EPOCHS, MOST_EPOCHS = 700, 6, 200


def batch_size(images: int) -> int:
    """Images per step: a power of two from 16 to 256 that leaves at least 8 steps per epoch.

    Sets of fewer than 128 images have fewer steps: below 16 images dispersion says little.

    >>> [batch_size(n) for n in (60_000, 2_048, 364, 120, 20)]
    [256, 256, 32, 16, 10]
    """
    return max(2, min(256, max(16, 1 << int(math.log2(max(1, images // 8)))), images // 2))


def epochs(steps_per_epoch: int) -> int:
    """Passes over the images: 6, or as many as make 700 optimizer steps, but at most 200.

    >>> [epochs(n) for n in (234, 117, 23, 11, 1)]
    [6, 6, 31, 64, 200]
    """
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / max(1, steps_per_epoch))))


def learning_rate(total_steps: int) -> float:
    """Peak rate of AdamW per 256 images: short runs want a higher one.

    >>> [learning_rate(n) for n in (126, 702, 1_404, 10_000)]
    [0.004, 0.004, 0.002, 0.001]
    """
    return min(4e-3, max(1e-3, 4e-3 * 702 / max(1, total_steps)))


def momentum(total_steps: int) -> float:
    """Momentum of the EMA teacher at step 0: it has left its start by a tenth of the run.

    At a constant m the weight of the start after k steps is mᵏ. With m = 1 − 28/T, a tenth of the T
    steps leaves e^−2.8 = 6 % of it. Between .7 and .999.

    >>> [momentum(n) for n in (126, 702, 1_404, 10_000)]
    [0.7771, 0.96, 0.98, 0.9972]
    """
    return min(0.999, max(0.7, round(1 - 28.08 / max(1, total_steps), 4)))


def log_every(total_steps: int) -> int:
    """Optimizer steps between two logged values: every step of a short run, else every tenth.

    >>> [log_every(n) for n in (6, 126, 702, 10_000)]
    [1, 1, 10, 10]
    """
    return min(10, max(1, total_steps // 70))
