"""The images of a folder, scored chunk by chunk, with what cannot be answered."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from pnp.console import printable
from pnp.decider import shift
from pnp.decider.decider import Answers, Decider, embedded
from pnp.decider.images import Reader, content_hashes, find
from pnp.decider.parts import ignored
from pnp.errors import UserError


@dataclass(frozen=True, eq=False)
class Judged:
    """Every image of a folder: those answered, and those that could not be.

    `names` (n) belong to `answers`; `projected` (n, 1 + k) holds the score and the features along
    the axes of the shift test; `hashes` (n,) are of their content; `failed` are (name, reason).
    """

    root: Path
    names: list[str]
    answers: Answers
    projected: Float32[np.ndarray, "n k"]
    hashes: Int64[np.ndarray, " n"]
    failed: list[tuple[str, str]]
    notes: list[str]


def judge(
    decider: Decider,
    images: str | Path,
    names: list[str] | None = None,
) -> Judged:
    """Score the images of a folder, chunk by chunk.

    Args:
        decider: to ask.
        images: a folder, or one file.
        names: files of the folder; None means all.

    Raises:
        UserError: no image, or none that can be answered.
    """
    root, there, others = find(images)
    chosen = there if names is None else names
    reader: Reader = decider.reader()
    good, scores, projected, hashes, failed = [], [], [], [], []
    chunks = embedded(decider.features, reader, root, chosen)
    for read, pixels, features, bad in chunks:
        good += read
        scores.append(decider.scores(features))
        columns = [scores[-1], _projected(decider, features)]
        projected.append(np.column_stack(columns).astype(np.float32))
        hashes.append(content_hashes(pixels).numpy())
        failed += [(printable(name), reason) for name, reason in bad]
    if not good:
        some = "; ".join(f"{name} ({reason})" for name, reason in failed[:3])
        raise UserError(f"images={images}: none of {len(chosen):,} images can be answered: {some}.")
    everything = np.concatenate(hashes)
    notes = [*ignored(others if names is None else 0), *reader.notes]
    seen = int(np.isin(everything, decider.used).sum())
    if seen:
        notes.append(
            f"known: {seen:,} of these images were used in fitting; the guarantee is for new ones."
        )
    answers = decider.decide(np.concatenate(scores))
    return Judged(root, good, answers, np.concatenate(projected), everything, failed, notes)


def _projected(decider: Decider, features: Tensor) -> np.ndarray:
    return ((features - decider.reference["mean"]) @ decider.reference["axes"]).numpy()


def shifted(decider: Decider, judged: Judged) -> shift.Shift:
    """Compare the images with the calibration images."""
    reference = decider.reference
    scores = reference["calibration_scores"][reference["kept"]]
    old = np.column_stack([scores.numpy(), reference["features"].numpy()]).astype(np.float32)
    return shift.compare(old, judged.projected)
