"""Reading scores, labels, posteriors and budgets: one clear message for each way to be wrong."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from pnp.errors import UserError

Method = Literal["exact", "crc", "empirical"]
Budget = Literal["joint", "class_conditional"]


def as_vector(values: ArrayLike, name: str) -> Float64[np.ndarray, " n"]:
    """Read `values` as a non-empty, finite vector of shape (n,) in float64.

    Raises:
        UserError: if it is no array of numbers, not 1-D, empty, or holds NaN or infinity.
    """
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
    seen = np.unique(vector)
    if not np.isin(seen, (0.0, 1.0)).all():
        raise UserError(
            f"{name}: labels {seen[:8].tolist()}{' ...' if seen.size > 8 else ''}, expected only 0 "
            "and 1. Map class labels to a concept with pnp.evaluation.Concept(...).assign(labels)."
        )
    if need_both and seen.size == 1:
        raise UserError(
            f"{name}: every label is {int(seen[0])}, expected both 0 and 1: without one class its "
            "errors cannot be measured. Add samples of the missing class or choose another split."
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


def check_fraction(value: float, name: str) -> float:
    """Return `value` as a float in the open interval (0, 1), or raise UserError."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}={value!r}, expected a number between 0 and 1.") from error
    if not 0.0 < number < 1.0:
        raise UserError(
            f"{name}={number:g}, expected a number strictly between 0 and 1, such as 0.01 for 1 %."
        )
    return number


def check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    """Raise UserError unless `value` is one of `choices`."""
    if value not in choices:
        raise UserError(f"{name}={value!r}, expected one of {', '.join(map(repr, choices))}.")


def share(mask: Bool[np.ndarray, " n"]) -> float:
    """Share of True."""
    return int(np.count_nonzero(mask)) / mask.size


def tied_share(scores: Float64[np.ndarray, " n"]) -> float:
    """Share of samples that have exactly the score of another sample."""
    counts = np.unique(scores, return_counts=True)[1]
    return float(counts[counts > 1].sum() / scores.size)
