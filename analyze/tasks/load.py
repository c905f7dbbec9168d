"""A task from a store: which rows of a layer are kept, and whether they are in memory or stay on disk."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probecache.analyze.tasks.labels import Labels, load_labels, splits_of
from probecache.analyze.tasks.matrix import Matrix, StoredRows, stored_moments
from probecache.analyze.tasks.task import Task
from probecache.store.layout import OK

if TYPE_CHECKING:
    from probecache.store.reader import Store


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


def stays_on_disk(size: int, memory_limit: int | None) -> bool:
    """Whether matrices of `size` bytes are read in row blocks: where they take over a third of the limit."""
    return memory_limit is not None and 3 * size > memory_limit
