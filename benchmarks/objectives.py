"""Closed-form repulsion and covariance beside autograd of the plain formula: time and peak memory.

Time is forward + backward on one CPU thread, the forms in turns within one process, on random unit
vectors of one view. Memory is the high-water mark of the resident set above its level before the
call, each form in fresh processes in turns (Linux). The plain formula is `tests/naive.py`: a mask,
no boolean indexing. The last table asks what one Gram matrix for both terms would save where N < D.

    python benchmarks/objectives.py [--rounds 7]
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from memory import extra_peak
from timing import fresh, in_turns, machine, ratio, tell
from torch import Tensor
from torch.nn.functional import normalize

from pnp import losses

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import naive  # pyright: ignore[reportMissingImports]

# term, N, D: rows of one view
CASES = [
    ("repulsion", 512, 128),
    ("repulsion", 4096, 128),
    ("repulsion", 512, 2048),
    ("repulsion", 2048, 2048),
    ("covariance", 4096, 128),
    ("covariance", 512, 2048),
    ("covariance", 2048, 2048),
    ("covariance", 512, 8192),
]
FORMS = {"closed": losses, "naive": naive}
Run = Callable[[], object]


def embeddings(*shape: int) -> Tensor:
    """Random unit vectors (V, N, D)."""
    draws = torch.Generator().manual_seed(0)
    return normalize(torch.randn(*shape, generator=draws), dim=-1)


def step(function: Callable[[Tensor], Tensor], z: Tensor) -> Run:
    """Forward and backward of one term."""
    z = z.detach().requires_grad_()

    def run() -> None:
        z.grad = None
        function(z).backward()

    return run


def one_gram(z: Tensor, margin: float = 0.2) -> tuple[Tensor, Tensor]:
    """Value and gradient of hinge repulsion + covariance from one ZZᵀ, which exists as a whole.

    Covariance's centred Gram matrices are what is left of its diagonal blocks, one for each view,
    without their row and column means; their weights join repulsion's for one product with Z.
    """
    views, n, d = z.shape
    rows, pairs = z.flatten(0, 1), views**2 * n * (n - 1)
    s = rows @ rows.T
    weights = (s - margin).relu_()
    weights.view(views, n, views, n).diagonal(dim1=1, dim2=3).zero_()
    value = weights.square().sum() / pairs
    weights *= 4 / pairs
    factor, pull = 4 / (d * (n - 1) * views), []
    for v in range(views):
        own = slice(v * n, v * n + n)
        means = s[own, own].mean(1)
        gram = (s[own, own] - means[:, None] - means + means.mean()) / (n - 1)
        centred = z[v] - z[v].mean(0)
        variances = centred.square().sum(0) / (n - 1)
        value += (gram.square().sum() - variances.square().sum()) / (d * views)
        weights[own, own] += factor * gram
        pull.append(factor * centred * variances)
    return value, (weights @ rows).sub_(torch.cat(pull)).view_as(z)


def both(z: Tensor) -> Tensor:
    """The two terms apart, as the objective computes them."""
    return losses.repulsion(z) + losses.covariance(z, "absolute")


def peak(term: str, form: str, n: int, d: int) -> float:
    """Extra peak memory in MiB of one step."""
    function = getattr(FORMS[form], term)
    step(function, embeddings(1, 8, 4))()  # what is loaded lazily is loaded now
    return extra_peak(step(function, embeddings(1, n, d)))


def measured(term: str, form: str, n: int, d: int) -> float:
    """`peak` in a process of its own."""
    return fresh(__file__, "--peak", term, form, n, d)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each form (default 7)")
    parser.add_argument("--processes", type=int, default=3, help="processes per peak (default 3)")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        term, form, n, d = options.peak
        tell(peak(term, form, int(n), int(d)))
        return
    print(f"{machine(1)}; {options.rounds} rounds: median (min – max)\n")
    print("| term | N, D | naive ms | naive MiB | faster | closed / naive memory |")
    print("|---|---|---|---|---|---|")
    for term, n, d in CASES:
        z = embeddings(1, n, d)
        runs = {form: step(getattr(place, term), z) for form, place in FORMS.items()}
        times = in_turns(runs, options.rounds, f"{term} {n}, {d}")
        mib: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(options.processes):
            for form, found in mib.items():
                found.append(measured(term, form, n, d))
        plain = 1000 * statistics.median(times["naive"]), statistics.median(mib["naive"])
        print(
            f"| {term} | {n}, {d} | {plain[0]:.1f} | {plain[1]:.0f} | "
            f"{ratio(times['naive'], times['closed'])} | "
            f"{ratio(mib['closed'], mib['naive'], 2)} |",
            flush=True,
        )
    huge = [measured("repulsion", "closed", 32_768, 128) for _ in range(options.processes)]
    print(f"\nrepulsion at N = 32,768, D = 128: {max(huge):.0f} MiB of extra memory at most\n")
    print("| V, N, D | both terms ms | one Gram matrix is faster |")
    print("|---|---|---|")
    for shape in ((1, 512, 2048), (2, 256, 2048), (2, 256, 512)):
        z = embeddings(*shape)
        torch.testing.assert_close(one_gram(z)[0], both(z))
        runs = {"apart": step(both, z), "one": lambda z=z: one_gram(z)}
        times = in_turns(runs, options.rounds, f"one Gram {shape}")
        name, apart = ", ".join(map(str, shape)), 1000 * statistics.median(times["apart"])
        print(f"| {name} | {apart:.1f} | {ratio(times['apart'], times['one'])} |", flush=True)


if __name__ == "__main__":
    main()
