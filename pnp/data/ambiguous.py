"""Synthetic images whose label probability is known: is the outline lobed (P) or round (¬P)?

A latent u in [0, 1] morphs a disc into a lobed star, r(θ) = R · (1 + 0.4 · u · cos(mθ + φ)). The
property P holds with probability η = sigmoid(k(u - c)): no classifier, however good, can do
better than η, so the band of honest uncertainty has a width that is known in closed form. Number
of lobes m (the class), radius, place, rotation, colours, texture and noise are independent of u.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from pnp.cpu import cores
from pnp.data.imageset import ImageSet
from pnp.data.splits import stream

LOBES = (3, 4, 5, 6)
CLASSES = tuple(f"{lobes} lobes" for lobes in LOBES)
DEPTH = 0.4
# Every block of images has its own random stream, so a smaller set is the start of a larger one.
BLOCK = 256
# Texture: random colours on a 5 × 5 grid, smoothed to full size.
GRID = 5


def draw(
    split: str, n: int, *, size: int = 32, seed: int = 0, k: float = 20.0, c: float = 0.5
) -> ImageSet:
    """Draw `n` images; they depend on `seed`, `split` and `size` only, the labels Y also on k, c.

    Args:
        split: name of the split; each has its own random stream.
        n: number of images; the first ones do not change when n grows.
        size: side in pixels.
        seed: of the generator.
        k: steepness of η in u.
        c: the u at which η is one half.

    Returns:
        RGB images with labels (number of lobes), eta, concept (Y) and latent (u).

    >>> few, more = draw("train", 3), draw("train", 300)
    >>> bool((more.images[:3] == few.images).all())
    True
    """

    def block(i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _block(stream(seed, "ambiguous", split, i), size)

    # Each block has a stream of its own, and NumPy lets go of the interpreter while it computes.
    with ThreadPoolExecutor(cores()) as pool:
        blocks = list(pool.map(block, range(-(-n // BLOCK))))
    images, lobes, u, coin = (torch.cat(parts)[:n] for parts in zip(*blocks, strict=True))
    eta = posterior(u, k, c)
    return ImageSet(
        name=split,
        images=images,
        labels=lobes - LOBES[0],
        classes=CLASSES,
        eta=eta,
        concept=(coin < eta).long(),
        latent=u,
    )


def posterior(u: Tensor, k: float, c: float) -> Tensor:
    """η(u) = Pr(P | u) = sigmoid(k(u - c))."""
    # Not torch.sigmoid: its last bit depends on an element's place in the tensor, so a smaller set
    # would not be the start of a larger one.
    return torch.from_numpy(expit(k * (u.numpy() - c)))


def _block(bits: np.random.PCG64, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A full block: images, number of lobes, latent u, and the coin that decides Y."""
    rng = np.random.Generator(bits)
    u, coin = rng.random(BLOCK), rng.random(BLOCK)
    lobes = rng.integers(LOBES[0], LOBES[-1] + 1, BLOCK)
    inside = _shape(rng, u, lobes, size)[:, None]
    background, foreground = _colours(rng)
    canvas = background + _texture(rng, size)
    canvas += inside * (foreground - canvas)
    canvas += _per_image(rng, 0.02, 0.06) * rng.standard_normal(canvas.shape, dtype=np.float32)
    pixels = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    parts = (pixels, lobes.astype(np.int64), u, coin)
    return tuple(torch.from_numpy(part) for part in parts)  # pyright: ignore[reportReturnType]


def _shape(rng: np.random.Generator, u: np.ndarray, lobes: np.ndarray, size: int) -> np.ndarray:
    """Coverage of each pixel by the outline, 0 … 1 over about one pixel at the edge."""
    radius = rng.uniform(6 / 32, 10 / 32, BLOCK) * size
    # Room for the longest lobe whatever u is: place and size must not tell how lobed a shape is.
    room = size / 2 - (1 + DEPTH) * radius - 0.5
    centre = size / 2 + rng.uniform(-1, 1, (2, BLOCK)) * room
    phase = rng.uniform(0, 2 * np.pi, BLOCK)

    radius, depth, x0, y0, cos_phase, sin_phase = (
        value.astype(np.float32)[:, None, None]
        for value in (radius, DEPTH * u, *centre, np.cos(phase), np.sin(phase))
    )
    at = np.arange(size, dtype=np.float32) + np.float32(0.5)
    dx, dy = at - x0, at[:, None] - y0
    distance = np.sqrt(dx * dx + dy * dy) + np.float32(1e-6)
    # cos(mθ) and sin(mθ) by multiplying unit vectors: faster than arctan2, and only
    # + - × ÷ √, whose rounding is the same on every machine.
    cos1, sin1 = dx / distance, dy / distance
    cos, sin = cos1, sin1
    for order in range(2, LOBES[-1] + 1):
        go_on = (order <= lobes)[:, None, None]
        cos, sin = (
            np.where(go_on, cos * cos1 - sin * sin1, cos),
            np.where(go_on, sin * cos1 + cos * sin1, sin),
        )
    wave = cos * cos_phase - sin * sin_phase
    slope = sin * cos_phase + cos * sin_phase
    outline = radius * (1 + depth * wave)
    # Distance to the edge, corrected for the edge's angle to the ray.
    tilt = radius * depth * lobes.astype(np.float32)[:, None, None] * slope / outline
    return np.clip((outline - distance) / np.sqrt(1 + tilt * tilt) + np.float32(0.5), 0, 1)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Background and foreground; every channel differs, so they differ in grey as well."""
    background = rng.uniform(0.15, 0.85, (BLOCK, 3))
    darker = background.mean(1, keepdims=True) > 0.5
    step = rng.uniform(0.3, 0.6, (BLOCK, 3))
    foreground = np.clip(background + np.where(darker, -step, step), 0, 1)
    return tuple(  # pyright: ignore[reportReturnType]
        colour.astype(np.float32)[:, :, None, None] for colour in (background, foreground)
    )


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth coloured noise around 0: cubic B-splines over a coarse grid."""
    grid = rng.uniform(-1, 1, (BLOCK, 3, GRID, GRID)).astype(np.float32)
    grid *= _per_image(rng, 0.1, 0.45)
    at = (np.arange(size) + 0.5) / size * (GRID - 3) + 1
    gap = np.abs(at[:, None] - np.arange(GRID))
    inner, outer = 2 / 3 - gap**2 + gap**3 / 2, (2 - np.minimum(gap, 2)) ** 3 / 6
    weight = np.where(gap < 1, inner, outer).astype(np.float32)
    # Sums written out: a matrix product would round differently from one machine to the next.
    rows = sum(weight[:, i, None] * grid[:, :, i, None, :] for i in range(GRID))
    return sum(rows[..., i, None] * weight[:, i] for i in range(GRID))  # pyright: ignore


def _per_image(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return rng.uniform(low, high, (BLOCK, 1, 1, 1)).astype(np.float32)
