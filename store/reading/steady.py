"""Read beside a living writer: what changes between two reads is read again, and is not called damage."""

import time
from collections.abc import Callable
from typing import TypeVar

from probecache.store.claims import being_written
from probecache.store.errors import DamagedStore, UnfinishedSplit
from probecache.store.storage.files import Files

Read = TypeVar("Read")
_TRIES = 6


def steady(files: Files, split: str, read: Callable[[], Read], forget: Callable[[], None]) -> Read:
    """`read()`, once more where it met damage, after `forget()`: a writer may have changed it meanwhile.

    Beside a living writer it is tried for a second and a half; what the writer's claim covers is not damaged
    but unfinished.
    """
    for attempt in range(_TRIES):
        try:
            return read()
        except DamagedStore as error:
            holder = being_written(files, split)
            if attempt > 1 and holder is None:
                raise
            if attempt == _TRIES - 1:
                holder = None if error.shard is None else being_written(files, split, error.shard)
                if holder is None:
                    raise
                raise UnfinishedSplit(
                    f"split {split!r} in {files.url}: shard {error.shard} is being written by {holder}: "
                    "read it again when that is done"
                ) from None
            if attempt:
                time.sleep(0.05 * 2**attempt)
            forget()
    raise AssertionError
