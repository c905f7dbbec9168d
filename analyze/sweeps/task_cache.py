"""Tasks that a process keeps between blocks: rows of a layer, what they are labelled with, their moments.

Targets of one layer share its rows and their Gram matrix, so that forty targets cost one pass over the data.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.analyze.probes.fit import pick_device, task_moments
from probecache.analyze.probes.kind import claims
from probecache.analyze.probes.l2_choice.select_l2 import HeldOut, hold_out
from probecache.analyze.probes.share import Known, share_labels
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.sweeps.job import Job
from probecache.analyze.sweeps.whole_rows import WholeRows, has_room
from probecache.analyze.tasks.class_weights import weigh_classes
from probecache.analyze.tasks.labels import load_labels, splits_of
from probecache.analyze.tasks.load import Rows, load_rows, make_task
from probecache.analyze.tasks.task import Task
from probecache.store.layout import OK

if TYPE_CHECKING:
    from probecache.analyze.probes.design.gram import Moments
    from probecache.store.reader import Store


@dataclass(frozen=True, eq=False)
class Loaded:
    """A task as it was loaded. train_key, test_key: what its rows are, whatever they are labelled with;
    test_keep: bool over all rows of the test split; train_names, test_names: of the kept samples, where the
    plan draws by them; make: computes what its blocks share, once it is asked for."""

    task: Task
    train_key: tuple[Any, ...]
    test_key: tuple[Any, ...]
    test_keep: np.ndarray
    train_names: np.ndarray
    test_names: np.ndarray
    make: Callable[[], SharedState]

    @cached_property
    def shared(self) -> SharedState:
        """What the blocks of the task share; seeds that draw rows have no part in it."""
        return self.make()

    @property
    def made(self) -> SharedState | None:
        """`shared`, where something has asked for it."""
        return self.__dict__.get("shared")


@dataclass
class Cache:
    """Tasks of this process, least recently used first, within `limit` bytes (None: without limit)."""

    limit: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # one block at a time, on all threads
    held: "OrderedDict[tuple[Any, ...], Loaded | HeldOut | WholeRows]" = field(default_factory=OrderedDict)
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

    def tasks(self) -> "list[Loaded]":
        """The tasks that are held, least recently used first."""
        return [value for value in self.held.values() if isinstance(value, Loaded)]

    def like(self, train_key: tuple[Any, ...]) -> "Loaded | None":
        """A task without weights that is held, with what its blocks share, whose training rows are these."""
        for value in reversed(self.tasks()):
            if value.train_key == train_key and value.task.weights is None and value.made is not None:
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


Held = Loaded | HeldOut | WholeRows


def _parts(held: Held) -> Iterator[tuple[int, int]]:
    """(identity, bytes) of what is held."""
    if isinstance(held, WholeRows):
        yield id(held), held.nbytes
        return
    for matrix in (held.task.train, held.task.test):
        yield id(matrix), getattr(matrix, "nbytes", 0)
    shared = held.made if isinstance(held, Loaded) else held.shared
    if shared is not None:
        yield id(shared), shared.nbytes


def load(
    cache: Cache, job: Job, layer: str, target: str, train: str, test: str, found: "Moments | None" = None
) -> Loaded:
    """The task of one layer and target, from the cache or the store.

    found: the moments of a layer that stays on disk, where a cluster summed them up.
    """
    key = (job.store, *job.digests_of(layer, target), layer, target, train, test, *job.task_settings)
    return cache.get(key, lambda: _load(cache, job, layer, target, train, test, found))


def load_together(
    cache: Cache,
    job: Job,
    layer: str,
    targets: tuple[str, ...],
    splits: tuple[str, str],
    found: "Moments | None" = None,
) -> list[Loaded]:
    """`load` of targets over the same rows, and without weights: one pass serves all."""
    train, test = splits
    first = load(cache, job, layer, targets[0], train, test, found)
    store = cache.open(job.store)
    labels = [load_labels(store, train, test, target) for target in targets[1:]]
    for target in targets[1:]:
        job.check_target(store, target)
    tasks = [first.task.relabelled(own.train, own.test, own.task_classes) for own in labels]
    return [
        first,
        *(replace(first, task=s.task, make=partial(_same, s)) for s in share_labels(first.shared, tasks)),
    ]


def _same(state: SharedState) -> SharedState:
    return state


def held_out(cache: Cache, job: Job, loaded: Loaded, target: str, limit: int | None) -> HeldOut:
    """What choosing l2 by held-out rows needs of a loaded task."""
    key = (*loaded.train_key, *loaded.test_key, target, *job.task_settings, "held out")
    exact = not claims(job.kind, "rough_moments")
    return cache.get(key, lambda: hold_out(loaded.task, job.plan.standardize, job.device, limit, exact))


def _load(
    cache: Cache, job: Job, layer: str, target: str, train: str, test: str, found: "Moments | None"
) -> Loaded:
    store = cache.open(job.store)
    job.check_unchanged(store, layer, target)
    labels = load_labels(store, train, test, target)
    keeps = {train: labels.train_keep, test: labels.test_keep}
    keys = {union: _rows_key(job, layer, union, keep) for union, keep in keeps.items()}
    rows = _load_rows(cache, job, layer, keeps, keys)
    weight = job.plan.class_weight
    task = weigh_classes(
        make_task(rows[train], rows[test], labels, layer),
        dict(weight) if isinstance(weight, tuple) else weight,
    )
    typed = job.plan.control == "random"  # which draws by sample names
    names = [_names(store, union)[keeps[union]] if typed else np.array([]) for union in (train, test)]

    def make() -> SharedState:
        plan, limit = job.plan, job.working_memory
        plain = task.weights is None and found is None
        same = cache.like(keys[train]) if plain else None
        known = None if same is None else same.made
        if known is not None and same is not None and same.test_key != keys[test]:
            known = replace(known, test_rows=None)  # other test rows than those that are on the device
        whole = _whole(cache, job, layer, keeps) if plain and known is None else None
        gram = None if whole is None else whole.gram_of(task, labels.train_keep)
        exact = not claims(job.kind, "rough_moments")
        return task_moments(task, plan.standardize, job.device, limit, Known(found, known, gram), exact)

    return Loaded(task, keys[train], keys[test], labels.test_keep, names[0], names[1], make)


def _rows_key(job: Job, layer: str, union: str, keep: np.ndarray) -> tuple[Any, ...]:
    bits = np.packbits(keep).tobytes()
    return (job.store, *job.digests_of(layer, "label"), layer, union, bits, job.plan.standardize)


def _load_rows(
    cache: Cache, job: Job, layer: str, keeps: dict[str, np.ndarray], keys: dict[str, tuple[Any, ...]]
) -> dict[str, Rows]:
    """The kept rows of each split: those that a task holds already, or from the store."""
    found: dict[str, Rows] = {}
    for value in cache.tasks():
        for union, key in keys.items():
            if value.train_key == key:
                found[union] = Rows(value.task.train, value.task.mean, value.task.scale)
            elif value.test_key == key:
                found.setdefault(union, Rows(value.task.test))
    whole = _whole(cache, job, layer, keeps) if len(found) < len(keeps) else None
    if whole is not None:
        return whole.of({union: keep for union, keep in keeps.items() if union not in found}) | found
    return load_rows(cache.open(job.store), layer, keeps, job.working_memory, found)


def _whole(cache: Cache, job: Job, layer: str, keeps: dict[str, np.ndarray]) -> WholeRows | None:
    """All usable rows, where the sweep's targets label different ones and there is room beside their own."""
    if not job.rows_differ:
        return None
    store, limit, train = cache.open(job.store), job.working_memory, next(iter(keeps))
    usable = {
        union: np.concatenate([np.asarray(store.status(split)) == OK for split in splits_of(union)])
        for union in keeps
    }
    width = int(store.shape(splits_of(train)[0], layer)[1])
    if not has_room({union: (int(rows.sum()), width) for union, rows in usable.items()}, limit):
        return None
    keys = [_rows_key(job, layer, union, rows) for union, rows in usable.items()]
    key, device = (*keys, "whole"), pick_device(job.device)
    standardize = job.plan.standardize
    return cache.get(
        key, lambda: WholeRows(load_rows(store, layer, usable, limit), usable, train, standardize, device)
    )


def _names(store: "Store", union: str) -> np.ndarray:
    return np.concatenate([np.asarray(store.samples(split), dtype=object) for split in splits_of(union)])
