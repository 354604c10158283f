"""Terms of the objective at work: their shares of the gradient at the embeddings, and conflicts."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import lightning as L
import torch
from torch import Tensor

from pnp.distributed import all_sum
from pnp.errors import whole
from pnp.method import SelfSupervised

# Terms that work against a kind of collapse.
AGAINST = {
    "complete": ("variance", "repulsion"),
    "cone": ("variance", "repulsion"),
    "dimensional": ("covariance", "repulsion", "coding_rate"),
}


def term_gradients(
    objective: Any, student: Tensor, teacher: Tensor | None, *, sphere: bool, epoch: float = 0.0
) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Share of each term in the gradient at the student's outputs, and cosines between terms.

    With g_k the gradient of weight_k · term_k over all images, the share is ‖g_k‖ / Σ_j ‖g_j‖ and
    the cosine ⟨g_j, g_k⟩ / (‖g_j‖ ‖g_k‖): below 0 the two terms work against each other.

    Args:
        objective: with `weights`, term -> weight; its state is left as it is.
        student: outputs (V, N, K) of this process.
        teacher: outputs (W, N, K'), or None where they are the student's own, with gradient.
        sphere: the outputs are unit vectors: count what is tangential to the sphere.
        epoch: for objectives with schedules.
    """
    leaf, training = student.detach().requires_grad_(), objective.training
    objective.eval()  # DINO's centre moves in training mode
    with torch.enable_grad():
        terms = objective.forward(leaf, leaf if teacher is None else teacher, epoch=epoch)
        gradients = {}
        for name, weight in objective.weights.items():
            (own,) = torch.autograd.grad(weight * terms[name], leaf, retain_graph=True)
            own = own.double()
            gradients[name] = own - (own * leaf).sum(-1, keepdim=True) * leaf if sphere else own
    objective.train(training)
    rows = torch.stack([own.detach().flatten() for own in gradients.values()])
    products = all_sum(rows @ rows.T).cpu()
    sizes = products.diag().clamp_min(0).sqrt()
    shares = sizes / sizes.sum().clamp_min(1e-30)
    cosines = products / (sizes[:, None] * sizes).clamp_min(1e-30)
    names = list(gradients)
    return dict(zip(names, shares.tolist(), strict=True)), {
        (names[i], names[j]): float(cosines[i, j]) for i, j in combinations(range(len(names)), 2)
    }


def starving(kind: str, weights: Mapping[str, float], shares: Mapping[str, float]) -> str:
    """The term against a kind of collapse that moves the embeddings least, in words.

    >>> starving("cone", {"variance": 1}, {"alignment": 0.9, "variance": 0.1})
    'variance starves: 10 % of the gradient at the embeddings, alignment has 90 %'
    """
    at_work = [name for name in AGAINST[kind] if weights.get(name, 0) > 0]
    if not at_work:
        return f"no term works against it: {' and '.join(AGAINST[kind])} weigh 0"
    if not shares:
        return ""
    least, most = min(at_work, key=lambda n: shares[n]), max(shares, key=lambda n: shares[n])
    return (
        f"{least} starves: {100 * shares[least]:.2g} % of the gradient at the embeddings, "
        f"{most} has {100 * shares[most]:.2g} %"
    )


class TermGradients(L.Callback):
    """Log each term's share of the gradient at the embeddings, and the cosines between terms.

    `gradient/share/TERM` and `gradient/cosine/TERM_TERM`, see `term_gradients`, for objectives of
    several weighted terms (P¬P, VICReg, LeJEPA, VISReg); of others there is nothing to compare.
    Training stays as it is.

    Args:
        every_n_steps: optimizer steps between two looks; `auto` is `EVERY`: a look takes 2.5 % of a
            step of the default run (one CPU thread, batch 256), so .3 % of the training.
    """

    EVERY = 10

    def __init__(self, every_n_steps: int | str = "auto") -> None:
        if every_n_steps != "auto":
            whole("callbacks.gradients.every_n_steps", every_n_steps)
        self.every = self.EVERY if isinstance(every_n_steps, str) else every_n_steps
        self.shares: dict[str, float] = {}  # of the last look
        self.step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The step before a resumed run's first was looked at already."""
        self.step = trainer.global_step - 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Look at this step if its turn has come."""
        assert isinstance(pl_module, SelfSupervised)
        step, objective = trainer.global_step - 1, pl_module.objective
        if step == self.step or step % self.every or len(getattr(objective, "weights", ())) < 2:
            return
        self.step = step
        self.shares, cosines = term_gradients(
            objective,
            outputs["student"],
            None if pl_module.kind == "none" else outputs["teacher"],
            sphere=pl_module.student.normalize and pl_module.student.head is None,
            epoch=step / pl_module.steps_per_epoch,
        )
        values = {f"gradient/share/{name}": share for name, share in self.shares.items()}
        values |= {f"gradient/cosine/{a}_{b}": cosine for (a, b), cosine in cosines.items()}
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **values}, step)
