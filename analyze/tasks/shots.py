"""Few training rows: a number of each class, or a share of them, drawn by a seed and nested like columns.

Each class's rows are shuffled by the seed, apart from the others'; s shots are the first s of each. So the
rows for 4 shots hold those for 1, a share holds every smaller one, and a class's draw does not depend on
which other classes there are. Targets without classes (labels, numbers) are drawn as one class: shots are
rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.analyze.tasks.matrix import column_moments
from probecache.analyze.tasks.rows import rows_of
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

ALL = "all"
_STREAM = 0x5407  # rows are drawn apart from whatever else a seed draws


def check_shots(shots: Any) -> tuple[str, ...]:
    """The coordinate `shots`: each asked for once, in its order, as text; InputError for anything else.

    Allowed: "all", whole numbers from 1 (rows of each class), shares in (0, 1) (of the rows of each class).

    >>> check_shots([1, "4", 0.01, "all", 4])
    ('1', '4', '0.01', 'all')
    """
    several = isinstance(shots, Iterable) and not isinstance(shots, str)
    given = list(shots) if several else [shots]
    if not given:
        raise InputError(f"got no shots; give {_ALLOWED}")
    return tuple(dict.fromkeys(_text(one) for one in given))


_ALLOWED = "'all', whole numbers of rows per class, or shares between 0 and 1"


def _text(shots: Any) -> str:
    text = str(shots).strip()
    if text == ALL:
        return ALL
    try:
        if not isinstance(shots, bool) and float(text) >= 1:
            return str(int(text))  # not of "1.0": it could be one row, or all of them
        if 0 < float(text) < 1:
            return f"{float(text):.12g}"
    except ValueError:
        pass
    raise InputError(f"got shots {shots!r}; allowed: {_ALLOWED}")


def shot_rows(labels: np.ndarray, shots: str, seed: int, classes: Sequence[str] = ()) -> np.ndarray:
    """The rows that `shots` draws, bool (n,): s of each class, or max(1, round(share * rows)) of each.

    labels: int64 (n,), classes from 0, rows below 0 left out; or float, or (n, t), which is one class.
    shots: as `check_shots` gives it. classes: their names, for the message.
    Raises InputError where a class has fewer rows than asked: a mean over shots would mix two designs.
    """
    labels = np.asarray(labels)
    if labels.ndim > 1 or labels.dtype.kind == "f":
        labels = np.zeros(len(labels), np.int64)
    if shots == ALL:
        return labels >= 0
    chosen = np.zeros(len(labels), bool)
    share = float(shots) if float(shots) < 1 else None
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        count = int(shots) if share is None else max(1, round(share * len(rows)))
        if count > len(rows):
            name = repr(classes[label]) if len(classes) else str(label)
            which = f"class {name} has" if len(classes) or labels.max() > 0 else "train has"
            raise InputError(
                f"got {shots} shots, and {which} {len(rows)} training rows; allowed: up to that, or 'all'"
            )
        random = np.random.default_rng([_STREAM, int(seed), int(label)])
        chosen[random.permutation(rows)[:count]] = True
    return chosen


def take_shots(task: Task, shots: str, seed: int) -> Task:
    """The task with the training rows that `shots` draws, standardised by those rows alone."""
    if shots == ALL:
        return task
    chosen = shot_rows(task.train_labels, shots, seed, task.classes)
    train = rows_of(task.train, chosen)
    mean, scale = column_moments(train)
    weights = None if task.weights is None else task.weights[chosen]
    return replace(
        task, train=train, train_labels=task.train_labels[chosen], mean=mean, scale=scale, weights=weights
    )
