"""A decider: images in; P, ¬P or uncertain out, within the error budgets it was certified for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int8, Int64, Shaped, UInt8
from torch import Tensor, nn

from pnp.console import printable
from pnp.decider.images import Reader, content_hashes, find
from pnp.errors import UserError
from pnp.export.encoder import Encoder

WORDS = {1: "P", 0: "notP", -1: "uncertain"}
# Images per forward: small enough for a cache, large enough for a GPU.
BATCH = 256


@dataclass(frozen=True)
class Thresholds:
    """P above `t_hi`, ¬P below `t_lo`; where `crossed` both are one cut, which P includes.

    Raises:
        ValueError: regions that overlap, or thresholds that are no numbers.
    """

    t_lo: float
    t_hi: float
    crossed: bool

    def __post_init__(self) -> None:
        """Refuse what no certificate can be of."""
        fits = self.t_lo == self.t_hi if self.crossed else self.t_lo <= self.t_hi  # NaN does not
        if not fits or not isinstance(self.crossed, bool):
            raise ValueError(
                f"thresholds t_lo={self.t_lo}, t_hi={self.t_hi}, crossed={self.crossed}: t_lo is "
                "above t_hi, or one of them is no number"
            )

    def regions(self, scores: Float64[np.ndarray, " n"]) -> Int8[np.ndarray, " n"]:
        """1 in P, 0 in ¬P, −1 in the band."""
        in_p = scores >= self.t_hi if self.crossed else scores > self.t_hi
        return np.where(in_p, 1, np.where(scores < self.t_lo, 0, -1)).astype(np.int8)

    def margins(self, scores: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Distance to the nearest finite threshold; infinite where there is none."""
        finite = [t for t in (self.t_lo, self.t_hi) if math.isfinite(t)]
        if not finite:
            return np.full(scores.shape, np.inf)
        return np.abs(scores[:, None] - np.array(finite)).min(1)


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers for N images.

    Attributes:
        scores: logits of P, (N,).
        regions: 1 for P, 0 for ¬P, −1 for uncertain, (N,).
        margins: distance of each score to the nearest threshold, (N,).
        guarantee: what holds, as a sentence.
        notes: sentences on images that had to be resized or recoloured.
    """

    scores: Float64[np.ndarray, " n"]
    regions: Int8[np.ndarray, " n"]
    margins: Float64[np.ndarray, " n"]
    guarantee: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def words(self) -> list[str]:
        """P, notP or uncertain, as in answers.csv."""
        return [WORDS[int(region)] for region in self.regions]

    def counts(self) -> dict[str, int]:
        """Images of each answer."""
        return {word: int((self.regions == region).sum()) for region, word in WORDS.items()}


class Decider:
    """Answers P, ¬P or uncertain: `answers = decider(images)`.

    Args:
        encoder: images to features.
        weight: of the head, (dim,) in float64: the score is features · weight + bias.
        bias: of the head.
        facts: content of `decider.json`.
        reference: what shift test and planner need; see `pnp.decider.fit`.
    """

    def __init__(
        self,
        encoder: Encoder,
        weight: Float64[Tensor, " d"],
        bias: float,
        facts: Mapping[str, Any],
        reference: Mapping[str, Tensor],
    ) -> None:
        self.encoder = encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.weight, self.bias = weight, bias
        self.facts, self.reference = facts, reference
        cut = facts["thresholds"]
        self.thresholds = Thresholds(float(cut["t_lo"]), float(cut["t_hi"]), cut["crossed"])

    @property
    def guarantee(self) -> str:
        """The guarantee, as a sentence."""
        return str(self.facts["guarantee"])

    @property
    def concept(self) -> str:
        """The meaning of P, as a phrase."""
        return str(self.facts["concept"]["name"])

    @property
    def columns(self) -> tuple[str, str | None]:
        """Columns of label files that hold labels and, if there are any, groups."""
        columns = self.facts.get("columns") or {}  # early deciders have none
        return columns.get("label") or "label", columns.get("groups")

    @property
    def used(self) -> Int64[np.ndarray, " n"]:
        """Content hashes of every image that was used in fitting."""
        hashes = [v.numpy() for k, v in self.reference.items() if k.startswith("hashes_")]
        return np.concatenate(hashes)

    def reader(self) -> Reader:
        """A reader of images for this encoder."""
        return Reader(self.encoder.channels, self.encoder.size)

    def features(self, pixels: UInt8[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
        """Features of images of the encoder's own size, in float32 on the CPU."""
        return features(self.encoder, pixels)

    def scores(self, features: Float[Tensor, "n d"]) -> Float64[np.ndarray, " n"]:
        """Logits of P; NaN where features are not finite."""
        scores = (features.double() @ self.weight + self.bias).numpy()
        return np.where(np.isfinite(scores), scores, np.nan)

    def decide(self, scores: Float64[np.ndarray, " n"], notes: tuple[str, ...] = ()) -> Answers:
        """Answers for finite scores."""
        cut = self.thresholds
        return Answers(scores, cut.regions(scores), cut.margins(scores), self.guarantee, notes)

    def __call__(self, images: Any) -> Answers:
        """Answer for images in memory or on disk.

        Args:
            images: a uint8 tensor (N, C, H, W), a uint8 array (N, H, W, C) or (N, H, W), PIL
                images, paths, or one path of a file or folder. Other sizes and colours than the
                encoder's are converted, with a note.

        Raises:
            UserError: images of another kind, an unreadable file, or features that are not finite.
        """
        reader = self.reader()
        scores = self.scores(self.features(reader.batch(images)))
        bad = np.flatnonzero(np.isnan(scores))
        if bad.size:
            raise UserError(
                f"the features of {bad.size} of {scores.size} images are not finite (first: image "
                f"{bad[0]}). The encoder is damaged or in too low a precision."
            )
        return self.decide(scores, tuple(reader.notes))


class Scorer(nn.Module):
    """A decider as one module for other runtimes: images to scores and regions.

    Args:
        decider: on the CPU.
    """

    weight: Tensor

    def __init__(self, decider: Decider) -> None:
        super().__init__()
        self.encoder, self.bias, self.cut = decider.encoder, decider.bias, decider.thresholds
        self.register_buffer("weight", decider.weight)

    def forward(
        self, images: Float[Tensor, "n c s s"]
    ) -> tuple[Float64[Tensor, " n"], Int64[Tensor, " n"]]:
        """Logits of P, and 1 for P, 0 for ¬P, −1 for uncertain (NaN too)."""
        score = self.encoder(images).double() @ self.weight + self.bias
        in_p = score >= self.cut.t_hi if self.cut.crossed else score > self.cut.t_hi
        region = torch.where(score < self.cut.t_lo, 0, -1)
        return score, torch.where(in_p, 1, region)


@dataclass(frozen=True, eq=False)
class Embedded:
    """The images of a folder: those with features, and those without.

    `names` (n) of files below `root` belong to `features` (n, d) and to `hashes` (n,) of their
    content; `failed` are (name, reason); `notes` say what had to be changed or left out.
    """

    root: Path
    names: list[str]
    features: Shaped[np.ndarray, "n d"]
    hashes: Int64[np.ndarray, " n"]
    failed: list[tuple[str, str]]
    notes: list[str]


def embed(
    encoder: Encoder,
    images: str | Path,
    names: list[str] | None = None,
    keep: Callable[[Tensor], np.ndarray] = Tensor.numpy,
) -> Embedded:
    """Read and embed the images of a folder, chunk by chunk.

    Args:
        encoder: on its device.
        images: a folder, or one file.
        names: files of the folder; None means all.
        keep: what to keep of the features (b, d) of a chunk.

    Raises:
        UserError: no image, or none that can be read.
    """
    root, there, others = find(images)
    chosen = there if names is None else names
    reader = Reader(encoder.channels, encoder.size)
    good, kept, hashes, failed = [], [], [], []
    for read, pixels, bad in reader.stream(root, chosen):
        found = features(encoder, pixels)
        finite = found.isfinite().all(1)
        failed += bad
        for name, fine in zip(read, finite.tolist(), strict=True):
            if fine:
                good.append(name)
            else:
                failed.append((name, "its features are not finite"))
        kept.append(keep(found[finite]))
        hashes.append(content_hashes(pixels[finite]).numpy())
    failed = [(printable(name), reason) for name, reason in failed]
    if not good:
        some = "; ".join(f"{name} ({reason})" for name, reason in failed[:3])
        raise UserError(f"images={images}: none of {len(chosen):,} images can be read: {some}.")
    notes = [*(others if names is None else ()), *reader.notes]
    return Embedded(root, good, np.concatenate(kept), np.concatenate(hashes), failed, notes)


@torch.no_grad()
def features(encoder: Encoder, pixels: UInt8[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
    """Features in float32 on the CPU, in batches; the same for fitting and for answering."""
    device = next(encoder.parameters()).device
    batches = [
        encoder(part.to(device).contiguous(memory_format=torch.channels_last)).cpu()
        for part in pixels.split(BATCH)
    ]
    return torch.cat(batches) if batches else torch.empty(0, encoder.dim)
