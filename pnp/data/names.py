"""Many file names in arrays: less than half the memory of strings, and shared by processes."""

from collections.abc import Sequence
from typing import overload

import numpy as np
from torch import Tensor

# The bytes of any name that a file may have, the same in every locale.
ENCODING, ODD = "utf-8", "surrogateescape"


class Names(Sequence[str]):
    """An immutable sequence of strings that is read one at a time.

    Each string is made when it is read. A tuple of str would be copied into every worker: reading a
    str updates its reference count and dirties the page.

    Args:
        names: without the character NUL.

    >>> names = Names(["a/1.jpg", "b/2.jpg", "b/3.jpg"])
    >>> names[-1], len(names), list(names.take(np.array([2, 0])))
    ('b/3.jpg', 3, ['b/3.jpg', 'a/1.jpg'])
    """

    def __init__(self, names: Sequence[str]) -> None:
        text = "\0".join(names).encode(ENCODING, "surrogatepass")
        self._text = np.frombuffer(text, np.uint8)
        cuts = np.flatnonzero(self._text == 0)
        ends = np.array([len(text)] if len(names) else [], np.int64)
        self._start = np.concatenate([np.zeros_like(ends), cuts + 1])
        self._stop = np.concatenate([cuts, ends])
        assert len(self._start) == len(names)

    def __len__(self) -> int:
        return len(self._start)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Names": ...
    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return self._with(self._text, self._start[index], self._stop[index])
        text = self._text[self._start[index] : self._stop[index]]
        return text.tobytes().decode(ENCODING, "surrogatepass")

    def take(self, index: Tensor | np.ndarray) -> "Names":
        """The names of these numbers, in this order; the text is shared."""
        index = np.asarray(index)
        return self._with(self._text, self._start[index], self._stop[index])

    @classmethod
    def join(cls, parts: "Sequence[Names]") -> "Names":
        """The names of all parts, one after the other."""
        texts = {id(part._text): part._text for part in parts}  # parts of one whole share theirs
        ends = np.cumsum([len(text) for text in texts.values()])
        shift = dict(zip(texts, [0, *ends], strict=False))
        start, stop = (
            np.concatenate([getattr(part, key) + shift[id(part._text)] for part in parts])
            for key in ("_start", "_stop")
        )
        return cls._with(np.concatenate(list(texts.values())), start, stop)

    @classmethod
    def _with(cls, text: np.ndarray, start: np.ndarray, stop: np.ndarray) -> "Names":
        names = cls.__new__(cls)
        names._text, names._start, names._stop = text, start, stop
        return names
