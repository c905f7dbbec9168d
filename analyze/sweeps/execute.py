"""Run blocks somewhere and yield what became of each: in this process in order, or on a Dask cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.job import Job
from probecache.analyze.sweeps.task_cache import Cache
from probecache.analyze.sweeps.worker import CACHE_SHARE, run_block
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, Future

    from probecache.analyze.probes.design.gram import Moments
    from probecache.store.reader import Store

TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """A finished block: its arrays, or the error that ended its last try, and whether it is the caller's."""

    block: Block
    values: dict[str, Any] | None
    error: str = ""
    wrong_input: bool = False


def run_here(
    blocks: Sequence[Block], job: Job, store: "Store", cache: Cache | None = None
) -> Iterator[Outcome]:
    """Blocks one after the other in this process. An error is tried again, unless the input is wrong.

    cache: kept by a caller that runs several plans on the same layers.
    """
    cache = Cache() if cache is None else cache
    cache.limit = None if job.memory_limit is None else int(CACHE_SHARE * job.memory_limit)
    cache.stores[job.store] = store
    for block in blocks:
        error: Exception | None = None
        for _ in range(TRIES):
            try:
                values = run_block(block, job, cache)
            except InputError as wrong:
                error = wrong
                break
            except Exception as failed:  # whatever a solver raises must not lose the blocks that follow
                error = failed
            else:
                yield Outcome(block, values)
                break
        else:
            yield Outcome(block, None, describe(error))
            continue
        if isinstance(error, InputError):
            yield Outcome(block, None, describe(error), wrong_input=True)


def run_on(
    client: "Client",
    blocks: Sequence[Block],
    job: Job,
    resources: dict[str, float] | None = None,
    moments: "Mapping[str, Future] | None" = None,
) -> Iterator[Outcome]:
    """Blocks on a cluster, in the order in which they finish.

    A block whose worker dies goes to another one; one that raises, or kills its workers, three times is
    given up. resources: what a worker must offer, {"GPU": 1} for workers started with that tag.
    moments: of layers that stay on disk, from `distributed_moments`, so that the workers share that pass.
    """
    from distributed import as_completed

    from probecache.analyze.sweeps.cluster import prepare

    prepare(client, job.memory_limit)
    options = {"pure": False, "retries": TRIES - 1, "resources": resources}
    futures = {}
    for i, block in enumerate(blocks):
        found = (moments or {}).get(block.layer)
        future = client.submit(run_on_worker, block, job, found, priority=-i, key=f"block-{i}", **options)
        futures[future] = block
    finished = as_completed(list(futures), raise_errors=False)
    try:
        for future in finished:
            block = futures.pop(future)
            # Both calls wait: a result lost with its worker after it was announced is computed again.
            error = future.exception()
            wrong = isinstance(error, InputError)
            yield (Outcome(block, None, describe(error), wrong) if error else Outcome(block, future.result()))
            future.release()  # the scheduler and the workers forget the arrays: they are committed
    finally:
        client.cancel(list(futures))


def run_on_worker(block: Block, job: Job, found: "Moments | None" = None) -> dict[str, Any]:
    from probecache.analyze.sweeps.cluster import this_worker

    worker = this_worker()
    return run_block(block, replace(job, memory_limit=worker.memory_limit), worker.cache, found)


def describe(error: BaseException | None) -> str:
    """An error in one line: its type and the first line of its message."""
    first = (str(error).strip() or "no message").split("\n")[0]
    return first if isinstance(error, InputError) else f"{type(error).__name__}: {first}"
