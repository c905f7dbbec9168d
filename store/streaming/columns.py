"""Numbers that come with each row of a stream (a token's position): kept shard by shard, a target at its end.

STORE/train/position/rows/0 ...     a shard's numbers, until the stream ends
"""

from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.errors import DamagedStore
from probecache.store.format import chunks
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Split
from probecache.store.format.target_array import TargetArray
from probecache.store.layout import Shard
from probecache.store.reading.targets import read_chunks
from probecache.store.storage.files import Files, read_piece
from probecache.store.targets import Target
from probecache.store.writing.targets import store_targets

Array = np.ndarray[Any, Any]


def column_array(split: Split, name: str) -> TargetArray:
    """A column as a target of numbers, a chunk of it for each shard, none of which is there."""
    return TargetArray(
        split.name, name, "numbers", (name,), split.geometry, ((0, 0),) * split.geometry.n_shards
    )


def write_column(files: Files, column: TargetArray, shard: Shard, values: Array) -> None:
    """A shard's numbers: durable before the shard's layers are."""
    files.write({_key(column, shard): [column.encode(values)[0]]})


def read_column(files: Files, split: Split, column: TargetArray, shard: Shard) -> Array:
    """The rows (rows,) of a shard, of this stream or one that ended; DamagedStore if they are not whole."""
    raw = read_piece(files, _key(column, shard), column.chunk_bytes)
    if raw is None:
        stored = catalog.find_target(files, catalog.read_split(files, split.name), column.name)
        found = None if stored is None else _of_target(files, stored, shard)
        if found is not None:
            return found
    if raw is None:  # of a stream that a probecache before 0.2 broke off
        raw = read_piece(files, column.chunk_key(shard), column.chunk_bytes)
    try:
        payload, _ = chunks.unsealed(raw, column.chunk_bytes - 4)
    except BadChunk as error:
        raise DamagedStore(
            f"{files.url}: column {column.name!r} of split {column.split!r}, shard {shard.index}: {error} "
            "(write the stream into another split)",
            str(error),
        ) from None
    return np.frombuffer(payload, "<f8")[: shard.rows]


def finish_column(files: Files, split: Split, name: str) -> None:
    """Make a target of a column. FingerprintMismatch where one of that name holds other values."""
    column, shards = column_array(split, name), list(split.geometry.shards())
    values = np.concatenate([read_column(files, split, column, s) for s in shards]).reshape(-1, 1)
    store_targets(files, split.name, [Target(name, "numbers", values, (name,))])
    there = set(files.names(f"{column.key}/rows"))
    files.delete_many([_key(column, s) for s in shards if str(s.index) in there])


def _of_target(files: Files, stored: TargetArray, shard: Shard) -> Array | None:
    """A shard's rows of a target that is there; None where they are not all in it."""
    index = shard.start // stored.geometry.shard_rows
    one = stored.geometry.shard(index)
    found = read_chunks(files, stored, [one])[0]
    inside = slice(shard.start - one.start, shard.stop - one.start)
    return None if isinstance(found, BadChunk) or len(found) < inside.stop else found[inside, 0]


def _key(column: TargetArray, shard: Shard) -> str:
    return f"{column.key}/rows/{shard.index}"
