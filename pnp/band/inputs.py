"""Scores, labels, posteriors and budgets, validated once where they come in."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeGuard

import numpy as np
from jaxtyping import Bool, Float64, Shaped
from numpy.typing import ArrayLike

from pnp.errors import UserError, number

Method = Literal["exact", "crc", "empirical"]
Budget = Literal["joint", "class_conditional", "answered"]
METHODS: tuple[Method, ...] = ("exact", "crc", "empirical")
BUDGETS: tuple[Budget, ...] = ("joint", "class_conditional")  # those with a curve


@dataclass(frozen=True)
class Budgets:
    """Error budgets and confidence; see `pnp.band.ThreeWayThreshold`.

    Args:
        max_fp: largest share of samples called P that are not-P.
        max_fn: largest share of samples called not-P that are P.
        delta: probability that the draw of the calibration samples breaks a budget.
        method: `exact`, `crc` or `empirical`.
        budget: shares are `joint` (of all samples), `class_conditional` (of the samples of the
            class) or `answered` (of the samples with that answer).
    """

    max_fp: float = 0.01
    max_fn: float = 0.01
    delta: float = 0.1
    method: Method = "exact"
    budget: Budget = "joint"


@dataclass(frozen=True)
class LabelledScores:
    """Valid scores of both classes, each order sorted on first use and kept.

    `values` holds the scores, shape (n,); `positive`, shape (n,), is True for label 1; `groups`,
    shape (n,), names the group of each sample, if there are groups.
    """

    values: Float64[np.ndarray, " n"]
    positive: Bool[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"] | None = None

    def by_group(self) -> "dict[str, LabelledScores]":
        """The samples of each group; all of them as "" without groups."""
        if self.groups is None:
            return {"": self}
        rows = {str(name): self.groups == name for name in np.unique(self.groups)}
        return {k: LabelledScores(self.values[own], self.positive[own]) for k, own in rows.items()}

    @cached_property
    def ordered(self) -> Float64[np.ndarray, " n"]:
        """All scores, ascending."""
        return np.sort(self.values)

    @cached_property
    def negatives(self) -> Float64[np.ndarray, " m"]:
        """Scores of label 0, ascending."""
        return np.sort(self.values[~self.positive])

    @cached_property
    def positives(self) -> Float64[np.ndarray, " m"]:
        """Scores of label 1, ascending."""
        return np.sort(self.values[self.positive])

    @property
    def tied_share(self) -> float:
        """Share of samples that have exactly the score of another sample."""
        same = np.concatenate([[False], self.ordered[1:] == self.ordered[:-1], [False]])
        return float(np.mean(same[1:] | same[:-1]))


def labelled_scores(
    scores: ArrayLike,
    y: ArrayLike,
    scores_name: str = "scores",
    y_name: str = "y",
    groups: ArrayLike | None = None,
) -> LabelledScores:
    """Read scores (n,), labels 0/1 (n,) that hold both classes, and names of groups (n,), if any.

    Raises:
        UserError: as `as_vector` and `as_labels`.
    """
    values = as_vector(scores, scores_name)
    names = None if groups is None else np.asarray(groups).astype(str)
    if names is not None:
        check_length(names, values.size, "groups")
    return LabelledScores(values, as_labels(y, values.size, y_name, need_both=True), names)


def as_vector(values: ArrayLike, name: str) -> Float64[np.ndarray, " n"]:
    """Read `values` as a non-empty, finite vector of shape (n,) in float64.

    Raises:
        UserError: if it is no array of numbers, not 1-D, empty, masked, or holds NaN or infinity.
    """
    if np.ma.is_masked(values):
        raise UserError(
            f"{name}: some values are masked, expected a number for every sample. Drop the masked "
            "samples from all arrays first."
        )
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name}: cannot be read as an array of numbers ({error}). Pass a 1-D array, list or "
            "CPU tensor; for other tensors call .detach().float().cpu() first."
        ) from error
    if vector.ndim != 1 or vector.size == 0:
        raise UserError(
            f"{name}: shape {vector.shape}, expected (n,) with n >= 1: one number per sample. "
            "For two-class logits of shape (n, 2) pass logits[:, 1] - logits[:, 0]."
        )
    bad = ~np.isfinite(vector)
    if bad.any():
        raise UserError(
            f"{name}: {int(bad.sum())} of {vector.size} values are NaN or infinite (first at index "
            f"{int(np.argmax(bad))}), expected finite numbers. Pass logits, not logit(probability) "
            "of a rounded 0 or 1, and fix or drop these samples."
        )
    return vector


def as_labels(
    labels: ArrayLike, n: int, name: str = "y", need_both: bool = False
) -> Bool[np.ndarray, " n"]:
    """Read `labels` as n booleans, True for the concept (label 1).

    Raises:
        UserError: if a label is not 0 or 1, if there are not n of them, or if one class is missing
            although `need_both` is set.
    """
    vector = as_vector(labels, name)
    check_length(vector, n, name)
    values = np.unique(vector)
    if not np.isin(values, (0.0, 1.0)).all():
        raise UserError(
            f"{name}: labels {values[:8].tolist()}{' ...' if values.size > 8 else ''}, expected "
            "only 0 and 1. Map class labels to a concept with "
            "pnp.evaluation.Concept(...).assign(labels)."
        )
    if need_both and values.size == 1:
        raise UserError(
            f"{name}: every label is {int(values[0])}, expected both 0 and 1: without one class "
            "its errors cannot be measured. Add samples of the missing class or choose another "
            "split."
        )
    return vector == 1.0


def as_posterior(eta: ArrayLike, n: int | None = None) -> Float64[np.ndarray, " n"]:
    """Read `eta` = P(Y=1 | x) as a vector of numbers in [0, 1].

    Raises:
        UserError: if a value lies outside [0, 1] or there are not n of them.
    """
    vector = as_vector(eta, "eta")
    if n is not None:
        check_length(vector, n, "eta")
    if vector.min() < 0 or vector.max() > 1:
        raise UserError(
            f"eta: values in [{vector.min():g}, {vector.max():g}], expected probabilities in "
            "[0, 1]. Pass P(Y=1 | x), not logits."
        )
    return vector


def check_length(vector: np.ndarray, n: int, name: str) -> None:
    """Raise UserError unless `vector` has n entries."""
    if len(vector) != n:
        raise UserError(f"{name}: {len(vector)} values for {n} samples. Pass one per sample.")


def fraction(value: float, name: str) -> float:
    """Return `value` as a float in the open interval (0, 1), or raise UserError."""
    plain = float(value) if isinstance(value, np.number) else value
    return number(name, plain, 0, 1, open_low=True, open_high=True)


def is_integer(value: object) -> TypeGuard[int]:
    """True for an integer of Python or numpy; a bool is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
