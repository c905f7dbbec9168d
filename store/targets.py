"""What probes predict: named targets of a split, `label` among them, and how values become one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.format.target_array import KINDS, check_target_name

Array = np.ndarray[Any, Any]
MAX_CLASSES = 1_000_000  # each has a name in a document
MAX_NUMBERED = 10_000  # larger whole numbers are names of classes, not their numbers


@dataclass(frozen=True, eq=False)
class Target:
    """What a probe predicts for the rows of one split, in row order; n rows.

    kind    "classes"  values int64 (n,): positions in `names`, -1 where unlabelled
            "labels"   values int8 (n, t): 1 or 0 for each of t labels at once, -1 where unlabelled
            "numbers"  values float64 (n, t): t columns, NaN where unlabelled
    names   of the classes, of the labels, or of the columns of numbers
    """

    name: str
    kind: str
    values: Array
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_target_name(self.name) if self.name != "label" else None
        if self.kind not in KINDS:
            raise InputError(f"target {self.name!r} is of kind {self.kind!r:.40}: allowed {', '.join(KINDS)}")
        flat, width = self.kind == "classes", len(self.names)
        shaped = self.values.ndim == 1 if flat else self.values.ndim == 2 and self.values.shape[1] == width
        if self.values.dtype != KINDS[self.kind] or not shaped:
            shape = "(samples,)" if flat else f"(samples, {width})"
            raise InputError(
                f"target {self.name!r} holds {self.values.dtype} {self.values.shape}: "
                f"{self.kind} are {KINDS[self.kind]} {shape}"
            )

    @property
    def labelled(self) -> Array:
        """bool (n,): rows that have this target, in every column."""
        if self.kind == "classes":
            return self.values >= 0
        known = ~np.isnan(self.values) if self.kind == "numbers" else self.values >= 0
        return np.asarray(known.all(axis=1))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.values)


def make_target(
    name: str, values: Any, kind: str | None = None, names: Sequence[str] | None = None
) -> Target:
    """The target that `values`, (rows,) or (rows, columns), are.

    kind   default: text, booleans, categories and whole numbers are classes, in two columns or more labels
           (0 or 1); other numbers are numbers. Missing (None, NaN, text of no letter, -1 of a whole number)
           is unlabelled.
    names  default: of classes their text in sorted order ("0" to the largest for whole numbers below 10,000),
           or the categories in theirs; of columns their numbers

    InputError for what could be read in two ways: -1 beside 1 only, whole numbers below -1.
    """
    check_target_name(name)
    values, names = _unnested(name, values, names)
    if names is None and kind in (None, "classes"):
        names = categories(values)
    cells = _cells(name, values, kind)
    whole = cells.dtype.kind in "iub"
    if kind is None:
        one = cells.ndim == 1 or cells.shape[1] == 1
        kind = "numbers" if cells.dtype.kind == "f" else "classes" if one else "labels"
    if kind not in KINDS:
        raise InputError(f"target {name!r}: kind {kind!r:.40}: allowed {', '.join(KINDS)}")
    if kind == "classes":
        if cells.ndim == 2 and cells.shape[1] != 1:
            raise InputError(f"target {name!r} has {cells.shape[1]} columns: classes are one")
        return _classes(name, cells.reshape(-1), names)
    columns = cells.reshape(len(cells), -1)
    width = columns.shape[1]
    if not width or (names is not None and len(names) != width):
        raise InputError(f"target {name!r} has {width} columns and {len(names or ())} names: name each")
    called = tuple(names) if names is not None else (name,) if width == 1 else tuple(map(str, range(width)))
    if len(set(called)) < width:
        raise InputError(
            f"target {name!r}: its columns are called {', '.join(called):.80}: each must be told apart"
        )
    if not whole and cells.dtype.kind != "f":
        raise InputError(f"target {name!r} holds text: {kind} are numbers (kind classes takes text)")
    if kind == "labels":
        return Target(name, kind, _labels(name, columns), called)
    if whole and len(columns) and int(np.abs(columns.astype(object)).max()) > 1 << 53:
        raise InputError(f"target {name!r} holds whole numbers beyond 2**53: numbers are float64")
    numbers = columns.astype(np.float64)
    if np.isinf(numbers).any():
        raise InputError(
            f"target {name!r} holds {int(np.isinf(numbers).sum())} infinite values: numbers are finite"
        )
    return Target(name, kind, numbers, called)


def categories(values: Any) -> list[str] | None:
    """The categories of a categorical of pandas as texts, in their order; None of anything else."""
    found = getattr(getattr(values, "dtype", None), "categories", None)
    return None if found is None else [str(category) for category in found]


def has_own_missing(values: Any) -> bool:
    """Whether these are of one of pandas' own types: categories, nullable numbers, texts."""
    return hasattr(values, "isna") and not isinstance(getattr(values, "dtype", values), np.dtype)


def _unnested(name: str, values: Any, names: Sequence[str] | None) -> tuple[Any, Sequence[str] | None]:
    """Lists in cells as columns: several texts are labels that a row has, several numbers columns of it."""
    several = list | tuple | set | frozenset | np.ndarray
    if not isinstance(values, list | np.ndarray) or not any(isinstance(v, several) for v in values):
        return values, names
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values, names
    rows = [v if isinstance(v, several) else None for v in values]
    if any(row is None and v is not None for row, v in zip(rows, values, strict=True)):
        raise InputError(f"target {name!r} mixes lists and single values: use one of them")
    if all(isinstance(cell, str) for row in rows if row is not None for cell in row):
        found = sorted({cell for row in rows if row is not None for cell in row})
        called = list(names) if names is not None else found
        if not found or set(found) - set(called):
            raise InputError(f"target {name!r}: its lists hold no label, or one beside those given")
        has = [[-1] * len(called) if row is None else [int(label in row) for label in called] for row in rows]
        return np.array(has, np.int8), called
    widths = {len(row) for row in rows if row is not None}
    if len(widths) != 1:
        raise InputError(
            f"target {name!r} holds lists of {min(widths)} to {max(widths)} values: use one length"
        )
    empty = [None] * widths.pop()
    flat = [list(row) if row is not None else empty for row in rows]
    return np.array(flat, object if empty in flat else None), names


def _cells(name: str, values: Any, kind: str | None) -> Array:
    """(rows,) or (rows, columns): whole numbers, booleans, floats, or objects that are texts and None."""
    if getattr(values, "is_floating_point", None) is not None:  # torch's
        values = values.detach().cpu().numpy()
    missing = getattr(values, "isna", None)  # pandas': its own missing values, categories, nullable numbers
    if kind in (None, "classes") and (called := categories(values)) is not None:
        codes = np.asarray(values.codes if hasattr(values, "codes") else values.cat.codes)
        return np.array([called[code] if code >= 0 else None for code in codes], object)
    array = values.to_numpy(object) if missing is not None and not _plain(values) else np.asarray(values)
    if array.ndim not in (1, 2):
        raise InputError(f"target {name!r} has shape {array.shape}: use (samples,) or (samples, columns)")
    if array.dtype.kind in "TU":  # of a list, whose numbers numpy has made texts
        array = np.asarray(values, object)
    if array.dtype.kind != "O":
        if array.dtype.kind not in "iubf":
            raise InputError(f"target {name!r} holds {array.dtype}: use text, whole numbers or numbers")
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            raise InputError(f"target {name!r} holds {array.dtype}: numbers are float64")
        return array
    gone = np.asarray(missing()) if missing is not None else _missing(array)
    known = array[~gone]
    if not len(known):
        return np.full(array.shape, np.nan)
    if all(isinstance(v, str) for v in known):
        known_or_none = array.copy()
        known_or_none[gone | (array == "")] = None  # an empty cell, as in a table
        return known_or_none
    if all(isinstance(v, bool | np.bool_) for v in known) or all(
        isinstance(v, int | np.integer) and not isinstance(v, bool) for v in known
    ):
        if kind == "numbers":
            return np.where(gone, np.nan, array).astype(np.float64)
        if known.min() < 0 and gone.any():
            raise InputError(
                f"target {name!r} holds {known.min()} beside missing cells: which is unlabelled? "
                "(kind numbers takes any)"
            )
        try:
            return np.where(gone, -1, array).astype(np.int64)
        except OverflowError:
            raise InputError(f"target {name!r} holds whole numbers beyond 64 bits") from None
    try:
        if not any(isinstance(v, str | bytes) for v in known):
            return np.where(gone, np.nan, array).astype(np.float64)
    except (TypeError, ValueError):
        pass
    kinds = sorted({type(v).__name__ for v in known})
    raise InputError(f"target {name!r} mixes {', '.join(kinds)}: use one of text, whole numbers, numbers")


def _plain(values: Any) -> bool:
    """Whether a Series or DataFrame holds numpy's own types only."""
    found = list(values.dtypes) if hasattr(values, "columns") else [values.dtype]
    return all(isinstance(dtype, np.dtype) for dtype in found)


def _missing(array: Array) -> Array:
    return np.array([v is None or v != v for v in array.ravel()], bool).reshape(array.shape)


def _classes(name: str, cells: Array, names: Sequence[str] | None) -> Target:
    if cells.dtype.kind == "b":
        cells, names = cells.astype(np.int64), names or ("False", "True")
    if cells.dtype.kind == "f":
        known = ~np.isnan(cells)
        if (cells[known] != np.round(cells[known])).any() or (np.abs(cells[known]) > 1 << 53).any():
            raise InputError(
                f"target {name!r} holds numbers that are not whole: classes are text or whole numbers"
            )
        cells = np.where(known, cells, -1).astype(np.int64)
    if cells.dtype.kind == "O":
        known = np.array([v is not None for v in cells], bool)
        found = sorted(set(cells[known]))
        called = list(names) if names is not None else found
        place = {text: i for i, text in enumerate(called)}
        strange = [text for text in found if text not in place]
        if strange:
            raise InputError(f"target {name!r} holds {strange[0]!r:.60}, which is no class of those given")
        values = np.array([place[v] if v is not None else -1 for v in cells], np.int64)
        return Target(name, "classes", values, _told(name, called))
    low, high = (int(cells.min()), int(cells.max())) if len(cells) else (-1, -1)
    if low < -1:
        raise InputError(
            f"target {name!r} holds whole numbers from {low}: classes are numbered from 0, -1 is unlabelled "
            "(kind numbers takes any)"
        )
    if names is None and low == -1 and high == 1 and not (cells == 0).any():
        raise InputError(
            f"target {name!r} holds -1 and 1 only: is -1 'no' or unlabelled? Write 0 and 1, text or nothing"
        )
    if names is None and high < MAX_NUMBERED:
        return Target(name, "classes", cells.astype(np.int64), tuple(map(str, range(high + 1))))
    if names is None:
        numbers = np.unique(cells[cells >= 0])
        values = np.where(cells < 0, -1, np.searchsorted(numbers, cells))
        return Target(name, "classes", values.astype(np.int64), _told(name, [str(v) for v in numbers]))
    if len(names) <= high:
        raise InputError(
            f"target {name!r}: {len(names)} class names for numbers up to {high}: name every class"
        )
    return Target(name, "classes", cells.astype(np.int64), tuple(names))


def _told(name: str, names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > MAX_CLASSES:
        raise InputError(f"target {name!r} has {len(names):,} classes: at most {MAX_CLASSES:,}")
    if len(set(names)) < len(names):
        raise InputError(f"target {name!r}: two classes have one name")
    return tuple(names)


def _labels(name: str, columns: Array) -> Array:
    values = (
        np.where(np.isnan(columns), -1, columns) if columns.dtype.kind == "f" else columns.astype(np.int64)
    )
    wrong = ~np.isin(values, (-1, 0, 1))
    if wrong.any():
        raise InputError(
            f"target {name!r} of {columns.shape[1]} columns holds {values[wrong][0]}: labels are 0 or 1 "
            "(-1 or empty: unlabelled), one column each; classes are one column"
        )
    if (values == -1).any() and not (values == 0).any():
        raise InputError(
            f"target {name!r} holds -1 and 1 only: is -1 'no' or unlabelled? Write 0 and 1, or leave empty"
        )
    return values.astype(np.int8)
