"""Parts of the training rows, stratified by class: what is held out to choose a penalty, and K folds."""

import numpy as np

from probecache.analyze.tasks.rows import rows_of
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

SEED = 0  # of every split made here, so that a choice can be repeated


def held_out_rows(labels: np.ndarray, share: float = 0.2, seed: int = SEED) -> np.ndarray:
    """bool (n,): `share` of each class, rounded to nearest, at least one row of a class that has two.

    A class with one row stays in training. labels: int64 (n,); of several labels or numbers, all rows are one
    class.
    """
    chosen = np.zeros(len(labels), bool)
    random = np.random.default_rng(seed)
    if labels.ndim > 1 or labels.dtype.kind == "f":
        labels = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        chosen[rows[: min(len(rows) - 1, max(1, round(share * len(rows))))]] = True
    if not chosen.any():
        raise InputError(
            f"got one row per class in train ({len(labels)} rows); l2 'auto' needs two of a class: give an l2"
        )
    return chosen


def fold_numbers(labels: np.ndarray, folds: int, seed: int = SEED) -> np.ndarray:
    """The fold 0..folds - 1 of each row, int64 (n,): each class, shuffled, is dealt out in turn.

    Sizes of folds differ by one row at most, and so do a class's rows in them. Rows with real-valued targets
    are one class.
    """
    n = len(labels)
    if not 2 <= folds <= n:
        raise InputError(f"got {folds} folds of {n} training rows; allowed: 2 to the number of rows")
    random = np.random.default_rng(seed)
    groups = labels if labels.dtype.kind == "i" and labels.ndim == 1 else np.zeros(n, np.int64)
    dealt = np.lexsort((random.permutation(n), groups))
    numbers = np.empty(n, np.int64)
    numbers[dealt] = np.arange(n) % folds
    return numbers


def split_task(task: Task, held: np.ndarray) -> Task:
    """The task of fitting on the training rows that are not held out and scoring on those that are.

    Columns are standardised by the rows that are fitted, as for any task.
    """
    weights = None if task.weights is None else task.weights[~held]
    return Task(
        rows_of(task.train, ~held),
        task.train_labels[~held],
        rows_of(task.train, held),
        task.train_labels[held],
        task.classes,
        task.layer,
        weights=weights,
        offset=task.offset,
    )
