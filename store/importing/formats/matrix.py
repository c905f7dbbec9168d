"""What every format gives: a shape, a dtype, and rows in order; and several files as one."""

import base64
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from probecache.store.errors import InputError, close_names

Array = np.ndarray[Any, Any]
_AT_ONCE = 1 << 22  # values that are looked through together


class Matrix(Protocol):
    """Rows and columns in a file. Rows are taken in order, so that formats without random access serve."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> Array: ...


class Sequential:
    """A matrix of a format that only reads forward: `start` begins anew, `take` gives the next rows."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        start: Callable[[], Any],
        take: Callable[[Any, int], Array],
    ) -> None:
        self.shape, self.dtype, self._start, self._take = shape, dtype, start, take
        self._reader: Any = None
        self._at = 0

    def __getitem__(self, rows: slice) -> Array:
        first, stop, _ = rows.indices(self.shape[0])
        if self._reader is None or first < self._at:
            self._reader, self._at = self._start(), 0
        while self._at < first:  # over what is not wanted, in pieces
            n = min(first - self._at, 8192)
            self._take(self._reader, n)
            self._at += n
        out = self._take(self._reader, stop - first)
        self._at = stop
        return out


class Joined:
    """Matrices one below the other; InputError names the first that does not fit."""

    def __init__(self, parts: Sequence[Matrix], names: Sequence[str]) -> None:
        self.parts = parts
        first = parts[0]
        for part, name in zip(parts, names, strict=True):
            if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
                raise InputError(
                    f"{name} holds {part.dtype} {part.shape}, {names[0]} {first.dtype} {first.shape}: "
                    "files that are joined have equal columns and dtypes"
                )
        self.starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self.starts[-1]), *first.shape[1:])
        self.dtype = first.dtype

    def __getitem__(self, rows: slice) -> Array:
        first, stop, _ = rows.indices(self.shape[0])
        found = []
        for part, start in zip(self.parts, self.starts[:-1], strict=True):
            low, high = max(first - start, 0), min(stop - start, part.shape[0])
            if low < high:
                found.append(np.asarray(part[slice(int(low), int(high))]))
        return found[0] if len(found) == 1 else np.concatenate(found)


def pick(names: Sequence[str], key: str | None, where: str, what: str = "array") -> str:
    """The key that was asked for, or the only one there is."""
    if key is not None:
        if key not in names:
            raise InputError(f"{where} has no {what} {key!r:.80}; {close_names(key, names)}")
        return key
    if len(names) != 1:
        listed = ", ".join(names[:10]) or "none"
        raise InputError(f"{where} has {len(names)} {what}s ({listed:.200}): name one, FILE:KEY")
    return names[0]


def require_unpacked(attributes: Mapping[str, Any], where: str) -> None:
    """InputError where an array's attributes say that its numbers stand for others, as netCDF packs them."""
    for name, plain in (("scale_factor", 1), ("add_offset", 0)):
        value = _number(attributes.get(name, plain))
        if value != plain:
            raise InputError(
                f"{where} holds packed numbers ({name} {value:g}), which stand for others: open it with "
                "xarray, which unpacks them, and write_arrays the values"
            )


def require_all_there(found: Matrix, attributes: Mapping[str, Any], where: str) -> None:
    """InputError where an array holds the number that its attributes say stands for a missing one.

    It is read through for that, where they name one that is no NaN. -1 is the label of none here, too.
    """
    marks = {
        name: _number(attributes[name]) for name in ("_FillValue", "missing_value") if name in attributes
    }
    marks = {
        name: mark for name, mark in marks.items() if mark == mark and (len(found.shape) > 1 or mark != -1)
    }
    if not marks or found.dtype.kind not in "fiu":
        return
    whole = found.dtype.kind in "iu"  # which may not hold the mark, and are compared as they are
    with np.errstate(over="ignore"):
        kept = {name: mark if whole else found.dtype.type(mark) for name, mark in marks.items()}
    step = max(1, _AT_ONCE // max(1, int(np.prod(found.shape[1:]))))
    for start in range(0, found.shape[0], step):
        block = np.asarray(found[slice(start, start + step)])
        for name, mark in marks.items():
            if count := int((block == kept[name]).sum()):
                raise InputError(
                    f"{where} holds {count} values that stand for missing ones ({name} {mark:g}) from row "
                    f"{start} on: open it with xarray, which makes them NaN, and write_arrays it, such rows "
                    "marked as failed"
                )


def _number(value: Any) -> float:
    """An attribute's number, which xarray writes to zarr as text; NaN where it is none."""
    try:
        if isinstance(value, str):
            return float(struct.unpack("<d", base64.b64decode(value))[0])
        return float(np.ravel(value)[0])
    except (TypeError, ValueError, IndexError, struct.error):
        return math.nan


def missing_library(where: str, name: str) -> InputError:
    return InputError(f"{where}: needs {name} (pip install 'probecache[formats]')")
