"""What runs in a worker of a Dask cluster: one block at a time, in a process that first shows who it is."""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.cluster.installation import differences, identity, versions
from probecache.analyze.sweeps.job import Job
from probecache.analyze.sweeps.task_cache import Cache
from probecache.analyze.sweeps.worker import CACHE_SHARE, run_block
from probecache.analyze.threads import threads_asked
from probecache.store.errors import InputError, ProbecacheError, first_line

if TYPE_CHECKING:
    from probecache.analyze.probes.design.gram import Moments


class UnfitWorker(ProbecacheError):
    """A worker that cannot take part, whatever the block: its address, and why."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address, self.why = address, why

    def __str__(self) -> str:
        return f"worker {self.address} {self.why}"


class _Process:
    """This process's cache of tasks and its threads, made when its first block comes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.cache: Cache | None = None
        self.threads = 0

    def ready(self, limit: int | None, threads: int) -> Cache:
        with self.lock:
            if self.cache is None:
                self.cache = Cache()
            self.cache.limit = int(CACHE_SHARE * limit) if limit else None
            if threads != self.threads:
                import torch
                from threadpoolctl import threadpool_limits

                torch.set_num_threads(threads)
                threadpool_limits(threads)
                self.threads = threads
            return self.cache


_PROCESS = _Process()


def run_on_worker(
    block: Block, job: Job, asked: dict[str, str], found: "Moments | None" = None
) -> dict[str, Any]:
    """`run_block` on a worker of the same installation as the client's (`asked`) that can read the store.

    It uses the threads that the worker was started with, or where they are more, those that OMP_NUM_THREADS
    names (`connect` shares this machine's cores out by it). Memory: the job's limit, or the worker's own.
    Raises UnfitWorker where the fault is the worker's.
    """
    from distributed import get_worker

    worker = get_worker()
    differing = _differs(asked)
    if differing:
        raise UnfitWorker(worker.address, f"has another installation: {differing}")
    limit = job.memory_limit or worker.memory_manager.memory_limit
    threads = max(worker.state.nthreads, threads_asked())
    cache = _PROCESS.ready(limit, threads)
    try:
        cache.open(job.store)
    except Exception as error:
        raise UnfitWorker(worker.address, f"cannot read the store: {first_line(error)}") from None
    try:
        values = run_block(block, replace(job, memory_limit=limit), cache, found)
    except (OSError, ProbecacheError) as error:
        if isinstance(error, InputError):
            raise
        raise UnfitWorker(worker.address, f"failed to read the store: {first_line(error)}") from None
    values["attrs"] = {**values["attrs"], "versions": versions()}
    return values


def introduce(job: Job) -> dict[str, Any]:
    """Who this process is, and why it cannot read the store, or an empty text."""
    why = ""
    try:
        from probecache.store.reader import open_store

        store = open_store(job.store)
        for layer in job.plan.layer:
            for target in job.plan.target:
                job.check_unchanged(store, layer, target)
    except Exception as error:
        why = f"cannot read the store: {first_line(error)}"
    return {"identity": identity(), "why": why}


def _differs(asked: dict[str, str]) -> str:
    """How this worker differs from the client, as the client would say it."""
    return "" if asked == identity() else differences(asked).replace(" there", " in the client")
