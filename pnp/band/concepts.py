"""Concepts: which class labels are P, which are not-P, and which are a coin flip between them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float64, Int8
from numpy.typing import ArrayLike

from pnp.band.inputs import as_vector
from pnp.errors import UserError

_KEYS = ("positive", "negative", "ambiguous", "ignore")


@dataclass(frozen=True)
class Concept:
    """A two-class question asked of integer class labels.

    Args:
        positive: class labels that are P.
        negative: class labels that are not-P; None: all that are not named elsewhere.
        ambiguous: class label -> eta: P with probability eta, a coin flip per sample. Gives any
            labelled dataset a known irreducible band.
        ignore: class labels to leave out.
        name: what reports call it.

    Raises:
        UserError: if a label is in two sets, an eta is outside [0, 1], or nothing can be P.

    Example:
        >>> concept = Concept(positive={5, 7}, ambiguous={6: 0.5}, ignore={0})
        >>> y, eta, keep = concept.assign([5, 6, 0, 1], seed=0)
        >>> eta.tolist(), keep.tolist()
        ([1.0, 0.5, nan, 0.0], [True, True, False, True])
    """

    positive: Iterable[int] = ()
    negative: Iterable[int] | None = None
    ambiguous: Mapping[int, float] = field(default_factory=dict[int, float])
    ignore: Iterable[int] = ()
    name: str = "concept"

    def __post_init__(self) -> None:
        """Freeze the sets and check that they are disjoint."""
        where: dict[int, str] = {}
        for key in _KEYS:
            labels = getattr(self, key)
            if labels is None:
                continue
            for label in labels:
                if int(label) in where:
                    raise UserError(
                        f"concept {self.name!r}: label {label} is both {where[int(label)]} and "
                        f"{key}. Name each label once."
                    )
                where[int(label)] = key
            if key != "ambiguous":
                object.__setattr__(self, key, frozenset(int(label) for label in labels))
        for label, eta in self.ambiguous.items():
            if not 0 <= eta <= 1:
                raise UserError(
                    f"concept {self.name!r}: ambiguous label {label} has eta={eta}, expected the "
                    "probability of P in [0, 1]."
                )
        if not ({"positive", "ambiguous"} & set(where.values())):
            raise UserError(f"concept {self.name!r}: no label is P. Name one under `positive`.")

    def assign(
        self, labels: ArrayLike, seed: int = 0
    ) -> tuple[Int8[np.ndarray, " n"], Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Turn class labels (n,) into y, eta = P(Y=1 | label) and keep, each of shape (n,).

        The coin flips come from `seed`, one per position, so that a split must be assigned whole.
        Where `keep` is False (ignored labels) y is -1 and eta is NaN.

        Raises:
            UserError: if a label is not an integer, or is in no set although `negative` is given.
        """
        read = as_vector(labels, "labels")
        if (read != np.round(read)).any():
            raise UserError("labels: expected integers, one class label per sample.")
        flat = read.astype(np.int64)
        eta = np.full(flat.size, np.nan if self.negative is not None else 0.0)
        if self.negative is not None:
            eta[np.isin(flat, list(self.negative))] = 0.0
        eta[np.isin(flat, list(self.positive))] = 1.0
        for label, share in self.ambiguous.items():
            eta[flat == int(label)] = share
        keep = ~np.isin(flat, list(self.ignore))
        unknown = np.unique(flat[keep & np.isnan(eta)])
        if unknown.size:
            raise UserError(
                f"concept {self.name!r}: labels {unknown.tolist()} are in no set. Add them to "
                "`negative` or `ignore`, or leave `negative` out to mean all others."
            )
        eta[~keep] = np.nan
        flips = np.random.default_rng(seed).random(flat.size)
        y = np.where(keep, flips < eta, -1).astype(np.int8)
        return y, eta, keep


def one_vs_rest(classes: Sequence[str]) -> dict[str, Concept]:
    """One concept per class, by its name: this class against all others.

    Example:
        >>> one_vs_rest(["cat", "dog"])["dog"].assign([0, 1])[0].tolist()
        [0, 1]
    """
    return {name: Concept(positive={i}, name=name) for i, name in enumerate(classes)}


def parse_concepts(
    config: Mapping[Any, Any] | str | None, classes: Sequence[str]
) -> dict[str, Concept]:
    """Read the `concepts` section of a configuration; classes go by index or by name.

    Each entry is `name: [classes]` or `name: {positive: [...], negative: [...], ambiguous: {class:
    eta}, ignore: [...]}`. The entry `one_vs_rest: true` adds every class against the rest; so does
    the whole section being `one_vs_rest` or empty.

    Raises:
        UserError: if a class or a key is unknown (names the nearest one), or as in `Concept`.

    Example:
        >>> parse_concepts({"pet": ["cat", 1]}, ["cat", "dog", "car"])["pet"].positive
        frozenset({0, 1})
    """
    if config is None or config == "one_vs_rest":
        return one_vs_rest(classes)
    if isinstance(config, str):
        raise UserError(f"concepts={config!r}, expected 'one_vs_rest' or a mapping of names.")
    concepts: dict[str, Concept] = {}
    for key, entry in config.items():
        name = str(key)
        if name == "one_vs_rest":
            concepts |= one_vs_rest(classes) if entry else {}
            continue
        parts: Mapping[Any, Any] = (
            cast(Mapping[Any, Any], entry) if isinstance(entry, Mapping) else {"positive": entry}
        )
        for part in parts:
            if part not in _KEYS:
                raise UserError(f"concepts.{name}: unknown key {part!r}.{_nearest(part, _KEYS)}")
        ambiguous = cast(Mapping[Any, Any], parts.get("ambiguous") or {})
        negative = parts.get("negative")
        concepts[name] = Concept(
            positive=_labels(parts.get("positive"), classes, name),
            negative=None if negative is None else _labels(negative, classes, name),
            ambiguous={_label(k, classes, name): float(v) for k, v in ambiguous.items()},
            ignore=_labels(parts.get("ignore"), classes, name),
            name=name,
        )
    return concepts


def _labels(entry: Any, classes: Sequence[str], concept: str) -> list[int]:
    if entry is None:
        return []
    if isinstance(entry, str) or not isinstance(entry, Iterable):
        return [_label(entry, classes, concept)]
    return [_label(each, classes, concept) for each in cast(Iterable[Any], entry)]


def _label(entry: Any, classes: Sequence[str], concept: str) -> int:
    if isinstance(entry, str) and entry in classes:
        return list(classes).index(entry)
    try:
        index = int(entry)
    except (TypeError, ValueError):
        index = -1
    if 0 <= index < len(classes):
        return index
    raise UserError(
        f"concepts.{concept}: unknown class {entry!r}, expected a name or an index below "
        f"{len(classes)}.{_nearest(entry, classes)}"
    )


def _nearest(entry: Any, known: Sequence[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(entry).lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else f" Known: {', '.join(known)}."
