"""The images of a folder, scored chunk by chunk, with what cannot be answered."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from pnp.decider import shift
from pnp.decider.decider import Answers, Decider, Embedded, embed


@dataclass(frozen=True, eq=False)
class Judged(Embedded):
    """Every image of a folder: those answered, and those that could not be.

    `features` (n, 1 + k) are the score and the features along the axes of the shift test.
    """

    answers: Answers


def judge(decider: Decider, images: str | Path, names: list[str] | None = None) -> Judged:
    """Score the images of a folder, chunk by chunk.

    Args:
        decider: to ask.
        images: a folder, or one file.
        names: files of the folder; None means all.

    Raises:
        UserError: no image, or none that can be read.
    """
    mean, axes = decider.reference["mean"], decider.reference["axes"]

    def scored(features: Tensor) -> Float64[np.ndarray, "n k"]:
        return np.column_stack([decider.scores(features), ((features - mean) @ axes).numpy()])

    found = embed(decider.encoder, images, names, scored)
    answers = decider.decide(found.features[:, 0])
    judged = Judged(**vars(found), answers=answers)
    seen = int(np.isin(judged.hashes, decider.used).sum())
    if seen:
        judged.notes.append(
            f"known: {seen:,} of these images were used in fitting; the guarantee is for new ones."
        )
    return judged


def shifted(decider: Decider, judged: Judged) -> shift.Shift:
    """Compare the images with the calibration images."""
    reference = decider.reference
    scores = reference["calibration_scores"][reference["kept"]]
    old = np.column_stack([scores.numpy(), reference["features"].numpy()])
    return shift.compare(old.astype(np.float32), judged.features.astype(np.float32))
