"""Choosing l2 for each probe by rows that its fit does not see, then fitting it on all training rows.

    logistic    one stratified part, a fifth of the training rows of each class, is held out; the path is
                fitted on the rest and scored on it
    ridge       five folds of the moments (crossvalidate.py)

The penalty with the best score is taken, the largest of those that are equal. The test rows play no part.
A held-out part was preferred to folds for logistic probes: it costs 0.8 fits per penalty, five folds cost 4.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probecache.analyze.probes.cross_validate import FOLDS, ridge_scores
from probecache.analyze.probes.fit import BlockResult, check_l2s, fit_block, task_moments
from probecache.analyze.probes.folds import SEED, held_out_rows, split_task
from probecache.analyze.probes.shared_state import Prepared
from probecache.analyze.tasks.task import StoredRows, Task
from probecache.store.errors import InputError

L2_PATH = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
HELD_OUT = 0.2  # share of each class
CHOSEN = ("logistic", "ridge")  # the probes that have an l2


@dataclass(frozen=True)
class HeldOut:
    """A task that fits on four fifths of another's training rows and scores on the rest; its moments."""

    task: Task
    shared: Prepared


def hold_out(
    task: Task, standardize: bool = True, device: str = "auto", memory_limit: int | None = None
) -> HeldOut:
    """What choosing l2 for logistic probes needs of a task; compute it once per task."""
    part = split_task(task, held_out_rows(task.train_labels, HELD_OUT))
    return HeldOut(part, task_moments(part, standardize, device, memory_limit))


def describe_choice(probe: str) -> str:
    """How l2 is chosen, in words: a part of the settings of RESULTS."""
    if probe == "ridge":
        return f"accuracy over {FOLDS} stratified folds of train, seed {SEED}"
    return f"accuracy on {HELD_OUT:.0%} of train held out by class, seed {SEED}"


def fit_chosen(
    task: Task,
    orders: np.ndarray,
    sizes: np.ndarray,
    path: Any = L2_PATH,
    *,
    probe: str = "logistic",
    standardize: bool = True,
    device: str = "auto",
    memory_limit: int | None = None,
    shared: Prepared | None = None,
    held: HeldOut | None = None,
    fit: Callable[..., BlockResult] = fit_block,
) -> tuple[BlockResult, np.ndarray]:
    """Choose l2 from `path` for each order and size, and fit each probe with its own on all rows.

    Returns the probes' arrays (s, f, 1) and the chosen l2, float64 (s, f, 1). Other arguments are those of
    `fit_block`; held: `hold_out(task)` where it is known; fit: what fits, `fit_block` or another solver.
    `n_iter` is of the final fit. Raises InputError for probes without l2.
    """
    if probe not in CHOSEN:
        raise InputError(f"got l2 'auto' for a {probe} probe, which has no l2; give one number")
    path = np.unique(check_l2s(path))
    options: dict[str, Any] = {
        "probe": probe,
        "standardize": standardize,
        "device": device,
        "memory_limit": memory_limit,
    }
    shared = task_moments(task, standardize, device, memory_limit) if shared is None else shared
    if probe == "ridge":
        scores = ridge_scores(shared, orders, sizes, path)
    else:
        held = hold_out(task, standardize, device, memory_limit) if held is None else held
        # One penalty at a time keeps one set of class Grams in memory; on disk all share each pass.
        on_disk = isinstance(task.train, StoredRows)
        parts = [path] if on_disk else [path[i : i + 1] for i in range(len(path))]
        found = [
            fit(held.task, orders, sizes, part, shared=replace(held.shared, curvatures={}), **options)
            for part in parts
        ]
        scores = np.concatenate([result.accuracy for result in found], axis=2)
    chosen = best_penalty(scores, path)  # (s, f)
    return _refit(task, orders, sizes, chosen, shared, fit, options), chosen[..., None]


def best_penalty(scores: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The penalty of the highest score along the last axis, the largest where several are equal.

    >>> best_penalty(np.array([[0.5, 0.7, 0.7, 0.1]]), np.array([0.1, 1.0, 10.0, 100.0])).tolist()
    [10.0]
    """
    return path[::-1][np.argmax(scores[..., ::-1], axis=-1)]


def _refit(
    task: Task,
    orders: np.ndarray,
    sizes: np.ndarray,
    chosen: np.ndarray,
    shared: Prepared,
    fit: Callable[..., BlockResult],
    options: dict[str, Any],
) -> BlockResult:
    """Each probe with its own penalty: those of one penalty and the same sizes are fitted together."""
    groups: dict[tuple[float, tuple[int, ...]], list[int]] = defaultdict(list)
    for s, row in enumerate(chosen):
        for l2 in np.unique(row):
            groups[float(l2), tuple(np.flatnonzero(row == l2))].append(s)
    whole: dict[str, np.ndarray] = {}
    attrs: dict[str, Any] = {}
    for (l2, columns), rows in sorted(groups.items()):
        part = fit(task, orders[rows], sizes[list(columns)], np.array([l2]), shared=shared, **options)
        attrs = part.attrs
        for name, values in vars(part).items():
            if isinstance(values, np.ndarray):
                if name not in whole:
                    whole[name] = np.empty((*chosen.shape, *values.shape[2:]), values.dtype)
                whole[name][np.ix_(rows, columns)] = values
    return BlockResult(**whole, attrs=attrs)
