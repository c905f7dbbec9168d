"""A probe task: the train and test matrices of one layer, with labels, checked before any work starts."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probecache.analyze.tasks.labels import Labels, load_labels, splits_of
from probecache.store.errors import InputError
from probecache.store.layout import OK

if TYPE_CHECKING:
    from probecache.store.reader import Store

SMALLEST = float(np.finfo(np.float32).tiny)  # spread that is one: below it a column counts as constant


@dataclass(frozen=True)
class StoredRows:
    """Rows of a layer left in the store and read block by block, for layers larger than memory.

    Stands where a float32 (n, d) array does: has `shape`, and `row_blocks` reads either.
    """

    store: "Store"
    split: str
    layer: str
    keep: np.ndarray  # bool (all rows of the split, or union of splits,): those that are used
    shape: tuple[int, int]
    ndim: int = 2

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(start among kept rows, float32 (<= rows, d)) in order; one pass over the store."""
        start, first = 0, 0
        for split in splits_of(self.split):
            for offset, block in self.store.blocks(split, self.layer, rows=rows):
                keep = self.keep[first + offset : first + offset + len(block)]
                kept = _float32(block if keep.all() else block[keep])
                _finite(kept, f"split {split!r}, layer {self.layer!r}", offset)
                if len(kept):
                    yield start, kept
                start += len(kept)
            first += self.store.shape(split, self.layer)[0]


Matrix = np.ndarray | StoredRows


def row_blocks(matrix: Matrix, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(start, float32 (<= rows, d)) over an array or over stored rows."""
    if isinstance(matrix, StoredRows):
        yield from matrix.blocks(rows)
        return
    for start in range(0, matrix.shape[0], rows):
        yield start, matrix[start : start + rows]


@dataclass(frozen=True)
class Task:
    """Train and test features of one layer. Arrays are raw; `mean` and `scale` standardise where asked.

    train, test: float32 (n, d) arrays, or `StoredRows` where they stay on disk.
    train_labels, test_labels: int64 (n,), positions in `classes`; int64 (n, t), 0 or 1 for each of t labels,
    named by `classes`; or float (n,) or (n, t), targets of a regression, with `classes` empty.
    mean, scale: float32 (d,), the training rows' mean and population standard deviation; 1 where constant.
    weights: float64 (n,) >= 0 per training sample, their total above 0 for every class; None: equal weights.
    Raises InputError for anything that a probe could not be fitted on.
    """

    train: Matrix
    train_labels: np.ndarray
    test: Matrix
    test_labels: np.ndarray
    classes: tuple[str, ...] = ()
    layer: str = "features"
    mean: np.ndarray = None  # type: ignore[assignment]
    scale: np.ndarray = None  # type: ignore[assignment]
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            matrix, labels = getattr(self, name), np.asarray(getattr(self, name + "_labels"))
            if not isinstance(matrix, StoredRows):
                matrix = np.ascontiguousarray(matrix, dtype=np.float32)
                if matrix.ndim != 2:
                    raise InputError(f"got {name} of shape {matrix.shape}; it must be (samples, neurons)")
                _finite(matrix, name)
            regression = labels.dtype.kind == "f"
            labels = labels.astype(np.float64 if regression else np.int64)
            if labels.shape[:1] != matrix.shape[:1] or labels.ndim > 2:
                raise InputError(
                    f"got {name} labels {labels.shape} for {matrix.shape[0]} {name} samples; needed: one each"
                )
            object.__setattr__(self, name, matrix)
            object.__setattr__(self, name + "_labels", labels)
        if self.train.shape[1] != self.test.shape[1]:
            raise InputError(f"got {self.train.shape[1]} neurons in train and {self.test.shape[1]} in test")
        if 0 in self.train.shape or 0 in self.test.shape:
            raise InputError(f"got train {self.train.shape} and test {self.test.shape}; neither may be empty")
        self._check_targets()
        if self.weights is not None:
            object.__setattr__(self, "weights", np.asarray(self.weights, dtype=np.float64))
            self._check_weights(self.weights)
        if self.mean is None or self.scale is None:
            mean, scale = column_moments(self.train)
            object.__setattr__(self, "mean", mean)
            object.__setattr__(self, "scale", scale)

    def relabelled(self, train: np.ndarray, test: np.ndarray, classes: tuple[str, ...]) -> "Task":
        """The task with other labels for the same rows, which are neither copied nor checked again."""
        made = copy(self)
        for name, value in (("train_labels", train), ("test_labels", test), ("classes", classes)):
            object.__setattr__(made, name, value)
        made._check_targets()
        return made

    def _check_targets(self) -> None:
        if self.is_regression:
            for labels in (self.train_labels, self.test_labels):
                if not np.isfinite(labels).all():
                    raise InputError("got NaN or infinite regression targets; drop those rows first")
            if self.train_labels.shape[1:] != self.test_labels.shape[1:]:
                raise InputError("got different numbers of targets in train and test")
            return
        if self.target_kind == "labels":
            self._check_several()
            return
        if not self.classes:
            names = tuple(str(i) for i in range(int(self.train_labels.max(initial=-1)) + 1))
            object.__setattr__(self, "classes", names)
        count = len(self.classes)
        present = np.unique(self.train_labels)
        if present.size < 2:
            raise InputError(f"got one class only in train, {self.classes[0]!r}; a probe needs two")
        for name in ("train", "test"):
            labels = getattr(self, name + "_labels")
            if labels.min() < 0 or labels.max() >= count:
                bad = labels[(labels < 0) | (labels >= count)][0]
                raise InputError(f"got {name} label {bad}; the training classes are 0 to {count - 1}")
        if present.size < count:
            missing = sorted(set(range(count)) - set(present.tolist()))
            raise InputError(f"got no train sample of class {self.classes[missing[0]]!r}; leave it out")

    def _check_several(self) -> None:
        """Several labels of a sample: 0 or 1, each of them both in train."""
        count = self.train_labels.shape[1]
        if not self.classes:
            object.__setattr__(self, "classes", tuple(str(i) for i in range(count)))
        if self.test_labels.shape[1:] != (count,) or len(self.classes) != count or not count:
            raise InputError(
                f"got {self.test_labels.shape[1:]} labels in test and {count} in train; needed: as many"
            )
        for name in ("train", "test"):
            wrong = getattr(self, name + "_labels")
            wrong = wrong[(wrong != 0) & (wrong != 1)]
            if wrong.size:
                raise InputError(f"got {name} label {wrong[0]} among several labels; allowed: 0 or 1")
        constant = np.flatnonzero(self.train_labels.min(axis=0) == self.train_labels.max(axis=0))
        if constant.size:
            name, value = self.classes[constant[0]], self.train_labels[0, constant[0]]
            raise InputError(
                f"got label {name!r} that is {value} for every training row; a probe needs both: leave it out"
            )

    def _check_weights(self, weights: np.ndarray) -> None:
        if weights.shape != self.train.shape[:1] or not (np.isfinite(weights) & (weights >= 0)).all():
            raise InputError(f"got sample weights {weights.shape}; needed: one per train sample, >= 0")
        if not weights.any():
            raise InputError("got sample weights that are all zero; at least one must be above 0")
        if self.target_kind != "classes":
            return
        without = np.flatnonzero(np.bincount(self.train_labels, weights, len(self.classes)) == 0)
        if without.size:
            raise InputError(
                f"got total sample weight 0 for class {self.classes[without[0]]!r}; allowed: above 0 for "
                "every class; raise its class weight or its samples' weights, or leave its rows out"
            )

    @property
    def target_kind(self) -> str:
        """What the labels are: "classes", several "labels" of a sample, or "numbers"."""
        if self.train_labels.dtype.kind == "f":
            return "numbers"
        return "classes" if self.train_labels.ndim == 1 else "labels"

    @property
    def is_regression(self) -> bool:
        return self.target_kind == "numbers"

    @property
    def n_outputs(self) -> int:
        """Weight vectors per probe: one for two classes, else one per class, label or number."""
        if self.target_kind == "classes":
            return 1 if len(self.classes) == 2 else len(self.classes)
        return 1 if self.train_labels.ndim == 1 else self.train_labels.shape[1]

    @property
    def n_neurons(self) -> int:
        return self.train.shape[1]


def load_task(
    store: "Store",
    layer: str,
    train: str = "train",
    test: str = "test",
    memory_limit: int | None = None,
    target: str = "label",
) -> Task:
    """The task of one layer of a store: rows that failed or lack the target are left out, classes are those
    of the train split. A split may be a union such as 'train+val'.

    memory_limit: bytes; where the two matrices as float32 would take more than a third of it, they stay in
    the store and are read in row blocks at each pass.
    Raises InputError where no row has the target, and for test classes that training never saw.
    """
    found = load_labels(store, train, test, target)
    rows = load_rows(store, layer, {train: found.train_keep, test: found.test_keep}, memory_limit)
    return make_task(rows[train], rows[test], found, layer)


def make_task(train: "Rows", test: "Rows", found: Labels, layer: str) -> Task:
    """Rows of two splits with what they are labelled with; the rows are shared, not copied."""
    given = (train.matrix, found.train, test.matrix, found.test, found.task_classes, layer)
    return Task(*given, train.mean, train.scale)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rows:
    """Usable rows of one layer, and their columns' moments where they are known without a pass."""

    matrix: Matrix
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return getattr(self.matrix, "nbytes", 0)


def load_rows(
    store: "Store",
    layer: str,
    keeps: dict[str, np.ndarray],
    memory_limit: int | None = None,
    known: dict[str, Rows] | None = None,
) -> dict[str, Rows]:
    """The kept rows of each split, in memory; or left in the store where all of them are too large.

    known: rows of some of the splits that are in memory, and are not read again.
    """
    width = int(store.shape(splits_of(next(iter(keeps)))[0], layer)[1])
    shapes = {split: (int(keep.sum()), width) for split, keep in keeps.items()}
    stream = stays_on_disk(sum(4 * n * d for n, d in shapes.values()), memory_limit)
    found: dict[str, Rows] = {}
    for union, keep in keeps.items():
        there = (known or {}).get(union)
        if there is not None and stream == isinstance(there.matrix, StoredRows):
            found[union] = there
            continue
        if stream:
            # what stays on disk is not read twice for moments that extraction kept
            all_of_them = _moments_known(store, union, keep)
            mean, scale = stored_moments(store, union, layer) if all_of_them else (None, None)
            found[union] = Rows(StoredRows(store, union, layer, keep, shapes[union]), mean, scale)
            continue
        parts, first = [], 0
        for split in splits_of(union):
            part = np.asarray(store.matrix(split, layer, dtype="float32"))
            here = keep[first : first + len(part)]
            parts.append(part if here.all() else part[here])
            first += len(part)
        found[union] = Rows(parts[0] if len(parts) == 1 else np.concatenate(parts))
    return found


def _moments_known(store: "Store", union: str, keep: np.ndarray) -> bool:
    """Whether the store's moments are those of the kept rows: of one split, all of whose usable rows are."""
    return len(splits_of(union)) == 1 and bool((keep == (np.asarray(store.status(union)) == OK)).all())


def stored_moments(store: "Store", split: str, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """`column_moments` of a split's usable rows from the store's own, without reading a row."""
    kept = store.moments(split, layer)
    constant = kept["minimum"].values == kept["maximum"].values
    scale = np.sqrt(kept["variance"].values)
    scale = np.where(constant | (scale < SMALLEST), 1.0, scale)
    mean = np.where(constant, kept["minimum"].values, kept["mean"].values)
    return mean.astype(np.float32), scale.astype(np.float32)


def stays_on_disk(size: int, memory_limit: int | None) -> bool:
    """Whether matrices of `size` bytes are read in row blocks: where they take over a third of the limit."""
    return memory_limit is not None and 3 * size > memory_limit


def rotate(task: Task, basis: np.ndarray) -> Task:
    """The task in rotated columns: standardised features times `basis`, float (d, r).

    Principal components and random projections become prefix problems: k components are the first k columns.
    The rotated columns are standardised again by their own training moments where a probe asks for it.
    """
    if isinstance(task.train, StoredRows) or isinstance(task.test, StoredRows):
        raise InputError(
            "got a layer that stays on disk; rotated columns need it in memory: raise memory_limit"
        )
    if basis.ndim != 2 or basis.shape[0] != task.n_neurons:
        raise InputError(f"got a basis of shape {basis.shape}; needed: ({task.n_neurons}, components)")
    basis = (basis / task.scale[:, None]).astype(np.float32)  # (d, r)
    train, test = ((matrix - task.mean) @ basis for matrix in (task.train, task.test))
    return Task(
        train, task.train_labels, test, task.test_labels, task.classes, task.layer, weights=task.weights
    )


def column_moments(matrix: Matrix, rows: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each column, float32 (d,) each; scale 1 where constant.

    Two passes in float64, so that a large mean does not swallow a small spread.
    """
    n, d = matrix.shape
    total = np.zeros(d)
    low, high = np.full(d, np.inf), np.full(d, -np.inf)
    for _, block in row_blocks(matrix, rows):
        total += block.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    mean = total / n
    square = np.zeros(d)
    for _, block in row_blocks(matrix, rows):
        square += ((block - mean) ** 2).sum(axis=0)
    scale = np.where(low == high, 1.0, np.sqrt(square / n))
    scale = np.where(scale >= SMALLEST, scale, 1.0)
    return np.where(low == high, low, mean).astype(np.float32), scale.astype(np.float32)


def _float32(block: np.ndarray) -> np.ndarray:
    """float32 values. torch widens float16 in half of numpy's time, which every pass over a store pays."""
    if block.dtype != np.float16:
        return np.asarray(block, dtype=np.float32)
    import torch

    return torch.from_numpy(block).float().numpy()


def _finite(matrix: np.ndarray, where: str, offset: int = 0) -> None:
    # A sum is finite only if every term is, and needs no boolean copy of the matrix. Finite values whose sum
    # overflows are looked at one by one.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(matrix.sum()):
            return
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        raise InputError(
            f"got {len(bad)} NaN or infinite values in {where}, first at row {bad[0][0] + offset}, "
            f"column {bad[0][1]}; mark such rows as failed or drop them"
        )
