"""Dask clusters: workers of this machine, its GPUs, or a scheduler that runs already."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from distributed import Client, LocalCluster
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.security import Security

from probecache.store.errors import InputError, ProbecacheError, first_line
from probecache.store.machine import usable_cores, usable_memory

DASHBOARD = "127.0.0.1:0"
ANSWER = 120.0  # seconds that a worker may take to answer: it may have to import torch first


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
    scheduler: the address of any Dask scheduler, whose workers can import probecache and reach the store;
    `tls://` addresses take certificates from Dask's configuration (distributed.comm.tls).
    """
    check_choice(workers, scheduler, gpus)
    if workers is None and scheduler is None and gpus is None:
        yield None
        return
    with _quiet():
        if scheduler is not None:
            with _connect_to(scheduler) as client:
                yield client
            return
        with _deaf_children():
            cluster = _gpu_cluster(gpus) if gpus is not None else _local_cluster(workers or 0, memory_limit)
        with _closed(cluster), Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _closed(cluster: Any) -> Iterator[None]:
    """The cluster, closed at the end. Dask asserts that a worker which it starts again while it closes had
    been started: one that had died a moment before is none of the caller's concern, and hid its result."""
    try:
        yield
    finally:
        with suppress(AssertionError):
            cluster.close()


def check_choice(workers: int | None, scheduler: str | None, gpus: str | None) -> None:
    """InputError unless at most one of the three is given, in its range."""
    if sum(choice is not None for choice in (workers, scheduler, gpus)) > 1:
        raise InputError("got more than one of --workers, --scheduler and --gpus; give one")
    if workers is not None and workers < 1:
        raise InputError(f"got --workers {workers}; allowed: 1 or more")


def _local_cluster(workers: int, memory_limit: int | None) -> LocalCluster:
    total = memory_limit or usable_memory()
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=total // workers,
        env={"OMP_NUM_THREADS": str(max(1, usable_cores() // workers))},
        dashboard_address=DASHBOARD,
        host="127.0.0.1",
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's loggers silent: what matters of what they say is told in our own lines."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started here do not hear Ctrl-C or a batch system's warning: this one ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect_to(address: str) -> Client:
    security: Security | None = None
    if address.startswith("tls://"):
        security = Security()
        if not security.get_tls_config_for_role("client").get("ca_file"):
            raise InputError(
                f"got --scheduler {address} without certificates; set distributed.comm.tls.ca-file and "
                "distributed.comm.tls.client.cert and .key in Dask's configuration (docs/sweeps.md)"
            )
    try:  # before there is a client, which would wait 10 s for itself and print a traceback as it goes
        scheme, place = parse_address(address)
        if scheme in ("tcp", "tls"):
            parse_host_port(place)
    except ValueError as error:
        raise InputError(
            f"got --scheduler {address} ({first_line(error)}); needed: tcp://HOST:PORT"
        ) from None
    try:
        return Client(address, timeout="5s", set_as_default=False, security=security)
    except (OSError, ValueError, TypeError) as error:
        reason = first_line(error)
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


def check_client(client: Any) -> None:
    """InputError for what is no client that can be waited for; ProbecacheError where no worker comes."""
    if not isinstance(client, Client):
        raise InputError(
            f"got a {type(client).__name__} for client; give distributed.Client(...) of a cluster or an "
            "address"
        )
    if client.asynchronous:
        raise InputError("got a client that is asynchronous; give one made without asynchronous=True")
    if client.status != "running":
        raise InputError(f"got a client that is {client.status}; make a new one")
    worker_table(client)


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker, by address: nthreads, memory_limit, resources, last_seen."""
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def worker_table(client: Client) -> list[dict[str, Any]]:
    """Threads, memory limit and resources of each worker; ProbecacheError where none comes in ten seconds."""
    try:
        client.wait_for_workers(1, timeout=10)
    except TimeoutError:
        raise ProbecacheError(
            "the scheduler has no workers; start `dask worker ADDRESS` and try again"
        ) from None
    return list(workers_of(client).values())


def ask(client: Client, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What a function gives on each worker, by address, or the error that it raised there: an OSError where
    the worker cannot be reached, TimeoutError where it gives no answer within `ANSWER` seconds, or has
    shown no sign of life for nearly as long."""
    known = workers_of(client)
    seen = {address: about.get("last_seen") or 0.0 for address, about in known.items()}
    newest = max(seen.values(), default=0.0)

    async def one(address: str) -> Any:
        if newest - seen[address] > 0.9 * ANSWER:  # asked before, as a rule: signs come every second or so
            return TimeoutError()
        # Each by itself: an answer for all of them waits for the last.
        asked = client.run(function, *arguments, workers=[address], on_error="return")
        try:
            return (await asyncio.wait_for(asked, ANSWER))[address]
        except OSError as error:
            return error

    async def each() -> list[Any]:
        return await asyncio.gather(*(one(address) for address in known))

    return dict(zip(known, client.sync(each), strict=True))
