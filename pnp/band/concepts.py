"""Concepts: class labels that are P, that are not-P, and that are a coin flip between them."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float64, Int8
from numpy.typing import ArrayLike

from pnp.band.inputs import as_vector, is_integer
from pnp.errors import UserError, near, number

_KEYS = ("positive", "negative", "ambiguous", "ignore")
_MEAN = "mean"  # stands for all concepts in the keys of metrics


@dataclass(frozen=True)
class Concept:
    """A two-class question asked of integer class labels.

    Args:
        positive: class labels that are P.
        negative: class labels that are not-P; None: all that are not named elsewhere.
        ambiguous: class label -> eta: P with probability eta, a coin flip per sample. Gives any
            labelled dataset a known irreducible band.
        ignore: class labels to leave out.
        name: heading in reports.

    Raises:
        UserError: if a label is no integer or in two sets, an eta is outside [0, 1], or nothing can
            be P.

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
        home: dict[int, str] = {}
        for key in _KEYS:
            if getattr(self, key) is None:
                continue
            labels = list(getattr(self, key))
            for label in labels:
                if not is_integer(label):
                    raise UserError(
                        f"concept {self.name!r}: {key} label {label!r}, expected an integer class "
                        "label."
                    )
                if int(label) in home:
                    raise UserError(
                        f"concept {self.name!r}: label {label} is both {home[int(label)]} and "
                        f"{key}. Name each label once."
                    )
                home[int(label)] = key
            if key != "ambiguous":
                object.__setattr__(self, key, frozenset(int(label) for label in labels))
        for label, eta in self.ambiguous.items():
            plain = float(eta) if isinstance(eta, np.number) else eta
            number(f"concept {self.name!r}: eta of ambiguous label {label}", plain, 0, 1)
        if not ({"positive", "ambiguous"} & set(home.values())):
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
        values = as_vector(labels, "labels")
        if (values != np.round(values)).any():
            raise UserError("labels: expected integers, one class label per sample.")
        flat = values.astype(np.int64)
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


def metric_names(concepts: Iterable[str]) -> list[str]:
    """Names of concepts inside a metric's key, all different and free of its separator "/".

    A name that is taken, as "mean" always is, gets the first free number.

    Example:
        >>> metric_names(["T-shirt/top", "T-shirt-top", "mean"])
        ['T-shirt-top', 'T-shirt-top-2', 'mean-2']
    """
    taken = [_MEAN]
    for concept in concepts:
        name = concept.replace("/", "-")
        numbered = (f"{name}-{i}" for i in itertools.count(2))
        taken.append(next(n for n in itertools.chain([name], numbered) if n not in taken))
    return taken[1:]


def parse_concepts(
    config: Mapping[Any, Any] | str | None, classes: Sequence[str], reserved: Sequence[str] = ()
) -> dict[str, Concept]:
    """Read the `concepts` section of a configuration; classes go by index or by name.

    Each entry is `name: [classes]` or `name: {positive: [...], negative: [...], ambiguous: {class:
    eta}, ignore: [...]}`; text is a class name, an integer an index. The entry `one_vs_rest: true`
    adds every class against the rest; so does the whole section being `one_vs_rest` or empty.

    Args:
        config: the section.
        classes: names of the classes, in the order of their indices.
        reserved: names of other concepts of the same data set.

    Raises:
        UserError: if a class or a key is unknown (names the nearest one), an integer is the name of
            one class and the index of another, a concept's name is taken, or as in `Concept`.

    Example:
        >>> parse_concepts({"pet": ["cat", 1]}, ["cat", "dog", "car"])["pet"].positive
        frozenset({0, 1})
    """
    if config is None or config == "one_vs_rest":
        return one_vs_rest(classes)
    if isinstance(config, str):
        raise UserError(f"concepts={config!r}, expected 'one_vs_rest' or a mapping of names.")
    named = {str(key): entry for key, entry in config.items()}
    with_classes = bool(named.pop("one_vs_rest", False))
    taken = [_MEAN, *reserved, *(classes if with_classes else ())]
    concepts: dict[str, Concept] = {}
    for name, entry in named.items():
        if name.replace("/", "-") in [other.replace("/", "-") for other in taken]:
            raise UserError(
                f"concepts.{name}: this name is taken ('/' and '-' count as equal); taken are "
                f"{', '.join(taken)}. Choose another name."
            )
        taken.append(name)
        concepts[name] = _concept(name, entry, classes)
    return concepts | (one_vs_rest(classes) if with_classes else {})


def _concept(name: str, entry: Any, classes: Sequence[str]) -> Concept:
    parts: Mapping[Any, Any] = (
        cast(Mapping[Any, Any], entry) if isinstance(entry, Mapping) else {"positive": entry}
    )
    for part in parts:
        if part not in _KEYS:
            raise UserError(
                f"concepts.{name}: unknown key {part!r}, expected one of {', '.join(_KEYS)}."
                f"{near(part, _KEYS)}"
            )
    ambiguous = cast(Mapping[Any, Any], parts.get("ambiguous") or {})
    negative = parts.get("negative")
    return Concept(
        positive=_labels(parts.get("positive"), classes, name),
        negative=None if negative is None else _labels(negative, classes, name),
        ambiguous={_label(k, classes, name): v for k, v in ambiguous.items()},
        ignore=_labels(parts.get("ignore"), classes, name),
        name=name,
    )


def _labels(entry: Any, classes: Sequence[str], concept: str) -> list[int]:
    if entry is None:
        return []
    if isinstance(entry, str) or not isinstance(entry, Iterable):
        return [_label(entry, classes, concept)]
    return [_label(each, classes, concept) for each in cast(Iterable[Any], entry)]


def _label(entry: Any, classes: Sequence[str], concept: str) -> int:
    names = list(classes)
    if isinstance(entry, str) and entry in names:
        return names.index(entry)
    if is_integer(entry):
        index, name = int(entry), str(entry)
        inside = 0 <= index < len(names)
        if name in names and names.index(name) != index:
            other = f", {names[index]!r} for the class with index {index}" if inside else ""
            raise UserError(
                f"concepts.{concept}: {index} is ambiguous: it is the name of the class with index "
                f"{names.index(name)}, and could be an index itself. Write names in quotes: "
                f"{name!r} for the class called {name}{other}."
            )
        if inside:
            return index
    raise UserError(
        f"concepts.{concept}: unknown class {entry!r}, expected a name or an index below "
        f"{len(names)}.{near(entry, names) or ' Names: ' + ', '.join(names) + '.'}"
    )
