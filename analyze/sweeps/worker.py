"""What runs where a block is computed: its layer from a per-process cache, its probes, its arrays.

The same `run_block` serves this process, a worker of a Dask cluster and a GPU. Workers open the store
themselves, so that no matrix travels; a task and its moments stay in the process until others need the room.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.analyze.probes.kind import TOL, Kind, ProbeRequest
from probecache.analyze.probes.select_l2 import FOLDED, fit_chosen, hold_out
from probecache.analyze.selections.projections import select
from probecache.analyze.selections.subsets import sizes
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.cost import BASELINE
from probecache.analyze.sweeps.solvers import solve
from probecache.analyze.tasks.class_weights import weigh_classes
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from probecache.analyze.probes.design.gram import Moments
    from probecache.analyze.probes.select_l2 import HeldOut
    from probecache.analyze.probes.shared_state import SharedState
    from probecache.analyze.tasks.task import Task
    from probecache.store.reader import Store

# Share of the memory limit that cached tasks may hold; the rest is for the block at work.
CACHE_SHARE = 0.5
AXES = ("seeds", "fractions", "l2s")  # of every array of a block
ARRAYS = ("accuracy", "objective", "grad_norm", "n_iter", "converged", "seconds", "class_accuracy")


@dataclass(frozen=True)
class Job:
    """All that a block needs beside its own coordinates; a few hundred bytes, sent with every block.

    digests: (layer, digest) of what is read, so that a store that changed under a running sweep is noticed.
    memory_limit: bytes for the process, or None.
    """

    store: str
    train: str
    test: str
    kind: Kind
    solver: str
    standardize: bool
    device: str
    memory_limit: int | None
    digests: tuple[tuple[str, str], ...]
    class_weight: str | tuple[tuple[str, float], ...] | None = None
    tol: float = TOL


@dataclass
class Cache:
    """Tasks of this process, least recently used first, within `limit` bytes (None: without limit)."""

    limit: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # one block at a time, on all threads
    held: OrderedDict[tuple, Any] = field(default_factory=OrderedDict)
    stores: dict[str, "Store"] = field(default_factory=dict)  # opened once each

    def open(self, path: str) -> "Store":
        if path not in self.stores:
            from probecache.store.reader import open_store

            self.stores[path] = open_store(path)
        return self.stores[path]

    def get(self, key: tuple, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """What `make()` gave for `key`, made once; before that the oldest go, as if it were the largest."""
        if key not in self.held:
            self._make_room(size)
            self.held[key] = make()
        self.held.move_to_end(key)
        return self.held[key]

    def _make_room(self, size: Callable[[Any], int]) -> None:
        """Sizes are taken anew each time: what is held grows as blocks prepare more for a task."""
        while self.limit is not None and self.held:
            sizes = [size(value) for value in self.held.values()]
            if sum(sizes) + max(sizes) <= self.limit:
                return
            self.held.popitem(last=False)


def run_block(block: Block, job: Job, cache: Cache, found: "Moments | None" = None) -> dict[str, Any]:
    """The block's arrays, (seed, fraction, l2[, class]), and its attributes under the key "attrs".

    Where memory runs out, the block's halves are computed one after the other; one probe that does not fit
    raises MemoryError. found: the moments of a layer that stays on disk, where a cluster summed them up.
    """
    with cache.lock:
        begun = time.perf_counter()
        values = _run(block, job, cache, found)
        # loading the layer and its moments is part of what the probes took
        values["seconds"] *= (time.perf_counter() - begun) / values["seconds"].sum()
        return values


def _run(block: Block, job: Job, cache: Cache, found: "Moments | None") -> dict[str, Any]:
    try:
        return _fit(block, job, cache, found)
    except (MemoryError, RuntimeError) as error:
        halves = block.halves()
        if not is_out_of_memory(error) or len(halves) == 1:
            raise
    free_device_memory()
    cut = [name for name in AXES if getattr(halves[0], name) != getattr(block, name)]
    return _join([_run(half, job, cache, found) for half in halves], AXES.index(cut[0]))


def _fit(block: Block, job: Job, cache: Cache, found: "Moments | None") -> dict[str, Any]:
    digest = dict(job.digests)[block.layer]
    key = (job.store, digest, block.layer, job.train, job.test, job.standardize, job.class_weight)
    task, shared = cache.get(
        key, lambda: _load(cache.open(job.store), block.layer, digest, job, found), _size
    )
    limit = working_memory(job.memory_limit)
    parts = []
    for picked in select(task, block.selection, block.seeds, standardize=job.standardize):
        same = picked.task is task
        request = ProbeRequest(
            job.kind,
            picked.orders,
            sizes(block.fractions, task.n_neurons),
            np.asarray(block.path or block.l2s, np.float64),
            seeds=picked.seeds[: len(picked.orders)],
            standardize=job.standardize,
            device=job.device,
            memory_limit=limit,
            tol=job.tol,
        )
        fit, mine, chosen = partial(solve, solver=job.solver), shared if same else None, {}
        if block.path:
            held = None
            if same and job.kind.l2_choice != FOLDED:
                options = (job.standardize, job.device, limit)
                held = cache.get((*key, "held out"), partial(hold_out, task, *options), _size)
            result, chosen["chosen_l2"] = fit_chosen(picked.task, request, shared=mine, held=held, fit=fit)
        else:
            result = fit(picked.task, request, mine)
        # one order may stand for several seeds: (1, f, p) -> (seeds, f, p)
        repeat = len(picked.seeds) // len(picked.orders)
        whole = {name: getattr(result, name) for name in ARRAYS} | chosen
        arrays = {name: np.repeat(values, repeat, axis=0) for name, values in whole.items()}
        parts.append(arrays | {"attrs": dict(result.attrs)})
    return _join(parts, 0)


def working_memory(limit: int | None) -> int | None:
    """What of a process's limit is left for data: less what an interpreter with its libraries takes."""
    return None if limit is None else max(limit // 4, limit - BASELINE)


def _load(
    store: "Store", layer: str, digest: str, job: Job, found: "Moments | None"
) -> "tuple[Task, SharedState]":
    from probecache.analyze.probes.fit import task_moments
    from probecache.analyze.tasks.task import load_task

    now = layer_digest(store, layer, job.train, job.test)
    if now != digest:
        raise InputError(
            f"{job.store} changed while the sweep ran: layer {layer!r} is {now}, it was {digest}"
        )
    limit = working_memory(job.memory_limit)
    task = load_task(store, layer, job.train, job.test, memory_limit=limit)
    weight = dict(job.class_weight) if isinstance(job.class_weight, tuple) else job.class_weight
    task = weigh_classes(task, weight)
    return task, task_moments(task, job.standardize, job.device, limit, found)


def layer_digest(store: Any, layer: str, train: str, test: str) -> str:
    """What identifies the rows that the probes of a layer see: the digests of both splits."""
    return f"{store.digest(train, layer)}+{store.digest(test, layer)}"


def _size(held: "tuple[Task, SharedState] | HeldOut") -> int:
    task, shared = held if isinstance(held, tuple) else (held.task, held.shared)
    matrices = sum(getattr(matrix, "nbytes", 0) for matrix in (task.train, task.test))
    return matrices + shared.nbytes


def _join(parts: list[dict[str, Any]], axis: int) -> dict[str, Any]:
    """The arrays of a block from those of its parts, which cut it along `axis`."""
    names = [name for name in parts[0] if name != "attrs"]
    joined = {name: np.concatenate([part[name] for part in parts], axis) for name in names}
    return joined | {"attrs": parts[0]["attrs"]}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: numpy's, torch's on CPU and CUDA, CuPy's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def free_device_memory() -> None:
    """Give torch's cached CUDA blocks back, so that a smaller try finds them."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
