"""Tasks that a process keeps between blocks: rows of a layer, what they are labelled with, their moments.

Targets of one layer share its rows and their Gram matrix, so that forty targets cost one pass over the data.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.analyze.probes.fit import task_moments
from probecache.analyze.probes.select_l2 import HeldOut, hold_out
from probecache.analyze.probes.shared_state import SharedState, share_labels
from probecache.analyze.sweeps.job import Job
from probecache.analyze.tasks.class_weights import weigh_classes
from probecache.analyze.tasks.labels import load_labels, splits_of
from probecache.analyze.tasks.task import Rows, Task, load_rows, make_task

if TYPE_CHECKING:
    from probecache.analyze.probes.design.gram import Moments
    from probecache.store.reader import Store


@dataclass(frozen=True)
class Loaded:
    """A task as it was loaded. rows_key: what its rows are, whatever they are labelled with; test_keep: bool
    over all rows of the test split; train_names, test_names: of the kept samples."""

    task: Task
    shared: SharedState
    rows_key: tuple[Any, ...]
    test_keep: np.ndarray
    train_names: np.ndarray
    test_names: np.ndarray


@dataclass
class Cache:
    """Tasks of this process, least recently used first, within `limit` bytes (None: without limit)."""

    limit: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # one block at a time, on all threads
    held: "OrderedDict[tuple[Any, ...], Loaded | HeldOut]" = field(default_factory=OrderedDict)
    stores: dict[str, "Store"] = field(default_factory=dict)  # opened once each

    def open(self, path: str) -> "Store":
        if path not in self.stores:
            from probecache.store.reader import open_store

            self.stores[path] = open_store(path)
        return self.stores[path]

    def get(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What `make()` gave for `key`, made once; before that the oldest go, as if it were the largest."""
        if key not in self.held:
            self._make_room()
            self.held[key] = make()
        self.held.move_to_end(key)
        return self.held[key]

    def like(self, rows_key: tuple[Any, ...]) -> "Loaded | None":
        """A task that is held whose rows are these."""
        for value in reversed(self.held.values()):
            if isinstance(value, Loaded) and value.rows_key == rows_key:
                return value
        return None

    def _make_room(self) -> None:
        """Sizes are taken anew each time: what is held grows as blocks prepare more for a task."""
        while self.limit is not None and self.held:
            parts = [dict(_parts(value)) for value in self.held.values()]
            together: dict[int, int] = {}
            for part in parts:
                together |= part  # rows that several targets share count once
            if sum(together.values()) + max(sum(part.values()) for part in parts) <= self.limit:
                return
            self.held.popitem(last=False)


def _parts(held: "Loaded | HeldOut") -> Iterator[tuple[int, int]]:
    """(identity, bytes) of what is held."""
    for matrix in (held.task.train, held.task.test):
        yield id(matrix), getattr(matrix, "nbytes", 0)
    yield id(held.shared), held.shared.nbytes


def load(
    cache: Cache, job: Job, layer: str, target: str, train: str, test: str, found: "Moments | None" = None
) -> Loaded:
    """The task of one layer and target, from the cache or the store.

    found: the moments of a layer that stays on disk, where a cluster summed them up.
    """
    key = (job.store, *job.digests_of(layer, target), layer, target, train, test, *job.task_settings)
    return cache.get(key, lambda: _load(cache, job, layer, target, train, test, found))


def load_together(
    cache: Cache, job: Job, layer: str, targets: tuple[str, ...], found: "Moments | None" = None
) -> list[Loaded]:
    """`load` of targets of two classes over the same rows, and without weights: one pass serves all."""
    train, test = job.plan.train, job.plan.test
    first = load(cache, job, layer, targets[0], train, test, found)
    store = cache.open(job.store)
    labels = [load_labels(store, train, test, target) for target in targets[1:]]
    for target in targets[1:]:
        job.check_target(store, target)
    tasks = [first.task.relabelled(own.train, own.test, own.classes) for own in labels]
    states = share_labels(first.shared, tasks)
    return [first, *(replace(first, task=s.task, shared=s) for s in states)]


def held_out(cache: Cache, job: Job, loaded: Loaded, target: str, limit: int | None) -> HeldOut:
    """What choosing l2 by held-out rows needs of a loaded task."""
    key = (*loaded.rows_key, target, *job.task_settings, "held out")
    return cache.get(key, lambda: hold_out(loaded.task, job.plan.standardize, job.device, limit))


def _load(
    cache: Cache, job: Job, layer: str, target: str, train: str, test: str, found: "Moments | None"
) -> Loaded:
    store = cache.open(job.store)
    job.check_unchanged(store, layer, target)
    labels = load_labels(store, train, test, target)
    keeps = {train: labels.train_keep, test: labels.test_keep}
    bits = tuple(np.packbits(keep).tobytes() for keep in keeps.values())
    rows_key = (job.store, *job.digests_of(layer, "label"), layer, train, test, bits, job.plan.standardize)
    same = cache.like(rows_key)
    if same is not None and same.task.weights is None:
        rows = {
            train: Rows(same.task.train, same.task.mean, same.task.scale),
            test: Rows(same.task.test),
        }
    else:
        same, rows = None, load_rows(store, layer, keeps, job.working_memory)
    weight = job.plan.class_weight
    task = weigh_classes(
        make_task(rows[train], rows[test], labels, layer),
        dict(weight) if isinstance(weight, tuple) else weight,
    )
    known = None if same is None or task.weights is not None else same.shared
    shared = task_moments(task, job.plan.standardize, job.device, job.working_memory, found, known)
    names = [_names(store, union)[keeps[union]] for union in (train, test)]
    return Loaded(task, shared, rows_key, labels.test_keep, *names)


def _names(store: "Store", union: str) -> np.ndarray:
    return np.concatenate([np.asarray(store.samples(split), dtype=object) for split in splits_of(union)])
