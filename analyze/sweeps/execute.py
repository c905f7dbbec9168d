"""Run blocks in this process, in order, and yield what became of each."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.job import Job
from probecache.analyze.sweeps.task_cache import Cache
from probecache.analyze.sweeps.worker import CACHE_SHARE, run_block
from probecache.store.errors import InputError, first_line

if TYPE_CHECKING:
    from probecache.store.reader import Store

TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """A finished block: its arrays, or the error that ended its last try, and whether it is the caller's."""

    block: Block
    values: dict[str, Any] | None
    error: str = ""
    wrong_input: bool = False


class Deadline:
    """When a run must have ended, by this process's clock; None: never."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._longest = 0.0

    @property
    def left(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()

    def took(self, seconds: float) -> None:
        """Note how long a block took."""
        self._longest = max(self._longest, seconds)

    def allows_another(self) -> bool:
        """Whether a block as long as the longest so far would end in time."""
        return self.left is None or self.left > self._longest


def run_here(
    blocks: Sequence[Block],
    job: Job,
    store: "Store",
    cache: Cache | None = None,
    deadline: Deadline | None = None,
) -> Iterator[Outcome]:
    """Blocks one after the other in this process. An error is tried again, unless the input is wrong.

    cache: kept by a caller that runs several plans on the same layers. deadline: before which no block is
    begun that would not end in time.
    """
    cache = Cache() if cache is None else cache
    cache.limit = None if job.memory_limit is None else int(CACHE_SHARE * job.memory_limit)
    cache.stores[job.store] = store
    deadline = deadline or Deadline(None)
    for block in blocks:
        if not deadline.allows_another():
            return
        begun = time.monotonic()
        yield _try(block, job, cache)
        deadline.took(time.monotonic() - begun)


def _try(block: Block, job: Job, cache: Cache) -> Outcome:
    error: Exception | None = None
    for _ in range(TRIES):
        try:
            return Outcome(block, run_block(block, job, cache))
        except InputError as wrong:
            return Outcome(block, None, describe(wrong), wrong_input=True)
        except Exception as failed:  # whatever a solver raises must not lose the blocks that follow
            error = failed
    assert error is not None  # TRIES is at least 1
    return Outcome(block, None, describe(error))


def describe(error: BaseException) -> str:
    """An error in one line: its type and the first line of its message."""
    first = first_line(error, "no message")
    return first if isinstance(error, InputError) else f"{type(error).__name__}: {first}"
