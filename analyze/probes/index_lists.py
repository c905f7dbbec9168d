"""Probes on explicit lists of neurons, of any sizes, nested in nothing."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError
from probecache.store.writing.subset import check_columns


def fit_lists(task: Task, lists: Sequence[Sequence[int]], l2s: np.ndarray, **options: Any) -> BlockResult:
    """Fit and score a probe on each list of neurons, for every l2. Arrays are (lists, 1, l2s).

    Each list is gathered and fitted as a column order of its own; all share the task's moments, and lists of
    one length share each pass over rows that stay on disk. options: `fit_block`'s, but for coefficients,
    which lists of different lengths cannot share an array for. Raises InputError for a number outside the
    layer or twice in a list.
    """
    if options.get("return_coef"):
        raise InputError("got return_coef for lists of neurons; call fit_block for each length")
    columns = [check_columns(np.asarray(one), task.n_neurons, f"list {i}") for i, one in enumerate(lists)]
    if not columns:
        raise InputError("got no list of neurons; give one or more")
    if options.get("shared") is None and options.get("class_weight") is None:
        names = ("standardize", "device", "memory_limit")
        given = {name: options[name] for name in names if name in options}
        options = options | {"shared": task_moments(task, **given)}
    groups: dict[int, list[int]] = defaultdict(list)
    for i, one in enumerate(columns):
        groups[len(one)].append(i)
    parts = []
    for size, rows in groups.items():
        orders = np.stack([columns[i] for i in rows])
        parts.append((rows, fit_block(task, orders, np.array([size]), l2s, **options)))
    return BlockResult.assemble((len(columns),), parts)
