"""Whether the device computes what the CPU does: views, terms and gradients, probes.

Every check is one line for `gpu.py`; one that fails or hangs does not stop the next.
"""

import contextlib
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from timing import tell

VIEWS = {
    "default": {},
    "all": {"blur": 0.5, "interpolation": "bicubic", "local": 2},
    "solarize": {"solarize": 0.3},
}
SHAPES = ((2, 96, 32), (2, 24, 64))  # more images than dimensions, and fewer


def check(
    name: str, work: Callable[[], Any], limit: float | None = None, seconds: int = 60
) -> None:
    """Tell whether `work` ends, and its relative error stays below a limit.

    Args:
        name: of the claim.
        work: returns an error, or facts with one at `error`, or nothing.
        limit: of the error.
        seconds: after which it counts as hanging; only where Python is reached, the parent
            ends the others.
    """

    def rung(*_: Any) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    signal.signal(signal.SIGALRM, rung)
    signal.alarm(seconds)
    began = time.perf_counter()
    try:
        found = work()
        facts = found if isinstance(found, dict) else {} if found is None else {"error": found}
        ok = limit is None or facts["error"] <= limit  # NaN is not
        spent = round(time.perf_counter() - began, 2)
        tell({"name": name, "ok": ok, "limit": limit, "seconds": spent, **facts})
    except Exception as error:
        at = [
            f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
        ]
        tell(
            {
                "name": name,
                "ok": False,
                "why": f"{type(error).__name__}: {error}"[:400],
                "at": at[-4:],
            }
        )
    finally:
        signal.alarm(0)


def off(a: Any, b: Any) -> float:
    """Relative error of a tensor."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def both(a: Any, b: Any) -> float:
    """The larger error of a pair: value and gradient."""
    return max(off(x, y) for x, y in zip(a, b, strict=True))


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Every torch.rand comes from one stream of the CPU, wherever it is wanted."""
    import torch

    real, source = torch.rand, torch.Generator().manual_seed(0)

    def drawn(*shape: Any, generator: Any = None, device: Any = None, **_: Any) -> Any:
        return real(*shape, generator=source).to(device or "cpu")

    torch.rand = drawn
    try:
        yield
    finally:
        torch.rand = real


def pictures() -> Any:
    """32 images of noise, on the CPU."""
    import torch

    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=draws)


def views(device: str) -> None:
    """Views of the device are those of the CPU for the same draws, and follow the seed."""
    import torch

    from pnp.views import Views

    def made(where: str, options: Any) -> Any:
        maker, draws = Views(32, 2, **options), torch.Generator(where).manual_seed(0)
        with same_draws():
            out = [maker(pictures().to(where), draws)]
            out += [maker.local_views(pictures().to(where), draws)] if maker.local else []
        return torch.cat([part.flatten().cpu() for part in out])

    def apart(options: Any) -> Any:
        difference = (made("cpu", options) - made(device, options)).abs()
        # Solarisation jumps at a threshold: a share of the values may fall on the other side.
        return {"error": float((difference > 1e-4).float().mean()), "most": float(difference.max())}

    def seeded() -> None:
        maker = Views(32, 2, blur=0.5)
        seeds = (torch.Generator(device).manual_seed(seed) for seed in (3, 3, 4))
        a, b, c = (maker(pictures().to(device), draws) for draws in seeds)
        if not torch.equal(a, b) or torch.equal(a, c):
            raise ValueError("views do not follow the seed")

    for name, options in VIEWS.items():
        limit = 1e-3 if "solarize" in options else 1e-6
        check(f"views, {name}: device = CPU, share that differs", lambda o=options: apart(o), limit)
    check("views: the same seed, the same views", seeded)


def terms(device: str) -> None:
    """Every term of the objective and its gradient: float32 here, float64 on the CPU."""
    import torch

    from pnp import losses
    from pnp.geometry import unit

    every: dict[str, Callable[[Any], Any]] = {
        "alignment": lambda z: losses.alignment(z, z.detach().roll(1, 1)),
        "variance": losses.variance,
        "variance, absolute": lambda z: losses.variance(z, scale="absolute"),
        "covariance": losses.covariance,
        "logsumexp, own views too": lambda z: losses.repulsion(
            z, kernel="logsumexp", decoupled=False
        ),
        **{kernel: lambda z, k=kernel: losses.repulsion(z, kernel=k) for kernel in losses.KERNELS},
    }

    def value(term: Any, z: Any) -> tuple[Any, Any]:
        z = z.detach().clone().requires_grad_()
        loss = term(z)
        loss.backward()
        return loss, z.grad

    def apart(term: Any, shape: Any) -> float:
        z = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z = unit(z + 0.3)
        return both(value(term, z.float().to(device)), value(term, z))

    blocks = (2, 6000 if device == "cuda" else 300, 128)
    for name, term in every.items():
        for shape in (*SHAPES, *([blocks] if name in ("hinge", "logsumexp") else [])):
            title = f"{name} {shape}: float32 on the device = float64 on the CPU"
            check(title, lambda t=term, s=shape: apart(t, s), 2e-4)


def probes(device: str) -> None:
    """kNN, linear probe and concept heads of features on the device are those of the CPU."""
    import torch

    from pnp.evaluation.probes import Space, concept_heads, fit_linear, knn_votes

    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (600,), generator=draws)
    features = torch.randn(600, 24, generator=draws) + torch.randn(4, 24, generator=draws)[labels]
    targets = (labels[:, None] < torch.tensor([1, 2])).float()

    def found(what: str, where: str) -> Any:
        x, y = features.to(where), labels.to(where)
        if what == "kNN":
            return knn_votes(x[:400], y[:400], x[400:], classes=4)
        space = Space.of(x[:400])
        x = space(x)
        if what == "linear probe":
            (fit,) = fit_linear(x[:400], y[:400], space, classes=4, l2=(1e-2,))
            return fit.logits(x).softmax(1)
        goals = targets.to(where)
        keep = torch.ones_like(goals, dtype=torch.bool)
        pieces = [(x[part], goals[part], keep[part]) for part in (slice(400), slice(400, 600))]
        return concept_heads(pieces[0], pieces[1], space).logits(x).sigmoid()

    for what in ("kNN", "linear probe", "concept heads"):
        title = f"{what}: features on the device = on the CPU"
        check(title, lambda w=what: off(found(w, device), found(w, "cpu")), 1e-3)
