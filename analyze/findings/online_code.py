"""Online-code length of labels given features: accuracy and the data it took, in one number of bits.

    L = t_1 log2 K  +  sum over blocks i of  -log2 p_i(labels of block i+1),    p_i fitted on rows before it

(Voita and Titov, Information-Theoretic Probing with Minimum Description Length, EMNLP 2020, section 2.2).
The rows come in a random order, cut at growing shares; each block is coded by the probe of all rows before
it, the first one uniformly. Compression is n log2 K / L: 1 where the features say nothing, less where the
probe is surer than it is right, as with few rows and little l2.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.metrics import get_metric
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.matrix import StoredRows, column_moments
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from probecache.store.reader import Store

# The paper's: doubling shares of the rows.
SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
_STREAM = 0x3D1


def online_code(
    task: Task,
    shares: Iterable[float] | None = None,
    *,
    l2: float = 1e-4,
    seed: int = 0,
    columns: np.ndarray | None = None,
    **options: Any,
) -> xr.Dataset:
    """The online code of the task's training labels by logistic probes; the test rows play no part.

    Parameters
    ----------
    task : classes, in memory.
    shares : rising shares of the training rows, the last of them 1; None: `SHARES`, without the first of
        them that lack a class.
    l2 : of every probe.
    seed : of the order of the rows.
    columns : neurons that the probes see, int (k,); all by default.
    options : `fit_block`'s: standardize, device, tol, max_iter.

    Returns
    -------
    Dataset with `code_length`, `uniform_length` (bits) and `compression`; and, over `block`, `rows` (coded up
    to there) and `block_length` (bits).

    Raises InputError for shares that do not rise to 1, for numbers, for a layer on disk, and where the first
    share holds no row of some class: raise it.
    """
    if task.is_regression or isinstance(task.train, StoredRows):
        raise InputError(
            "got numbers, or a layer that stays on disk; an online code needs classes, in memory"
        )
    ends = _ends(SHARES if shares is None else shares, len(task.train_labels))
    columns = np.arange(task.n_neurons) if columns is None else np.asarray(columns)
    order = np.random.default_rng([_STREAM, int(seed)]).permutation(len(task.train_labels))
    classes = len(task.classes)
    if shares is None:
        enough = _all_classes(task.train_labels[order])
        ends = [end for end in ends if end >= enough]
    lacking = sorted(set(range(classes)) - set(task.train_labels[order[: ends[0]]].tolist()))
    if lacking:
        raise InputError(
            f"got a first share of {ends[0]} rows without class {task.classes[lacking[0]]!r}; the first "
            f"{_all_classes(task.train_labels[order])} rows hold every class: begin there"
        )
    bits = [ends[0] * np.log2(classes)]
    for start, stop in pairwise(ends):
        bits.append(_block_bits(task, order[:start], order[start:stop], columns, l2, options))
    total, uniform = float(np.sum(bits)), float(ends[-1] * np.log2(classes))
    return xr.Dataset(
        {
            "code_length": ((), total, {"units": "bits"}),
            "uniform_length": ((), uniform, {"units": "bits"}),
            "compression": ((), uniform / total, {"units": "1"}),
            "block_length": ("block", np.array(bits), {"units": "bits"}),
            "rows": ("block", np.array(ends)),
        },
        attrs={"l2": l2, "seed": seed, "neurons": len(columns)},
    )


def code_of_store(
    store: "Store", layer: str, train: str, target: str, shares: Iterable[float] | None = None, **how: Any
) -> xr.Dataset:
    """`online_code` of one layer's rows and a target's labels; how: its other arguments."""
    return online_code(load_task(store, layer, train, train, target=target), shares, **how)


def _all_classes(labels: np.ndarray) -> int:
    """How many of the first rows hold every class of the labels."""
    return int(np.unique(labels, return_index=True)[1].max()) + 1


def _ends(shares: Iterable[float], n: int) -> list[int]:
    given = list(shares)
    try:
        values = np.asarray(given, dtype=np.float64)
        good = values.ndim == 1 and len(values) > 1 and (np.diff(values) > 0).all() and values[0] > 0
    except (TypeError, ValueError):
        good = False
    if not good or values[-1] != 1:
        raise InputError(f"got shares {given!r}; allowed: two or more, rising from above 0 to 1")
    return sorted({max(1, round(share * n)) for share in values.tolist()})


def _block_bits(
    task: Task, seen: np.ndarray, coded: np.ndarray, columns: np.ndarray, l2: float, options: dict[str, Any]
) -> float:
    """-log2 p of the labels of rows `coded`, by the probe of rows `seen`."""
    train = task.train[seen]  # type: ignore[index]
    mean, scale = column_moments(train)
    part = replace(
        task,
        train=train,
        train_labels=task.train_labels[seen],
        test=task.train[coded],  # type: ignore[index]
        test_labels=task.train_labels[coded],
        mean=mean,
        scale=scale,
        weights=None if task.weights is None else task.weights[seen],
    )
    how = options | {"metrics": (get_metric("log_loss"),)}
    found = fit_block(part, columns[None], np.array([len(columns)]), np.array([l2]), **how)
    return float(found.metrics["log_loss"].item()) * len(coded) / np.log(2)
