"""Rows of a table to rows of a split, by sample name: each key once, nothing by position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probecache.store.errors import InputError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Match:
    """Which row of a table belongs to each row of a split.

    source    int64 (samples,): the table's row, -1 where it has none
    n_keys    rows of the table; `strange`: how many of them name no sample of the split, `example`: the first
    """

    source: Array
    n_keys: int
    strange: int = 0
    example: str = ""

    @property
    def n_matched(self) -> int:
        """Rows of the split that have a row in the table."""
        return int(np.count_nonzero(self.source >= 0))

    def __str__(self) -> str:
        text = f"{self.n_matched} of {len(self.source)} samples have a row"
        if self.strange:
            first = f"(the first: {self.example!r:.80})"
            text += f"; {self.strange} of {self.n_keys} rows name no sample here {first}"
        return text


def match(samples: Sequence[str], keys: Sequence[str], where: str) -> Match:
    """Match `keys` (the table's rows) with `samples` (the split's).

    InputError for a key that is there twice, and where nothing matches. Rows of the split that share a sample
    name (tokens of one text) all get its row.

    >>> match(["a", "b", "c"], ["c", "x", "a"], "labels.csv").source.tolist()
    [2, -1, 0]
    """
    place: dict[str, int] = {}
    for i, key in enumerate(keys):
        if place.setdefault(key, i) != i:
            raise InputError(
                f"{where}: {key!r:.80} occurs twice, in rows {place[key]} and {i}: keep one of them"
            )
    source = np.array([place.get(name, -1) for name in samples], np.int64)
    if not (source >= 0).any():
        got = ", ".join(repr(key)[:60] for key in keys[:2]) or "no row"
        numbered = keys[0] == "0" and list(keys) == list(map(str, range(len(keys))))
        todo = "name another key or rewrite it"
        if numbered:  # the index that pandas makes where there is none
            todo = "give the names as key, or arrays (.to_numpy()) of one value per row in the split's order"
        raise InputError(
            f"{where}: no row names a sample of the split: it has {got}, the split "
            f"{', '.join(repr(str(name))[:60] for name in samples[:2])}: {todo}"
        )
    known = set(samples)
    strange = [key for key in keys if key not in known]
    return Match(source, len(keys), len(strange), strange[0] if strange else "")
