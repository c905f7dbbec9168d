"""Dask clusters: workers of this machine, its GPUs, or a scheduler that runs already."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import psutil
from distributed import Client, LocalCluster, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from probecache.analyze.sweeps.task_cache import Cache
from probecache.analyze.sweeps.worker import CACHE_SHARE
from probecache.store.errors import InputError, ProbecacheError

if TYPE_CHECKING:
    from distributed import Worker

PLUGIN = "probecache"
DASHBOARD = "127.0.0.1:0"


@contextmanager
def connect(
    workers: int | None = None,
    scheduler: str | None = None,
    gpus: str | None = None,
    memory_limit: int | None = None,
) -> Iterator[Client | None]:
    """A client of the cluster asked for, closed with it at the end; None where nothing was asked for.

    workers: processes on this machine, which share its cores and `memory_limit` (bytes; default 80% of the
    memory that is free) evenly. gpus: "all" or device numbers, one process each (needs dask-cuda).
    scheduler: the address of any Dask scheduler, whose workers can import probecache and reach the store.
    """
    if sum(choice is not None for choice in (workers, scheduler, gpus)) > 1:
        raise InputError("got more than one of --workers, --scheduler and --gpus; give one")
    if scheduler is not None:
        with _connect_to(scheduler) as client:
            yield client
    elif gpus is not None:
        with _gpu_cluster(gpus) as cluster, Client(cluster) as client:
            yield client
    elif workers is not None:
        if workers < 1:
            raise InputError(f"got --workers {workers}; allowed: 1 or more")
        total = memory_limit or int(0.8 * psutil.virtual_memory().available)
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=total // workers,
                env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))},
                dashboard_address=DASHBOARD,
                host="127.0.0.1",
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
    else:
        yield None


def _connect_to(address: str) -> Client:
    try:
        return Client(address, timeout="5s")
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"got --scheduler {address}, which does not answer: {reason}; start `dask scheduler`"
        ) from None


def _gpu_cluster(gpus: str) -> Any:
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"got --gpus {gpus}, and this machine has no CUDA device; use --workers")
    if find_spec("dask_cuda") is None:
        raise InputError(f"got --gpus {gpus} without dask-cuda; install probecache[gpu-cu12] or [gpu-cu13]")
    from dask_cuda import LocalCUDACluster

    devices = None if gpus == "all" else gpus
    return LocalCUDACluster(CUDA_VISIBLE_DEVICES=devices, dashboard_address=DASHBOARD, resources={"GPU": 1})


def worker_table(client: Client) -> list[dict[str, Any]]:
    """Threads, memory limit and resources of each worker; ProbecacheError where none comes in ten seconds."""
    try:
        client.wait_for_workers(1, timeout=10)
    except TimeoutError:
        raise ProbecacheError(
            "the scheduler has no workers; start `dask worker ADDRESS` and try again"
        ) from None
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def prepare(client: Client, memory_limit: int | None = None) -> None:
    """Give every worker, those that join later too, a cache and its share of the threads.

    memory_limit: bytes of a worker's process; by default the limit that each worker was started with.
    """
    client.register_plugin(ProbeWorker(memory_limit), name=PLUGIN)


def this_worker() -> "ProbeWorker":
    plugin = get_worker().plugins[PLUGIN]
    assert isinstance(plugin, ProbeWorker)
    return plugin


class ProbeWorker(WorkerPlugin):
    """Per worker process: the cache of tasks, bounded by the worker's memory limit, and capped threads.

    One block runs at a time in a process. It uses the threads that the worker was started with, or where they
    are more, those that OMP_NUM_THREADS names (`connect` shares this machine's cores out by it).
    """

    def __init__(self, memory_limit: int | None = None) -> None:
        self.memory_limit = memory_limit
        self.cache = Cache()

    def setup(self, worker: "Worker") -> None:
        import torch
        from threadpoolctl import threadpool_limits

        self.memory_limit = self.memory_limit or worker.memory_manager.memory_limit
        self.cache = Cache(int(CACHE_SHARE * self.memory_limit) if self.memory_limit else None)
        threads = max(worker.state.nthreads, int(os.environ.get("OMP_NUM_THREADS", 1)))
        torch.set_num_threads(threads)
        threadpool_limits(threads)

    def __getstate__(self) -> dict[str, Any]:
        return {"memory_limit": self.memory_limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
