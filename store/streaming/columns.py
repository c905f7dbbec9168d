"""Numbers that come with each row of a stream (a token's position): targets, written shard by shard."""

from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.errors import DamagedStore, FingerprintMismatch
from probecache.store.format import chunks, metadata
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Split
from probecache.store.format.target_array import TargetArray
from probecache.store.layout import Shard
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]


def column_array(split: Split, name: str) -> TargetArray:
    """A column as a target of numbers, none of whose chunks is there."""
    return TargetArray(
        split.name, name, "numbers", (name,), split.geometry, ((0, 0),) * split.geometry.n_shards
    )


def write_column(files: Files, column: TargetArray, shard: Shard, values: Array) -> None:
    """A shard's chunk: durable before the shard's layers are, vouched for at the stream's end."""
    files.write({column.chunk_key(shard): [column.encode(values)[0]]})


def read_column(files: Files, column: TargetArray, shard: Shard) -> Array:
    """The rows (rows,) of a chunk that a stream wrote; DamagedStore if it is not whole."""
    try:
        raw = files.read_many([column.chunk_key(shard)], column.chunk_bytes)[0]
        payload, _ = chunks.unsealed(raw, column.chunk_bytes - 4)
    except BadChunk as error:
        raise DamagedStore(
            f"{files.url}: column {column.name!r} of split {column.split!r}, shard {shard.index}: {error} "
            "(write the stream into another split)",
            str(error),
        ) from None
    return np.frombuffer(payload, "<f8")[: shard.rows]


def finish_column(files: Files, split: Split, name: str) -> None:
    """The document that vouches for every chunk of a column."""
    column = column_array(split, name)
    commits = [column.encode(read_column(files, column, s))[1] for s in split.geometry.shards()]
    done = TargetArray(split.name, name, "numbers", (name,), split.geometry, tuple(commits))
    if name in catalog.target_names(files, split) and catalog.read_target(files, split, name) != done:
        raise FingerprintMismatch(
            f"target {name!r} of split {split.name!r} in {files.url} holds other values"
        )
    files.write({f"{done.key}/zarr.json": [metadata.render(done.document())]})
