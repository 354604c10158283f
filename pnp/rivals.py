"""Objectives of the other methods: (student, teacher, epoch) -> {"loss", terms}.

SimCLR and VICReg are weighted sums of the terms of `pnp.losses`, compared in the tests with their
papers' formulas; the other losses are lightly's.

Student outputs are (V, N, K): V views of this process's N images, global views first; teacher
outputs are (W, N, K) of the first W of them, without gradient. A loss of pairs of views is the mean
over the pairs. All is computed in at least float32, whatever the autocast.

With several processes, statistics of the batch (SimCLR, VICReg, BarlowTwins, LeJEPA, VISReg) are
computed from the gathered outputs of all of them; the library's own gathering is off. Means over
images (DINO, NegativeCosine) stay local and are weighted by this process's share of the images.
Either way the mean over processes, of the loss and of its gradients, is that of the global batch,
even if processes have different numbers of images.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnp import losses
from pnp.distributed import all_sum, gather_images, world_size
from pnp.errors import UserError, number, whole
from pnp.geometry import unit, widened
from pnp.seeds import step_seed


class DINO(nn.Module):
    """Cross-entropy of the student's softmax with the teacher's centred, sharpened one.

    Caron et al. 2021, https://arxiv.org/abs/2104.14294. The teacher's temperature goes linearly
    from `warmup_temperature` to `teacher_temperature` in the first `warmup_epochs`. The centre is a
    moving average of the teacher's mean output over all processes; each call in training mode moves
    it once. Beside the loss: the teacher's `entropy` in nats (0 or log K is collapse) and the
    student's `divergence` from it, which sum to the loss.

    Args:
        count: prototypes K.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax, after the warm-up.
        warmup_temperature: of the teacher's softmax at epoch 0.
        warmup_epochs: epochs of warm-up; 0 starts at `teacher_temperature`.
        center_momentum: share of the old centre at each move.

    Raises:
        UserError: an option out of range.
    """

    def __init__(
        self,
        count: int = 2048,
        *,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        warmup_temperature: float = 0.04,
        warmup_epochs: float = 5.0,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        whole("objective.count", count, 2)
        number("objective.student_temperature", student_temperature, 0, open_low=True)
        number("objective.teacher_temperature", teacher_temperature, 0, open_low=True)
        number("objective.warmup_temperature", warmup_temperature, 0, open_low=True)
        number("objective.warmup_epochs", warmup_epochs, 0)
        number("objective.center_momentum", center_momentum, 0, 1)
        from lightly.loss.dino_loss import DINOLoss

        self.count = count
        self.temperatures = (warmup_temperature, teacher_temperature)
        self.warmup_epochs = warmup_epochs
        self.loss = DINOLoss(
            count, student_temp=student_temperature, center_momentum=center_momentum
        )
        # The library's counts unequal processes alike, and moves in evaluation too.
        self.loss.update_center = self.move_center

    @torch.no_grad()
    def move_center(self, teacher_out: Float[Tensor, "w n k"]) -> None:
        """Move the centre towards the mean output over all processes' images, in training mode."""
        if self.training:
            count = teacher_out.new_full((1,), teacher_out.shape[1])
            sums = all_sum(torch.cat([teacher_out.mean(0).sum(0), count]))
            mean = sums[:-1] / sums[-1]
            centre = self.loss.center
            centre.lerp_(mean.to(centre.dtype), 1 - self.loss.center_momentum)

    def temperature(self, epoch: float) -> float:
        """The teacher's temperature at a fractional epoch."""
        first, last = self.temperatures
        done = min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        return first + (last - first) * done

    def forward(
        self, student: Float[Tensor, "v n k"], teacher: Float[Tensor, "w n k"], epoch: float = 0.0
    ) -> dict[str, Tensor]:
        """`loss`, `entropy` and `divergence`, from logits.

        Raises:
            UserError: the outputs are not logits of `count` prototypes, or there is one view.
        """
        if student.shape[-1] != self.count:
            raise UserError(
                f"DINO compares {self.count} prototypes (objective.count) but got outputs of size "
                f"{student.shape[-1]}: use method=dino, whose head has objective.count prototypes."
            )
        _pairs(student, teacher)
        heat = self.temperature(epoch)
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = widened(student), widened(teacher)
            log_p = ((teacher - self.loss.center) / heat).log_softmax(-1)
            share = _share(student)
            entropy = -(log_p.exp() * log_p).sum(-1).mean() * share
            loss = self.loss(list(teacher), list(student), teacher_temp=heat) * share
        return {"loss": loss, "entropy": entropy, "divergence": loss.detach() - entropy}


class NegativeCosine(nn.Module):
    """Minus the cosine between the student's view v and the teacher's view w, mean over v≠w.

    The objective of BYOL (https://arxiv.org/abs/2006.07733; there 2 + 2 · this, summed over the two
    orders) and SimSiam (https://arxiv.org/abs/2011.10566). −1 when all views agree.
    """

    def __init__(self) -> None:
        super().__init__()
        from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity

        self.loss = NegativeCosineSimilarity()

    def forward(
        self, student: Float[Tensor, "v n d"], teacher: Float[Tensor, "w n d"], epoch: float = 0.0
    ) -> dict[str, Tensor]:
        """`loss`, from predictions and targets of any length.

        Raises:
            UserError: there is one view.
        """
        pairs = _pairs(student, teacher)
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = widened(student), widened(teacher)
            distances = [self.loss(student[v], teacher[w]) for v, w in pairs]
            return {"loss": _mean(distances) * _share(student)}


class SimCLR(nn.Module):
    """NT-Xent: each view of an image has to find its other view among all images' two views.

    Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1. With A the alignment, its gradient
    through both sides, and R the repulsion `logsumexp`, not decoupled, it is
    (A + R − 2)/(2τ) + log(2N − 1).

    Args:
        temperature: divides the cosines.

    Raises:
        UserError: a temperature that is not above 0.
    """

    def __init__(self, *, temperature: float = 0.2) -> None:
        super().__init__()
        number("objective.temperature", temperature, 0, open_low=True)
        self.temperature = temperature

    def forward(
        self, student: Float[Tensor, "v n d"], teacher: Float[Tensor, "w n d"], epoch: float = 0.0
    ) -> dict[str, Tensor]:
        """`loss`, from embeddings of any length; the teacher is not looked at.

        Raises:
            UserError: there is one view or one image.
        """
        z, own = _global_images(unit(student))
        heat, others = self.temperature, 2 * z.shape[1] - 1
        distances = [
            losses.alignment(pair, pair)
            + losses.repulsion(pair, kernel="logsumexp", temperature=heat, decoupled=False, own=own)
            for pair in (torch.stack(pair) for pair in combinations(z, 2))
        ]
        return {"loss": (_mean(distances) - 2.0) / (2.0 * heat) + math.log(others)}


class VICReg(nn.Module):
    """Invariance + variance + covariance of embeddings that are not normalised.

    Bardes et al. 2022, https://arxiv.org/abs/2105.04906, eq. 6, with the mean of the two views'
    variance terms, as the authors' code has it. Returned unweighted: `invariance` is the mean
    squared difference, `variance` the mean hinge of the standard deviation at 1, `covariance` the
    sum of the two views' squared off-diagonal covariances, over D.

    Args:
        invariance: weight λ.
        variance: weight μ.
        covariance: weight ν.
        eps: inside the root of the variance term.

    Raises:
        UserError: a negative weight, or `eps` not above 0.
    """

    def __init__(
        self,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        for name, weight in self.weights.items():
            number(f"objective.{name}", weight, 0)
        number("objective.eps", eps, 0, open_low=True)
        self.eps = eps

    def forward(
        self, student: Float[Tensor, "v n d"], teacher: Float[Tensor, "w n d"], epoch: float = 0.0
    ) -> dict[str, Tensor]:
        """`loss`, `invariance`, `variance`, `covariance`; the teacher is not looked at.

        Raises:
            UserError: there is one view or one image.
        """
        z, own = _global_images(student)
        terms = {
            "invariance": _mean([F.mse_loss(a, b) for a, b in combinations(z, 2)]),
            "variance": losses.variance(z, scale="absolute", eps=self.eps),
            "covariance": 2 * losses.covariance(z, "absolute", own),
        }
        loss = sum((self.weights[k] * term for k, term in terms.items()), z.new_zeros(()))
        return {"loss": loss, **terms}


class BarlowTwins(nn.Module):
    """Cross-correlation of two views towards the identity.

    Zbontar et al. 2021, https://arxiv.org/abs/2103.03230, eq. 1.

    Args:
        redundancy: weight λ of the squared off-diagonal elements.

    Raises:
        UserError: a negative weight.
    """

    def __init__(self, *, redundancy: float = 5e-3) -> None:
        super().__init__()
        number("objective.redundancy", redundancy, 0)
        from lightly.loss.barlow_twins_loss import BarlowTwinsLoss

        self.loss = BarlowTwinsLoss(redundancy)

    def forward(
        self, student: Float[Tensor, "v n d"], teacher: Float[Tensor, "w n d"], epoch: float = 0.0
    ) -> dict[str, Tensor]:
        """`loss`, from embeddings that are standardised here; the teacher is not looked at.

        Raises:
            UserError: there is one view or one image.
        """
        with torch.autocast(student.device.type, enabled=False):
            z = _global_images(student)[0]
            return {"loss": _mean([self.loss(a, b) for a, b in combinations(z, 2)])}


class LeJEPA(nn.Module):
    """Views close to the mean of the global ones, and each view's embeddings normally distributed.

    Balestriero and LeCun 2025, https://arxiv.org/abs/2511.08544: `(1 − λ) invariance + λ sigreg`,
    where SIGReg is the Epps-Pulley statistic along random directions; it grows with the batch. The
    directions are a function of `epoch`: new at each step, the same in all processes and after a
    resume.

    Args:
        weight: λ in [0, 1].
        slices: random directions per step.
        knots: points of the integral over frequencies.
        t_max: largest frequency.

    Raises:
        UserError: an option out of range.
    """

    def __init__(
        self, *, weight: float = 0.05, slices: int = 256, knots: int = 17, t_max: float = 3.0
    ) -> None:
        super().__init__()
        number("objective.weight", weight, 0, 1)
        whole("objective.slices", slices)
        whole("objective.knots", knots, 2)
        number("objective.t_max", t_max, 0, open_low=True)
        from lightly.loss.lejepa_loss import SIGReg

        self.weight = weight
        self.weights = {"invariance": 1 - weight, "sigreg": weight}
        self.sigreg = SIGReg(knots=knots, t_max=t_max, num_vectors=slices)

    def forward(
        self, student: Float[Tensor, "v n d"], teacher: Float[Tensor, "w n d"], epoch: float = 0.0
    ) -> dict[str, Tensor]:
        """`loss`, `invariance` and `sigreg`; the teacher only says how many views are global.

        Raises:
            UserError: there is one view or one image.
        """
        # Not LeJEPALoss, which insists on local views.
        from lightly.loss.lejepa_loss import lejepa_invariance_loss

        with torch.autocast(student.device.type, enabled=False):
            z = _global_images(student)[0]
            invariance = lejepa_invariance_loss(all_proj=z, global_proj=z[: len(teacher)])
            with _directions(z, epoch):
                sigreg = self.sigreg(z)
            loss = (1 - self.weight) * invariance + self.weight * sigreg
        return {"loss": loss, "invariance": invariance, "sigreg": sigreg}


class VISReg(nn.Module):
    """Views close to their mean; embeddings of a view centred, of unit scale, normal in shape.

    Wu et al. 2026, https://arxiv.org/abs/2606.02572: `(1 − λ) invariance + λ (scale + shape +
    center)`, where shape is the sliced Wasserstein distance to the normal distribution. The slices
    are a function of `epoch`, as LeJEPA's.

    Args:
        weight: λ in [0, 1]; the paper's is .9 for large sets and .6 for small ones.
        slices: random directions per step.

    Raises:
        UserError: an option out of range.
    """

    def __init__(self, *, weight: float = 0.6, slices: int = 256) -> None:
        super().__init__()
        number("objective.weight", weight, 0, 1)
        whole("objective.slices", slices)
        from lightly.loss import VISRegLoss

        self.weights = {"pred": 1 - weight, "scale": weight, "shape": weight, "center": weight}
        self.loss = VISRegLoss(lambda_param=weight, num_slices=slices)

    def forward(
        self, student: Float[Tensor, "v n d"], teacher: Float[Tensor, "w n d"], epoch: float = 0.0
    ) -> dict[str, Tensor]:
        """`loss` and its four parts; the teacher only says how many views are global.

        Raises:
            UserError: there is one view or one image.
        """
        with torch.autocast(student.device.type, enabled=False):
            z, views = _global_images(student)[0], len(teacher)
            with _directions(z, epoch):
                parts = self.loss.forward_components(local_proj=z[views:], global_proj=z[:views])
        return {"loss": parts.total, **{k: v for k, v in parts._asdict().items() if k != "total"}}


@contextmanager
def _directions(z: Tensor, epoch: float) -> Iterator[None]:
    """Lend the library, which draws from the global stream, a stream that `epoch` seeds."""
    with torch.random.fork_rng([z.device] if z.device.type == "cuda" else []):
        torch.manual_seed(step_seed(*float(epoch).as_integer_ratio()))
        yield


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def _share(z: Tensor) -> Tensor | float:
    """Weight of this process's mean in DDP's mean over processes: 1 with equal batches."""
    if world_size() == 1:
        return 1.0
    count = z.new_tensor(float(z.shape[1]))
    return count * world_size() / all_sum(count)


def _pairs(student: Tensor, teacher: Tensor) -> list[tuple[int, int]]:
    """Views (v, w) of student and teacher that differ."""
    pairs = [(v, w) for v, w in product(range(len(student)), range(len(teacher))) if v != w]
    if not pairs:
        raise UserError("this objective compares views: give at least 2 (views.count).")
    return pairs


def _global_images(z: Tensor) -> tuple[Tensor, slice | None]:
    """The outputs (V, N, K) of all processes, in at least float32, and this one's images in them.

    Raises:
        UserError: fewer than 2 views or 2 images.
    """
    z, own = gather_images(widened(z), dim=1)
    if len(z) < 2 or z.shape[1] < 2:
        raise UserError(
            f"this objective compares views of a batch: it needs at least 2 views of 2 images, got "
            f"{len(z)} of {z.shape[1]}. Set views.count and data.batch_size."
        )
    return z, own
