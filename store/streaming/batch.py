"""What a stream is given: a batch, checked whole before any of it is kept, and the shard that it fills."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.targets import has_own_missing, make_target
from probecache.store.writing.cast import as_numpy, cast_rows, tell_rounding

Array = np.ndarray[Any, Any]
UNSAID = -2  # a label that the caller did not give


@dataclass(frozen=True)
class Batch:
    """Rows of every layer and column. labels, samples: None where the caller did not give them."""

    rows: int
    values: dict[str, Array]
    columns: dict[str, Array]
    labels: Array | None
    samples: list[str] | None

    def part(self, start: int, stop: int) -> "Batch":
        at = slice(start, stop)
        return Batch(
            stop - start,
            {name: v[at] for name, v in self.values.items()},
            {name: v[at] for name, v in self.columns.items()},
            None if self.labels is None else self.labels[at],
            None if self.samples is None else self.samples[at],
        )


def as_batch(
    activations: Mapping[str, Any],
    widths: Mapping[str, int],
    columns: Mapping[str, Any],
    labels: Any,
    samples: Sequence[str] | None,
) -> Batch:
    """The batch, or InputError that says what of it is missing or of another shape."""
    if not isinstance(activations, Mapping) or set(activations) != set(widths):
        got = (
            ", ".join(map(str, activations))
            if isinstance(activations, Mapping)
            else type(activations).__name__
        )
        raise InputError(f"a batch holds {got or 'nothing'}: give one array for each of {', '.join(widths)}")
    values = {name: as_numpy(activations[name], f"layer {name!r}") for name in widths}
    rows = len(next(iter(values.values())))
    for name, array in values.items():
        if array.shape != (rows, widths[name]):
            raise InputError(
                f"layer {name!r} has shape {array.shape}, not ({rows}, {widths[name]}): one row per sample"
            )
        cast_rows(array[:0], "float32")  # numbers
    kept = {name: np.asarray(as_numpy(v, f"column {name!r}"), np.float64) for name, v in columns.items()}
    for name, array in kept.items():
        if array.shape != (rows,):
            raise InputError(f"column {name!r} has shape {array.shape}, not ({rows},): one number per row")
    given = None if labels is None else _numbered(labels)
    if given is not None and (
        given.shape != (rows,) or given.dtype.kind not in "iu" or given.min(initial=0) < -1
    ):
        raise InputError(
            f"labels are {given.dtype} {given.shape}: use ({rows},) integers, -1 where there is none"
        )
    names = None if samples is None else [str(name) for name in samples]
    if names is not None and len(names) != rows:
        raise InputError(f"{len(names)} samples for {rows} rows")
    return Batch(rows, values, kept, None if given is None else given.astype(np.int64), names)


def _numbered(labels: Any) -> Array:
    """Labels as numbers, missing ones as -1; InputError for texts, whose classes are not known yet."""
    if hasattr(labels, "detach"):
        return as_numpy(labels, "labels")
    if np.asarray(labels).dtype.kind not in "bOUT" and not has_own_missing(labels):
        return as_numpy(labels, "labels")
    if any(isinstance(label, str) for label in np.ravel(np.asarray(labels, object))):
        raise InputError(
            "labels are texts: a stream does not know all classes beforehand, so give their numbers, and the "
            "names as class_names"
        )
    return make_target("labels", labels, "classes").values


class ShardBuffer:
    """The rows of one shard as they come in, each layer in a dtype that holds what every batch gave: they are
    cast where they are written, which counts what that loses.

    dtypes  what each layer is stored as
    asked   layers whose dtype somebody chose; of the others it is said, once, where rows are rounded
    """

    def __init__(
        self, rows: int, dtypes: Mapping[str, str], columns: Sequence[str], asked: frozenset[str]
    ) -> None:
        self.dtypes = dict(dtypes)
        self._untold = {name: dtype for name, dtype in dtypes.items() if name not in asked}
        self.room, self.filled = rows, 0
        self.values: dict[str, Array] = {}
        self.columns = {name: np.full(rows, np.nan) for name in columns}
        self.labels = np.full(rows, UNSAID, np.int64)
        self.samples: list[str | None] = [None] * rows

    def add(self, batch: Batch) -> None:
        """Keep a batch that fits into what is left."""
        at = slice(self.filled, self.filled + batch.rows)
        for name, dtype in list(self._untold.items()):
            if tell_rounding(batch.values[name], dtype, f"layer {name!r}"):
                del self._untold[name]
        for name, given in batch.values.items():
            self._room_for(name, given)[at] = given
        for name, column in self.columns.items():
            column[at] = batch.columns[name]
        self.labels[at] = UNSAID if batch.labels is None else batch.labels
        self.samples[at] = [None] * batch.rows if batch.samples is None else batch.samples
        self.filled += batch.rows

    def _room_for(self, name: str, given: Array) -> Array:
        """The rows of a layer, made or made wider where their dtype does not hold that of `given`."""
        kept = self.values.get(name)
        common = given.dtype if kept is None else _common(kept.dtype, given.dtype)
        if kept is None or kept.dtype != common:
            wider = self.values[name] = np.empty((self.room, given.shape[1]), common)
            if kept is not None:
                wider[: self.filled] = kept[: self.filled]
            return wider
        return kept

    def identity(self, start: int, stored: tuple[Array, list[str], Array] | None) -> tuple[Array, list[str]]:
        """Labels and samples of the rows; what was not said is as stored, else -1 and the row number."""
        labels, names = self.labels[: self.filled].copy(), []
        known = 0 if stored is None else len(stored[0])
        for i, name in enumerate(self.samples[: self.filled]):
            of_store = stored is not None and i < known
            if labels[i] == UNSAID:
                labels[i] = stored[0][i] if stored is not None and of_store else -1
            if name is None:
                name = stored[1][i] if stored is not None and of_store else str(start + i)
            names.append(name)
        return labels, names

    def clear(self) -> None:
        self.filled = 0


def _common(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype that holds the values of both."""
    try:
        return np.promote_types(one, other)
    except TypeError:  # bfloat16 has none with float16, nor with integers of more than 8 bits
        return np.dtype(np.float64)
