"""What the probes of a train and a test split predict: usable rows, classes, labels; checked before any work.

A split may be a union, `train+val`: its rows are those of the first, then those of the next.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from probecache.store.errors import InputError
from probecache.store.layout import OK

if TYPE_CHECKING:
    from probecache.store.reader import Store
    from probecache.store.targets import Target


@dataclass(frozen=True)
class Labels:
    """What the probes of a train and a test split predict, checked; no features are read for it.

    kind: of the target: "classes", "labels" (several at once) or "numbers".
    classes: names of the classes that train holds, or of the labels or the columns of numbers.
    train_keep, test_keep: bool over all rows of the split: status is OK and the row has the target.
    train, test: over the kept rows: int64 (n,), positions in `classes`; int64 (n, t), 0 or 1; float64 (n, t).
    """

    kind: str
    classes: tuple[str, ...]
    train_keep: np.ndarray
    test_keep: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @property
    def task_classes(self) -> tuple[str, ...]:
        """`classes` as a task has them: none of numbers."""
        return () if self.kind == "numbers" else self.classes


def splits_of(name: str) -> tuple[str, ...]:
    """The splits of a union: 'train+val' is ('train', 'val'). InputError where one is there twice."""
    parts = tuple(part.strip() for part in name.split("+"))
    if len(set(parts)) < len(parts):
        twice = next(part for part in parts if parts.count(part) > 1)
        raise InputError(
            f"got splits {name!r}, with {twice!r} twice; name each once, or its rows count double"
        )
    return parts


def load_labels(store: "Store", train: str, test: str, target: str = "label") -> Labels:
    """Labels and usable rows of two splits. Raises InputError as `load_task` does."""
    train_keep, fit = _usable(store, train, target)
    test_keep, score = _usable(store, test, target)
    kind = fit[0].kind
    if {part.kind for part in (*fit, *score)} != {kind}:
        kinds = ", ".join(sorted({part.kind for part in (*fit, *score)}))
        raise InputError(f"got target {target!r} of kinds {kinds} in {train} and {test}; it must be one kind")
    if kind == "classes":
        classes, left, right = _match_classes(fit, score)
    else:
        classes, left, right = _match_columns(fit, score, target)
    return Labels(kind, classes, train_keep, test_keep, left, right)


def check_both(found: Labels, target: str) -> None:
    """InputError where one of several labels is the same for every training row."""
    if found.kind != "labels":
        return
    constant = np.flatnonzero(found.train.min(axis=0) == found.train.max(axis=0))
    if constant.size:
        raise InputError(
            f"got target {target!r} with label {found.classes[constant[0]]!r} that is "
            f"{found.train[0, constant[0]]} for every training row; a probe needs both: write the target "
            "without it"
        )


def check_size(numbers: np.ndarray, where: str) -> None:
    """InputError where a column's numbers, or what they differ by, leave what float32 products can hold."""
    for column in np.asarray(numbers, np.float64).reshape(len(numbers), -1).T:
        with np.errstate(over="ignore"):
            spread = float(column.max() - column.min())
        if spread > 1e30 or 0 < spread < 1e-30:
            raise InputError(
                f"{where} from {column.min():g} to {column.max():g}; allowed: a range of 1e-30 to 1e30; "
                "write them in another unit"
            )


def _usable(store: "Store", union: str, target: str) -> tuple[np.ndarray, "list[Target]"]:
    """Which rows are usable, and the target on those, split by split."""
    masks, parts = [], []
    for split in splits_of(union):
        usable = np.asarray(store.status(split)) == OK
        if not usable.any():
            raise InputError(f"got no usable row in split {split!r}; extract it again")
        found = store.target(split, target)
        keep = usable & found.labelled
        if not keep.any():
            raise InputError(
                f"got no row with target {target!r} in split {split!r}: all {int(usable.sum())} usable rows "
                "are unlabelled; choose another target, or write it with `probecache target`"
            )
        masks.append(keep)
        parts.append(replace(found, values=found.values[keep]))
    return np.concatenate(masks), parts


def _match_columns(
    train: "list[Target]", test: "list[Target]", target: str
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Several labels or numbers: columns by name, in the order of the first split."""
    names = train[0].names
    for part in (*train, *test):
        if set(part.names) != set(names):
            raise InputError(
                f"got target {target!r} with other columns in another split ({', '.join(part.names)[:60]}); "
                f"needed: {', '.join(names)[:60]}"
            )
    left, right = (
        np.concatenate([part.values[:, [part.names.index(name) for name in names]] for part in parts])
        for parts in (train, test)
    )
    if train[0].kind == "numbers":
        check_size(left, f"got target {target!r} with numbers")
        return names, left.astype(np.float64), right.astype(np.float64)
    return names, left.astype(np.int64), right.astype(np.int64)


def _match_classes(
    train: "list[Target]", test: "list[Target]"
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Classes present in train, and both label arrays as positions in them; classes are matched by name."""
    known: dict[str, int] = {}  # name -> its first place, in the order of the splits and their labels
    for part in train:
        names = _names(part.names, part.values)
        for label in np.unique(part.values):
            known.setdefault(names[int(label)], len(known))
    if len(known) < 2:
        raise InputError(f"got only one class in train, {next(iter(known))!r}; a probe needs two")
    unnamed = not any(part.names for part in train)
    unseen: set[str] = set()
    for part in test:
        names = _names(part.names, part.values)
        unseen |= {names[int(label)] for label in np.unique(part.values)} - known.keys()
    if unseen:
        raise InputError(
            f"got {len(unseen)} test classes that training never saw ({', '.join(sorted(unseen)[:3])}); "
            "extract training rows of them, or choose another test split"
        )
    if unnamed:  # numbers of classes keep their order, whichever split they came from
        known = {name: i for i, name in enumerate(sorted(known, key=int))}
    return tuple(known), _positions(train, known), _positions(test, known)


def _positions(parts: "list[Target]", known: dict[str, int]) -> np.ndarray:
    found = []
    for part in parts:
        names = _names(part.names, part.values)
        lookup = np.full(int(part.values.max()) + 1, -1, np.int64)
        for label in np.unique(part.values):
            lookup[label] = known[names[int(label)]]
        found.append(lookup[part.values])
    return np.concatenate(found)


def _names(names: Sequence[str], values: np.ndarray) -> list[str]:
    """A name for every label; InputError where the store names fewer."""
    highest = int(values.max())
    if not names:
        return [str(label) for label in range(highest + 1)]
    if highest >= len(names):
        raise InputError(f"got label {highest}; the store names {len(names)} classes")
    return told_apart(names)


def told_apart(names: Sequence[str]) -> list[str]:
    """Names that several classes share (ImageNet has two cranes) with their label behind them."""
    counts = Counter(names)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(names)]
