"""What the probes of two splits predict: usable rows, classes, labels; checked before any work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probecache.store.errors import InputError
from probecache.store.layout import OK

if TYPE_CHECKING:
    from probecache.store.reader import Store


@dataclass(frozen=True)
class Labels:
    """What the probes of a train and a test split predict, checked; no features are read for it.

    classes: names of those that train holds. train_keep, test_keep: bool over all rows of the split, status
    is OK. train, test: int64 over the kept rows, positions in `classes`.
    """

    classes: tuple[str, ...]
    train_keep: np.ndarray
    test_keep: np.ndarray
    train: np.ndarray
    test: np.ndarray


def load_labels(store: "Store", train: str, test: str) -> Labels:
    """Labels and usable rows of two splits. Raises InputError as `load_task` does."""
    train_keep, fit = _usable(store, train)
    test_keep, score = _usable(store, test)
    classes, fit, score = _match_classes(fit, score, store.class_names(train), store.class_names(test))
    return Labels(classes, train_keep, test_keep, fit, score)


def _usable(store: "Store", split: str) -> tuple[np.ndarray, np.ndarray]:
    keep = np.asarray(store.status(split)) == OK
    if not keep.any():
        raise InputError(f"got no usable row in split {split!r}; extract it again")
    labels = np.asarray(store.labels(split))[keep]
    if (labels < 0).any():
        raise InputError(f"got unlabelled rows in split {split!r}; a probe needs a label for every row")
    return keep, labels


def _match_classes(
    train: np.ndarray, test: np.ndarray, train_names: Sequence[str], test_names: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Classes present in train, and both label arrays as positions in them; test labels matched by name."""
    names = _told_apart(train_names) or [str(i) for i in range(int(train.max()) + 1)]
    others = _told_apart(test_names) or names
    if train.max() >= len(names) or (len(test_names) and test.max() >= len(others)):
        raise InputError(f"got label {max(train.max(), test.max())}; the store names {len(names)} classes")
    present = np.unique(train)
    if present.size < 2:
        raise InputError(f"got one class only in train, {names[int(present[0])]!r}; a probe needs two")
    position = {names[int(label)]: i for i, label in enumerate(present)}
    tested = {others[int(i)] if i < len(others) else str(i) for i in np.unique(test)}
    unseen = sorted(tested - position.keys())
    if unseen:
        raise InputError(
            f"got {len(unseen)} test classes that training never saw ({', '.join(unseen[:3])}); "
            "extract training rows of them, or choose another test split"
        )
    lookup = np.full(int(test.max()) + 1, -1)
    for label in np.unique(test):
        lookup[label] = position[others[int(label)]]
    return tuple(position), np.searchsorted(present, train), lookup[test]


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names that several classes share (ImageNet has two cranes) with their label behind them."""
    counts = Counter(names)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(names)]
